"""The own trust bundle as it is in force, with sequence numbers that change exactly when its content does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from cryptography import x509

from ca.authority.jwt import JwtAuthorities
from ca.authority.ports import AuthorityStore, BundleSequences, Neighbours
from citadel.bundle import DEFAULT_REFRESH_INTERVAL, TrustBundle
from citadel.errors import Reason, Unavailable
from citadel.revocation import RevocationList
from citadel.spiffe import TrustDomain


class OwnBundle:
    """The bundle that was settled last: roots, the keys of `jwt`, and what `neighbours` bring in."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        store: AuthorityStore,
        jwt: JwtAuthorities,
        neighbours: Sequence[Neighbours] = (),
        refresh_hint: timedelta = DEFAULT_REFRESH_INTERVAL,
    ) -> None:
        self.jwt = jwt
        self._neighbours = neighbours
        self._refresh_hint = refresh_hint
        self._trust_domain = trust_domain
        self._store = store
        self._settled: tuple[TrustBundle, BundleSequences] | None = None

    def bundle(self) -> TrustBundle:
        """Raises `Unavailable` (`issuer_unavailable`) before the first one was settled."""
        return self._known()[0]

    def sequences(self) -> BundleSequences:
        """Raises as `bundle`."""
        return self._known()[1]

    async def settle(self, roots: Sequence[x509.Certificate]) -> bool:
        """Put the bundle with these roots in force, its sequence durable first. Whether it is another one."""
        further = [root for each in self._neighbours for root in each.roots()]
        of_others = {kid: key for each in self._neighbours for kid, key in each.jwt_keys().items()}
        content = TrustBundle(
            trust_domain=self._trust_domain,
            x509_authorities=(*roots, *further),
            jwt_authorities={**of_others, **self.jwt.published()},
            refresh_hint=self._refresh_hint,
        )
        sequences = await self._store.bundle_sequences(x509=content.x509_digest(), jwt=content.jwt_digest())
        settled = (replace(content, sequence=sequences.bundle), sequences)
        before, self._settled = self._settled, settled
        return settled != before

    def lists_of_others(self) -> list[RevocationList] | None:
        """Those that neighbours bring; None where one of them does not know them all."""
        lists: list[RevocationList] = []
        for said in (each.lists() for each in self._neighbours):
            if said is None:
                return None
            lists += said
        return lists

    def _known(self) -> tuple[TrustBundle, BundleSequences]:
        if self._settled is None:
            raise Unavailable(Reason.ISSUER_UNAVAILABLE, "the authorities are not started")
        return self._settled
