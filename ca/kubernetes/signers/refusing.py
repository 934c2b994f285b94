"""Telling refusals of requests that are objects in Kubernetes: counted and audited, with who asked (invariant 10)."""

from __future__ import annotations

from citadel.actor import Actor
from citadel.errors import CitadelError
from citadel.spiffe import SpiffeId
from citadel.tally import Tally


class Refusing:
    """Tells them of one door of a cluster, by which nobody came itself: which request it was is in the words."""

    def __init__(self, tally: Tally, *, door: SpiffeId, what: str) -> None:
        self._tally = tally
        self._by = Actor.identity(door)
        self._what = what

    def tell(self, request: str, refusal: CitadelError) -> None:
        """This request was refused."""
        told = type(refusal)(refusal.reason, f"{request}: {refusal.message}", fix=refusal.fix)
        self._tally.count_refused(self._what, told, by=self._by)

    def count_issued(self) -> None:
        """A request was granted."""
        self._tally.count_issued()
