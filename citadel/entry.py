"""Entries: which identity a workload gets, on which node, when which selectors match."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from citadel.selector import Selector
from citadel.spiffe import SpiffeId, TrustDomain


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One registration entry, valid by construction only for its field types; `ca.entries.rules` checks the rest.

    `parent_id` is an agent, an alias (the ID of an entry whose parent is the server), or the server itself, which makes
    this entry an alias whose selectors are matched against nodes. All of `selectors` must match. Lifetimes are None for
    the server's default. `revision` rises with every change of this entry. `origin` is what the server made it from by
    itself, such as `k8s:main/shop/web-1`, and empty for what people registered.
    """

    id: str
    spiffe_id: SpiffeId
    parent_id: SpiffeId
    selectors: frozenset[Selector]
    x509_svid_ttl: timedelta | None = None
    jwt_svid_ttl: timedelta | None = None
    dns_names: tuple[str, ...] = ()
    federates_with: frozenset[TrustDomain] = field(default_factory=frozenset)
    hint: str = ""
    expires_at: datetime | None = None
    admin: bool = False
    downstream: bool = False
    revision: int = 0
    created_at: datetime | None = None
    origin: str = ""

    def has_expired(self, now: datetime) -> bool:
        """Whether the entry's own expiry has come."""
        return self.expires_at is not None and self.expires_at <= now

    def matches(self, seen: frozenset[Selector]) -> bool:
        """Whether every selector of this entry was seen."""
        return self.selectors <= seen
