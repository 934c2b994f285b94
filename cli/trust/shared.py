"""What several of the rules ask of two clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cryptography import x509

from citadel.spiffe import TrustDomain
from cli.trust.facts import ClusterFacts

EXCHANGE: Final = (
    "exchange the roots on purpose: `citadel-cli bundle show --own --format spiffe > FILE` on each, "
    "`citadel-cli bundle set --own-domain FILE --reason TEXT` with it on the other"
)


def are_of_one_domain(a: ClusterFacts, b: ClusterFacts) -> bool:
    """Whether both are of one trust domain, or may be: a folder that names none runs in any."""
    return a.trust_domain is None or b.trust_domain is None or a.trust_domain == b.trust_domain


def counted(number: int, one: str, many: str) -> str:
    """A number with its noun."""
    return f"{number} {one if number == 1 else many}"


def domain_of(facts: ClusterFacts, other: ClusterFacts) -> TrustDomain | None:
    """The trust domain of `facts`, or that of the other where it has none of its own."""
    return facts.trust_domain or other.trust_domain


def trusted_of(believer: ClusterFacts, peer: ClusterFacts) -> Sequence[x509.Certificate] | None:
    """The roots by which proxies of `believer` judge identities of the peer's domain (invariant 7); None: no bundle."""
    if are_of_one_domain(believer, peer):
        return believer.roots
    known = believer.foreign.get(peer.trust_domain) if peer.trust_domain is not None else None
    return known.bundle.x509_authorities if known is not None and known.bundle is not None else None
