"""Entries in the order of their creation, for pages that stay put while entries come and go."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Final

from citadel.entry import Entry

Cursor = tuple[datetime, str]
_NEVER: Final = datetime.min.replace(tzinfo=UTC)


def cursor_of(entry: Entry) -> Cursor:
    """Where an entry stands; never changes while the entry lives."""
    return (entry.created_at or _NEVER, entry.id)


class OrderedEntries:
    """A sorted list: what comes, comes at its end nearly always."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def load(self, entries: Iterable[Entry]) -> None:
        """Begin with these."""
        self._entries = sorted(entries, key=cursor_of)

    def put(self, entry: Entry) -> None:
        """Add an entry, or replace it where it stands."""
        at = bisect.bisect_left(self._entries, cursor_of(entry), key=cursor_of)
        if at < len(self._entries) and self._entries[at].id == entry.id:
            self._entries[at] = entry
        else:
            self._entries.insert(at, entry)

    def remove(self, entry: Entry) -> None:
        """Take an entry out that is here."""
        del self._entries[bisect.bisect_left(self._entries, cursor_of(entry), key=cursor_of)]

    def after(self, cursor: Cursor | None) -> Iterator[Entry]:
        """The entries behind `cursor`, or all. Not to be held over a change."""
        start = bisect.bisect_right(self._entries, cursor, key=cursor_of) if cursor is not None else 0
        for at in range(start, len(self._entries)):
            yield self._entries[at]
