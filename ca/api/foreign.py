"""Foreign bundles as agents are told them, each encoded once for all of them."""

from __future__ import annotations

from ca.api.answers import bundle_message
from ca.federation.known import ForeignBundles
from citadel._wire import types_pb2
from citadel.bundle import TrustBundle
from citadel.spiffe import TrustDomain


class ForeignMessages:
    """Fulfils `ca.api.partners.Foreign`."""

    def __init__(self, known: ForeignBundles) -> None:
        self.version = 1
        self._known = known
        self._made: dict[TrustDomain, tuple[TrustBundle, types_pb2.Bundle]] = {}
        known.watch(self._note)

    def of(self, trust_domain: TrustDomain) -> types_pb2.Bundle | None:
        known, made = self._known.get(trust_domain), self._made.get(trust_domain)
        if known is None:
            self._made.pop(trust_domain, None)
            return None
        if made is None or made[0] is not known.bundle:
            made = self._made[trust_domain] = (known.bundle, bundle_message(known.bundle))
        return made[1]

    def _note(self, _: TrustDomain) -> None:
        self.version += 1
