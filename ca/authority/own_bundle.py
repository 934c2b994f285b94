"""The own trust bundle as it is in force, with sequence numbers that change exactly when its content does.

Which of its authorities are for workloads alone is content of the X.509 half, though no bundle document says it: agents
are told by it which servers to believe, and a rotation waits until they all were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from cryptography import x509

from ca.authority.jwt import JwtAuthorities
from ca.authority.ports import AuthorityStore, BundleSequences, Neighbours
from citadel.bundle import DEFAULT_REFRESH_INTERVAL, TrustBundle
from citadel.errors import Reason, Unavailable
from citadel.revocation import RevocationList
from citadel.spiffe import TrustDomain


@dataclass(frozen=True, slots=True)
class _Settled:
    bundle: TrustBundle
    sequences: BundleSequences
    for_workloads_alone: tuple[x509.Certificate, ...]


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
        self._settled: _Settled | None = None

    def bundle(self) -> TrustBundle:
        """Raises `Unavailable` (`issuer_unavailable`) before the first one was settled."""
        return self._known().bundle

    def sequences(self) -> BundleSequences:
        """Raises as `bundle`."""
        return self._known().sequences

    def for_workloads_alone(self) -> tuple[x509.Certificate, ...]:
        """Those of its authorities that are no roots of this cluster's own. Raises as `bundle`."""
        return self._known().for_workloads_alone

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
        alone = tuple(each for each in content.x509_authorities if each not in roots)
        sequences = await self._store.bundle_sequences(x509=_x509_digest(content, alone), jwt=content.jwt_digest())
        settled = _Settled(replace(content, sequence=sequences.bundle), sequences, alone)
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

    def _known(self) -> _Settled:
        if self._settled is None:
            raise Unavailable(Reason.ISSUER_UNAVAILABLE, "the authorities are not started")
        return self._settled


def _x509_digest(bundle: TrustBundle, alone: tuple[x509.Certificate, ...]) -> str:
    """That of the authorities where all are the cluster's own, as it always was: no sequence rises by an update."""
    if not alone:
        return bundle.x509_digest()
    of_those = replace(bundle, x509_authorities=alone).x509_digest()
    return hashlib.sha256(f"{bundle.x509_digest()} {of_those}".encode()).hexdigest()
