"""What one caller may have at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sds.serve.resource import Resource


@dataclass(frozen=True, slots=True)
class Available:
    """What one caller may have, by name. The passing of time alone changes nothing before `until` (None: never).

    `awaited` are names that the caller may have and that are not at hand: they come by themselves. While `is_known` is
    False, nothing is said of the names that are missing: the server has not told its entries yet.
    """

    resources: Mapping[str, Resource]
    until: datetime | None = None
    awaited: frozenset[str] = frozenset()
    is_known: bool = True

    def holds_at(self, now: datetime) -> bool:
        """Whether this is still true, as far as time goes."""
        return self.until is None or now < self.until

    def rules_out(self, name: str) -> bool:
        """Whether the caller cannot have `name` as things are, rather than merely not yet."""
        return self.is_known and name not in self.resources and name not in self.awaited
