"""The own trust bundle as it is in force, with sequence numbers that change exactly when its content does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from cryptography import x509

from ca.authority.jwt import JwtAuthorities
from ca.authority.ports import AuthorityStore, BundleSequences
from citadel.bundle import TrustBundle
from citadel.errors import Reason, Unavailable
from citadel.spiffe import TrustDomain

REFRESH_HINT: Final = timedelta(minutes=5)


class OwnBundle:
    """The bundle that was settled last: roots, and the keys of `jwt`."""

    def __init__(self, *, trust_domain: TrustDomain, store: AuthorityStore, jwt: JwtAuthorities) -> None:
        self.jwt = jwt
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
        """Put the bundle with this content in force, its sequence durable first. Whether it is another one."""
        content = TrustBundle(
            trust_domain=self._trust_domain,
            x509_authorities=tuple(roots),
            jwt_authorities=self.jwt.published(),
            refresh_hint=REFRESH_HINT,
        )
        sequences = await self._store.bundle_sequences(x509=content.x509_digest(), jwt=content.jwt_digest())
        settled = (replace(content, sequence=sequences.bundle), sequences)
        before, self._settled = self._settled, settled
        return settled != before

    def _known(self) -> tuple[TrustBundle, BundleSequences]:
        if self._settled is None:
            raise Unavailable(Reason.ISSUER_UNAVAILABLE, "the authorities are not started")
        return self._settled
