"""Telling refusals with the caller who was refused, as each door knows it (invariant 10)."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from citadel.actor import Actor, ActorKind
from citadel.errors import CitadelError
from citadel.rpc import ErrorBorder
from citadel.spiffe import SpiffeId
from citadel.svid import X509Svid
from citadel.tally import Tally


class CallerBorder(ErrorBorder):
    """An error border that counts each refusal with the caller that `caller_of` reads from the call's context."""

    def __init__(self, *, tally: Tally, caller_of: Callable[[Any], Actor]) -> None:
        super().__init__()
        self._tally = tally
        self._caller_of = caller_of

    def tell(self, method: str, context: Any, error: CitadelError) -> None:
        try:
            by = self._caller_of(context)
        except CitadelError:  # the connection is gone already, and with it what it proved
            by = Actor(ActorKind.ANONYMOUS)
        self._tally.count_refused(method, error, by=by)


class ProvenCallers:
    """Who callers of a door without client certificates have proved to be, each in the task of its own call."""

    def __init__(self) -> None:
        self._proven: ContextVar[SpiffeId | None] = ContextVar("proven caller", default=None)

    def note(self, caller: SpiffeId) -> None:
        """This call has come from `caller`."""
        self._proven.set(caller)

    def caller_of(self, context: Any) -> Actor:
        """Who it was, or the address of somebody who proved nothing."""
        proven = self._proven.get()
        return address_of(context) if proven is None else Actor.identity(proven)


def identity_of(context: Any) -> Actor:
    """The identity that the TLS layer verified, whether or not it may do anything here."""
    certificates = context.auth_context().get("x509_pem_cert", ())
    if not certificates:
        return address_of(context)
    return Actor.identity(X509Svid.from_pem(certificates[0]).spiffe_id)


def address_of(context: Any) -> Actor:
    """Nobody that was proven, at an address: "ipv4:10.0.0.7", without the port that changes with every connection."""
    return Actor(ActorKind.ANONYMOUS, str(context.peer()).rpartition(":")[0])
