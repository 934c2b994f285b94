"""A federation as it was set up: where the bundle of a foreign trust domain is fetched, and how that is believed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ca.federation.settings import Profile
from citadel.spiffe import SpiffeId, TrustDomain


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """One foreign trust domain and its endpoint, as `ca.federation.rules` allows them.

    `endpoint_id` is who shows itself there, for `https_spiffe` alone. `refreshed_at` is the last good fetch that was
    made durable; whoever fetches knows of later ones.
    """

    trust_domain: TrustDomain
    endpoint_url: str
    profile: Profile
    endpoint_id: SpiffeId | None
    created_at: datetime
    refreshed_at: datetime | None = None

    @property
    def place(self) -> str:
        """The endpoint's URL for logs: without its query, which may hold a secret."""
        return self.endpoint_url.partition("?")[0]
