"""Foreign bundles as agents are told them, each encoded once for all of them."""

from __future__ import annotations

from ca.api.answers import bundle_message
from ca.federation.known import ForeignBundles
from citadel._wire import types_pb2
from citadel.bundle import TrustBundle
from citadel.spiffe import TrustDomain


class ForeignMessages:
    """The messages of the bundles that are in force."""

    def __init__(self, known: ForeignBundles) -> None:
        self._known = known
        self._made: dict[TrustDomain, tuple[TrustBundle, types_pb2.Bundle]] = {}

    def of(self, trust_domain: TrustDomain) -> types_pb2.Bundle | None:
        """The same object for as long as the bundle is the same; None where none is known."""
        known, made = self._known.get(trust_domain), self._made.get(trust_domain)
        if known is None:
            self._made.pop(trust_domain, None)
            return None
        if made is None or made[0] is not known.bundle:
            made = self._made[trust_domain] = (known.bundle, bundle_message(known.bundle))
        return made[1]
