"""From the entries that are wanted to the changes that bring them about. Pure; every problem is found, not the first.

A wanted entry means an existing one by its id, or else by its SPIFFE ID, parent and selectors, which exist once. What
it does not say has its default: the wanted entry is the whole truth about this entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from ca.entries.changes import ChangeKind, EntryChange, EntryProblem, Plan
from ca.entries.managed import managed, not_to_be_set
from ca.entries.rules import entry_problems
from citadel.entry import Entry
from citadel.errors import AlreadyExists, CitadelError, FailedPrecondition, NotFound, Reason
from citadel.selector import Selector
from citadel.spiffe import SpiffeId, TrustDomain

_Identity = tuple[SpiffeId, SpiffeId, frozenset[Selector]]


class Planner:
    """Makes plans against the entries as they stand: `existing` by id.

    What has an origin only the server itself changes: where it `manages` them.
    """

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        existing: Mapping[str, Entry],
        now: datetime,
        new_id: Callable[[], str],
        manages: bool = False,
    ) -> None:
        self._trust_domain = trust_domain
        self._existing = existing
        self._now = now
        self._new_id = new_id
        self._manages = manages

    def plan(self, wanted: Sequence[Entry], same: Sequence[str | None], *, pruned: Sequence[Entry] = ()) -> Plan:
        """What to do for `wanted`.

        `same` gives, for each, the id of the existing entry with its SPIFFE ID, parent and selectors. `pruned` are
        existing entries that are deleted unless one of the wanted means them.
        """
        problems: list[EntryProblem] = []
        changes: list[EntryChange] = []
        meant: dict[str, int] = {}
        for index, (entry, same_id) in enumerate(zip(wanted, same, strict=True)):
            before_id = entry.id or same_id
            before = self._existing.get(before_id) if before_id else None
            change = self._change(entry, before)
            found = list(self._problems(entry, before, change))
            if before is not None and before.id in meant:
                found.append(("", _twice(meant[before.id])))
            elif before is not None:
                meant[before.id] = index
            problems.extend(EntryProblem(index=index, field=field, error=error) for field, error in found)
            changes.append(change)
        gone = [entry for entry in pruned if entry.id not in meant]
        unknown = {problem.index for problem in problems if problem.field == "id"}
        clashes = _clashes(changes, same, {entry.id for entry in gone})
        problems.extend(clash for clash in clashes if clash.index not in unknown)
        changes.extend(EntryChange(before=entry, after=None) for entry in gone)
        return Plan(changes=changes, problems=sorted(problems, key=lambda problem: problem.index))

    def _change(self, entry: Entry, before: Entry | None) -> EntryChange:
        if before is None:
            made = replace(entry, id=self._new_id(), revision=1, created_at=self._now)
            return EntryChange(before=None, after=made)
        after = replace(
            entry, id=before.id, revision=before.revision + 1, created_at=before.created_at, origin=before.origin
        )
        change = EntryChange(before=before, after=after)
        return EntryChange(before=before, after=before) if change.kind is ChangeKind.UNCHANGED else change

    def _problems(self, entry: Entry, before: Entry | None, change: EntryChange) -> Iterator[tuple[str, CitadelError]]:
        if entry.id and before is None:
            yield (
                "id",
                NotFound(
                    Reason.ENTRY_NOT_FOUND,
                    f"there is no entry {entry.id[:100]!r}",
                    fix="leave the id out to have it created",
                ),
            )
        if change.kind is ChangeKind.UNCHANGED:
            return  # what is already so needs no leave, even where the rules have changed or its time is over
        if before is not None and entry.revision and entry.revision != before.revision:
            yield "revision", _changed(entry, before)
        if not self._manages:
            yield from _of_the_server(entry, before)
        yield from entry_problems(entry, trust_domain=self._trust_domain, now=self._now)


def _of_the_server(entry: Entry, before: Entry | None) -> Iterator[tuple[str, CitadelError]]:
    """What people may not do to what the server keeps by itself."""
    if before is not None and before.origin:
        yield "", managed(before)
    elif entry.origin:
        yield "origin", not_to_be_set()


def _clashes(changes: Sequence[EntryChange], same: Sequence[str | None], gone: set[str]) -> Iterator[EntryProblem]:
    """What exists once would exist twice: by another of the changes, or by an entry that stays as it is."""
    takers: dict[_Identity, int] = {}
    final = {change.before.id: change.entry for change in changes if change.before is not None}
    for index, change in enumerate(changes):
        first = takers.setdefault(_identity(change.entry), index)
        if first != index and change.entry.id != changes[first].entry.id:
            yield EntryProblem(index=index, field="", error=_twice(first))
        holder = same[index]
        if holder is None or holder == change.entry.id or holder in gone:
            continue
        if holder not in final or _identity(final[holder]) == _identity(change.entry):
            error = AlreadyExists(
                Reason.ENTRY_DUPLICATE,
                f"entry {holder} has the same SPIFFE ID, parent and selectors",
                fix=f"look at it with `citadel-cli entry show {holder}`",
            )
            yield EntryProblem(index=index, field="", error=error)


def _identity(entry: Entry) -> _Identity:
    return (entry.spiffe_id, entry.parent_id, entry.selectors)


def _twice(first: int) -> AlreadyExists:
    return AlreadyExists(Reason.ENTRY_DUPLICATE, f"the same entry is wanted before, as number {first + 1}")


def _changed(entry: Entry, before: Entry) -> FailedPrecondition:
    return FailedPrecondition(
        Reason.ENTRY_CHANGED,
        f"entry {before.id} is at revision {before.revision}, not at {entry.revision}: somebody else has changed it",
        fix="look at it again, and change what is there now",
    )
