"""Callers and what is known of them. Attested once for each connection, not for each of its streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

from citadel.peer import Caller
from citadel.selector import Selector


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """What an attestor saw of a caller. `executable` is for people to read, empty when unknown."""

    selectors: frozenset[Selector]
    executable: str = ""


class WorkloadAttestor(Protocol):
    """Turns a caller into selectors, from facts that the caller cannot make up."""

    async def attest(self, caller: Caller, *, want_sha256: bool) -> Attestation:
        """What is true of `caller` now; its executable's digest only if it is wanted, since it costs.

        Raises:
            PermissionDenied: `caller_unknown` when the process ended meanwhile.
        """
        ...


class CallerSource(Protocol):
    """Where a handler learns who is calling; `citadel.relay.Relay` is one."""

    def caller_of(self, context_peer: str) -> Caller:
        """The process behind `context.peer()`. Raises `PermissionDenied` (`caller_unknown`)."""
        ...


class Callers:
    """Remembers each connection's attestation for as long as the connection lives."""

    def __init__(self, *, source: CallerSource, attestor: WorkloadAttestor) -> None:
        self._source = source
        self._attestor = attestor
        self._plain: WeakKeyDictionary[Caller, Attestation] = WeakKeyDictionary()
        self._with_sha256: WeakKeyDictionary[Caller, Attestation] = WeakKeyDictionary()

    def caller_of(self, context_peer: str) -> Caller:
        """The process behind a handler's `context.peer()`. Raises `PermissionDenied` (`caller_unknown`)."""
        return self._source.caller_of(context_peer)

    async def attest(self, caller: Caller, *, want_sha256: bool) -> Attestation:
        """The caller's attestation; asks the attestor again only when the digest becomes wanted."""
        known = self._with_sha256.get(caller) or (None if want_sha256 else self._plain.get(caller))
        if known is None:
            known = await self._attestor.attest(caller, want_sha256=want_sha256)
            (self._with_sha256 if want_sha256 else self._plain)[caller] = known
        return known
