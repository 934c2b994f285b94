"""Entries that the server made by itself, by what it made them from; people can neither change nor delete them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from citadel.entry import Entry
from citadel.errors import FailedPrecondition, Reason

_NONE: Final[Mapping[str, Entry]] = MappingProxyType({})


class ManagedEntries:
    """An index over the entries of a directory, by their origin."""

    def __init__(self) -> None:
        self._by_origin: dict[str, dict[str, Entry]] = {}

    def put(self, entry: Entry) -> None:
        """Add an entry, also in the place of one with its id."""
        if entry.origin:
            self._by_origin.setdefault(entry.origin, {})[entry.id] = entry

    def take_out(self, entry: Entry) -> None:
        """Forget this very entry; one of its id that came since stays."""
        found = self._by_origin.get(entry.origin, {})
        if found.get(entry.id) is entry:
            del found[entry.id]
            if not found:
                del self._by_origin[entry.origin]

    def of(self, origin: str) -> Mapping[str, Entry]:
        """Those that were made from this, by id. Not to be held over a change."""
        return self._by_origin.get(origin, _NONE)

    def origins(self) -> Iterator[str]:
        """All that something was made from. Not to be held over a change."""
        yield from self._by_origin


def refuse_managed(entry: Entry) -> None:
    """Refuse, with `FailedPrecondition` (`entry_managed`), that people change what the server keeps true by itself."""
    if entry.origin:
        raise managed(entry)


def managed(entry: Entry) -> FailedPrecondition:
    """That this entry is the server's own."""
    return FailedPrecondition(
        Reason.ENTRY_MANAGED,
        f"entry {entry.id} was made from {entry.origin[:200]}, and goes with it",
        fix="change that, or the section kubernetes.clusters.workloads of the server's settings",
    )


def not_to_be_set() -> FailedPrecondition:
    """That people name an origin for an entry of theirs."""
    return FailedPrecondition(
        Reason.ENTRY_MANAGED,
        "only the server says what an entry was made from",
        fix="leave origin out; `citadel-cli entry list --by-hand` lists entries without any",
    )
