"""Single changes that came at the same time, made together: a commit costs the same for thirty as for one."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from ca.audit.model import Actor
from ca.entries.changes import EntryChange
from ca.entries.directory import EntryDirectory
from ca.entries.managed import refuse_managed
from ca.entries.planning import Planner
from citadel.entry import Entry
from citadel.errors import AlreadyExists, CitadelError, Reason

_MOST_TOGETHER: Final = 200


class Verb(Enum):
    """What somebody wants of an entry."""

    CREATE = auto()
    UPDATE = auto()
    DELETE = auto()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Wish:
    """One change that somebody waits for; of a deletion `wanted` is the entry as it was found. Compared by identity."""

    verb: Verb
    wanted: Entry
    by: Actor
    done: asyncio.Future[Entry]

    def change(self, planner: Planner, directory: EntryDirectory, same: str | None) -> EntryChange:
        """What it comes to. Raises the refusal."""
        if self.verb is Verb.DELETE:
            found = directory.get(self.wanted.id)
            refuse_managed(found)
            return EntryChange(before=found, after=None)
        plan = planner.plan([self.wanted], [same])
        [change] = plan.changes
        if self.verb is Verb.CREATE and change.before is not None:
            raise AlreadyExists(
                Reason.ENTRY_DUPLICATE,
                f"entry {change.before.id} has the same SPIFFE ID, parent and selectors",
                fix=f"look at it with `citadel-cli entry show {change.before.id}`",
            )
        for problem in plan.problems:
            raise problem.error
        return change

    def settle(self, outcome: Entry | CitadelError) -> None:
        """Tell who waits."""
        if self.done.done():
            return
        if isinstance(outcome, Entry):
            self.done.set_result(outcome)
        else:
            self.done.set_exception(outcome)

    def touches(self) -> Iterator[Hashable]:
        """What no other wish of the same transaction may touch: neither could be judged without the other."""
        if self.wanted.id:
            yield self.wanted.id
        yield (self.wanted.spiffe_id, self.wanted.parent_id, self.wanted.selectors)


def that_go_together(waiting: Sequence[Wish]) -> tuple[list[Wish], list[Wish]]:
    """The wishes that can be made true in one transaction, among them the first, and those that must wait."""
    together: list[Wish] = []
    later: list[Wish] = []
    touched: set[Hashable] = set()
    for wish in waiting:
        touches = set(wish.touches())
        if touched.isdisjoint(touches) and len(together) < _MOST_TOGETHER:
            together.append(wish)
        else:
            later.append(wish)
        touched |= touches  # also of those that wait: nobody overtakes who wants the same
    return together, later
