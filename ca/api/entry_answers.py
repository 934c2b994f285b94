"""Plans for entries as messages."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from ca.entries.changes import ChangeKind, EntryChange, EntryProblem, Plan
from citadel._wire import admin_pb2 as pb
from citadel.wire import entry_to_wire

_PER_MESSAGE: Final = 500
_KINDS: Final = {
    ChangeKind.CREATED: pb.EntryChange.CREATED,
    ChangeKind.UPDATED: pb.EntryChange.UPDATED,
    ChangeKind.UNCHANGED: pb.EntryChange.UNCHANGED,
    ChangeKind.DELETED: pb.EntryChange.DELETED,
}


def plan_messages(plan: Plan) -> Iterator[pb.ApplyEntriesResponse]:
    """The problems of a plan, or its changes where it has none, in messages of bounded size."""
    if plan.problems:
        problems = map(_problem, plan.problems)
        while some := list(islice(problems, _PER_MESSAGE)):
            yield pb.ApplyEntriesResponse(problems=some)
        return
    changes = map(_change, plan.changes)
    while found := list(islice(changes, _PER_MESSAGE)):
        yield pb.ApplyEntriesResponse(changes=found)


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
