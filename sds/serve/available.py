"""What one caller may have at one moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sds.serve.resource import Resource


def _keeps_all(_: str) -> None:
    """No name stands for trust that could be withdrawn."""


@dataclass(frozen=True, slots=True)
class Available:
    """What one caller may have, by name. The passing of time alone changes nothing before `until` (None: never).

    `awaited` are names that the caller may have and that are not at hand: they come by themselves. While `is_known` is
    False, nothing is said of the names that are missing: the server has not told its entries yet. `nothing_for` makes
    what a proxy must be sent in the place of what it has under a name, where that would go on to be trusted.
    """

    resources: Mapping[str, Resource]
    until: datetime | None = None
    awaited: frozenset[str] = frozenset()
    is_known: bool = True
    nothing_for: Callable[[str], Resource | None] = field(default=_keeps_all, compare=False, repr=False)

    def holds_at(self, now: datetime) -> bool:
        """Whether this is still true, as far as time goes."""
        return self.until is None or now < self.until

    def rules_out(self, name: str) -> bool:
        """Whether the caller cannot have `name` as things are, rather than merely not yet."""
        return self.is_known and name not in self.resources and name not in self.awaited

    def withdrawing(self, held: Iterable[str]) -> Mapping[str, Resource]:
        """`resources`, and nothing to trust under those of the names that a proxy has and may trust no longer.

        No Envoy forgets a secret, whatever it is told. One whose process matches no entry any more keeps all that it
        has, until it ends.
        """
        if not self.is_known or not self.resources:
            return self.resources
        gone = {name: self.nothing_for(name) for name in held if name not in self.resources}
        withdrawn = {name: nothing for name, nothing in gone.items() if nothing is not None}
        return {**self.resources, **withdrawn} if withdrawn else self.resources
