"""What the server knows of one identity: who may have it, and what became of it (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from citadel.entry import Entry
from citadel.spiffe import SpiffeId, TrustDomain


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantingAgent:
    """An agent through which an entry grants an identity. It knows the entry once it acknowledged `needed_revision`."""

    spiffe_id: SpiffeId
    joined: bool = True
    banned: bool = False
    connected: bool = False
    acknowledged_revision: int = 0
    needed_revision: int = 0

    @property
    def may_ask(self) -> bool:
        """Whether it is an agent that the server would sign for."""
        return self.joined and not self.banned

    @property
    def knows(self) -> bool:
        """Whether it was told the entry and said so."""
        return self.connected and self.acknowledged_revision >= self.needed_revision


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """An entry that grants the identity. No agents: its parent is an alias that no agent matches."""

    entry: Entry
    agents: tuple[GrantingAgent, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedRecord:
    """The newest certificate of an identity in the ledger."""

    serial: str
    requested_by: str
    issued_at: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalRecord:
    """The newest refusal in the audit log that concerns an identity or an agent of it."""

    at: datetime
    who: str
    what: str
    target: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityFacts:
    """All that the server knows of one identity at `now`.

    `holders` are the streams that were sent a secret of it; `refusals` say for some of them, by their names, why it was
    refused, in the proxy's own words. `without_bundle` are the trust domains with which an entry of it federates and of
    which no bundle is known.
    """

    spiffe_id: SpiffeId
    trust_domain: TrustDomain
    now: datetime
    grants: tuple[Grant, ...] = ()
    near_misses: tuple[SpiffeId, ...] = ()
    last_issued: IssuedRecord | None = None
    last_refusal: RefusalRecord | None = None
    holders: tuple[str, ...] = ()
    refusals: tuple[tuple[str, str], ...] = ()
    without_bundle: tuple[TrustDomain, ...] = ()

    @property
    def agents(self) -> Sequence[GrantingAgent]:
        """Every agent through which an entry grants the identity now."""
        return [agent for grant in self._in_force for agent in grant.agents]

    @property
    def has_certificate(self) -> bool:
        """Whether the newest certificate of it has not ended."""
        return self.last_issued is not None and self.last_issued.not_after > self.now

    @property
    def _in_force(self) -> Sequence[Grant]:
        return [grant for grant in self.grants if not grant.entry.has_expired(self.now)]
