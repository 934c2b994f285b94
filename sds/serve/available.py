"""What one caller may have at one moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from sds.serve.resource import Resource


class Withdrawal(Protocol):
    """Makes what a proxy is sent in the place of trust that it is to have no longer."""

    def __call__(self, name: str, /, *, may_come: bool) -> Resource | None:
        """Nothing to trust under this name; None where it stands for no foreign trust domain.

        Where it `may_come`, since the caller might turn out to be one who may have it, also None while it is here.
        """
        ...


def _keeps_all(_: str, /, *, may_come: bool) -> None:
    """Nothing is withdrawn."""


@dataclass(frozen=True, slots=True)
class Available:
    """What one caller may have, by name. The passing of time alone changes nothing before `until` (None: never).

    `awaited` are names that the caller may have and that are not at hand: they come by themselves. While `is_known` is
    False, nothing is said of the names that are missing: the server has not told its entries yet, or the caller could
    not be seen whole.
    """

    resources: Mapping[str, Resource]
    until: datetime | None = None
    awaited: frozenset[str] = frozenset()
    is_known: bool = True
    withdrawal: Withdrawal = field(default=_keeps_all, compare=False, repr=False)

    def holds_at(self, now: datetime) -> bool:
        """Whether this is still true, as far as time goes."""
        return self.until is None or now < self.until

    def rules_out(self, name: str) -> bool:
        """Whether the caller cannot have `name` as things are, rather than merely not yet."""
        return self.is_known and name not in self.resources and name not in self.awaited

    def withdrawing(self, *, sent: Iterable[str], brought: Iterable[str]) -> Mapping[str, Resource]:
        """`resources`, and nothing to trust under those of the names that a proxy has and may trust no longer.

        No Envoy forgets a secret, whatever it is told. What was `sent` on its connection was for the same caller; what
        it `brought` from an earlier one may still be right while the caller cannot be seen whole. One whose process
        matches no entry any more keeps all that it has, until it ends.
        """
        if not self.resources:
            return self.resources
        gone = {name: self.withdrawal(name, may_come=False) for name in sent if name not in self.resources}
        for name in brought:
            if name not in self.resources:
                gone[name] = self.withdrawal(name, may_come=not self.is_known)
        withdrawn = {name: nothing for name, nothing in gone.items() if nothing is not None}
        return {**self.resources, **withdrawn} if withdrawn else self.resources
