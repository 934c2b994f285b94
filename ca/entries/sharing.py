"""Equal parts of entries as one object: most entries of a mesh have the same few parents and selectors."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Final, TypeVar, cast

from citadel.entry import Entry
from citadel.spiffe import SpiffeId

T = TypeVar("T", bound=Hashable)

_MOST: Final = 65_536


class SharedParts:
    """Remembers a bounded number of values; when it is full it begins anew, and only sharing is lost."""

    def __init__(self, *, most: int = _MOST) -> None:
        self._known: dict[Hashable, Hashable] = {}
        self._most = most

    def of(self, entry: Entry) -> Entry:
        """The same entry, made of shared parts."""
        return replace(
            entry,
            spiffe_id=SpiffeId(self._one(entry.spiffe_id.trust_domain), entry.spiffe_id.path),
            parent_id=self._one(entry.parent_id),
            selectors=self._one(frozenset(map(self._one, entry.selectors))),
            federates_with=self._one(entry.federates_with),
            dns_names=self._one(entry.dns_names),
        )

    def _one(self, value: T) -> T:
        if len(self._known) >= self._most:
            self._known.clear()
        return cast("T", self._known.setdefault(value, value))
