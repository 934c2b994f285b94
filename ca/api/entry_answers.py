"""Plans for entries as messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ca.entries.changes import ChangeKind, EntryChange, EntryProblem, Plan
from citadel._wire import admin_pb2 as pb
from citadel.wire import entry_to_wire

_PER_MESSAGE: Final = 500
_BYTES_PER_MESSAGE: Final = 1024 * 1024
_KINDS: Final = {
    ChangeKind.CREATED: pb.EntryChange.CREATED,
    ChangeKind.UPDATED: pb.EntryChange.UPDATED,
    ChangeKind.UNCHANGED: pb.EntryChange.UNCHANGED,
    ChangeKind.DELETED: pb.EntryChange.DELETED,
}


def plan_messages(plan: Plan) -> Iterator[pb.ApplyEntriesResponse]:
    """The problems of a plan, or its changes where it has none, in messages of bounded size."""
    answer, size = pb.ApplyEntriesResponse(), 0
    parts = map(_problem, plan.problems) if plan.problems else map(_change, plan.changes)
    for part in parts:
        more = part.ByteSize()
        number = len(answer.problems) + len(answer.changes)
        if number and (number >= _PER_MESSAGE or size + more > _BYTES_PER_MESSAGE):
            yield answer
            answer, size = pb.ApplyEntriesResponse(), 0
        if isinstance(part, pb.EntryProblem):
            answer.problems.append(part)
        else:
            answer.changes.append(part)
        size += more
    yield answer


def _problem(problem: EntryProblem) -> pb.EntryProblem:
    error = problem.error
    return pb.EntryProblem(
        index=problem.index,
        field=problem.field,
        reason=error.reason.value,
        message=error.message,
        fix=error.fix,
    )


def _change(change: EntryChange) -> pb.EntryChange:
    kind = change.kind
    is_update = kind is ChangeKind.UPDATED
    return pb.EntryChange(
        kind=_KINDS[kind],
        before=entry_to_wire(change.before)
        if change.before and kind in (ChangeKind.UPDATED, ChangeKind.DELETED)
        else None,
        after=entry_to_wire(change.after) if change.after else None,
        changed_fields=change.changed_terms() if is_update else (),
    )
