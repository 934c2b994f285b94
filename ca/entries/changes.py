"""What is to become of entries, before it is done: changes, and what forbids them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final

from citadel.entry import Entry
from citadel.errors import CitadelError

# Set by the server: two entries that differ in these alone are the same to whoever writes them.
_SERVER_S: Final = frozenset({"id", "revision", "created_at", "origin"})
TERMS: Final = tuple(field.name for field in fields(Entry) if field.name not in _SERVER_S)


class ChangeKind(StrEnum):
    """What becomes of an entry."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryChange:
    """One entry before and after; None where it does not exist then. Never both None."""

    before: Entry | None
    after: Entry | None

    @property
    def kind(self) -> ChangeKind:
        """What this change is."""
        if self.before is None:
            return ChangeKind.CREATED
        if self.after is None:
            return ChangeKind.DELETED
        return ChangeKind.UPDATED if self.changed_terms() else ChangeKind.UNCHANGED

    @property
    def is_real(self) -> bool:
        """Whether anything changes."""
        return self.kind is not ChangeKind.UNCHANGED

    @property
    def entry(self) -> Entry:
        """The entry as it will be, or was last."""
        entry = self.after or self.before
        assert entry is not None  # noqa: S101 - a contract of this class, stated above
        return entry

    def changed_terms(self) -> tuple[str, ...]:
        """The names of the fields that differ, without those that the server sets."""
        before, after = self.before, self.after
        return tuple(name for name in TERMS if getattr(before, name, None) != getattr(after, name, None))


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryProblem:
    """Why the wanted entry number `index` (from 0) cannot be; `field` names the culprit, or is empty for the whole."""

    index: int
    field: str
    error: CitadelError


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done: nothing at all where there is a problem."""

    changes: Sequence[EntryChange]
    problems: Sequence[EntryProblem]

    def counts(self) -> Mapping[ChangeKind, int]:
        """How many entries of each kind of change."""
        counts = dict.fromkeys(ChangeKind, 0)
        for change in self.changes:
            counts[change.kind] += 1
        return counts
