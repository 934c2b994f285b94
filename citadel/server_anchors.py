"""By which authorities a Citadel server is known: what its certificate must lead to, in TLS (pure).

The DNS name that gRPC's clients check is the same for the servers of all trust domains, so the root has to tell them
apart. One that names its trust domain does. Under one over several trust domains, the servers of others are too: there
the issuing authorities of the own trust domain are the anchors in its place. They prove themselves by their content,
wherever they come from: who keeps such a root signs one that names a trust domain for the clusters of it alone, and
these can sign no further authority.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from citadel.bundle import TrustBundle, names_of
from citadel.certification_path import UNREADABLE, Anchors, NoPathError, extension_of, find_path, weakness_of
from citadel.name_constraints import forbidding
from citadel.spiffe import TrustDomain


def server_anchors(
    bundle: TrustBundle, shown: Iterable[x509.Certificate], *, now: datetime, own_chain: Sequence[x509.Certificate] = ()
) -> tuple[x509.Certificate, ...]:
    """What a server of the bundle's trust domain is known by; its roots, where all of them name the trust domain.

    `shown` are issuing authorities and what stands between them and their root, from anybody. `own_chain` is that of
    the caller's own SVID: who signed it is an authority of the trust domain, whatever it says of itself. Verifies.
    """
    if bundle.names_its_domain():
        return bundle.x509_authorities
    own = [root for root in bundle.x509_authorities if _names(root, bundle.trust_domain)]
    shared = [root for root in bundle.x509_authorities if root not in own]
    return tuple(dict.fromkeys((*own, *_issuers(bundle.trust_domain, shared, shown, own_chain, now))))


def unforgeable(own_chain: Sequence[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    """An anchor for whoever knows no server yet: its own certificate, which nobody else can present."""
    return tuple(own_chain[:1])


def to_pem(anchors: Iterable[x509.Certificate]) -> bytes:
    """They as concatenated PEM."""
    return b"".join(each.public_bytes(Encoding.PEM) for each in anchors)


def _issuers(
    trust_domain: TrustDomain,
    roots: Sequence[x509.Certificate],
    shown: Iterable[x509.Certificate],
    own_chain: Sequence[x509.Certificate],
    now: datetime,
) -> Iterator[x509.Certificate]:
    anchors = Anchors(roots)
    own = own_chain[1:]
    if own and _has_signed(own[0], own_chain[0]) and _path(own[0], own[1:], anchors, now):
        yield own[0]
    found = list(shown)
    for each in found:
        path = _path(each, found, anchors, now)
        if path and _is_issuer_of(trust_domain, path):
            yield each


def _is_issuer_of(trust_domain: TrustDomain, path: Sequence[x509.Certificate]) -> bool:
    """Whether `path`, from an authority to its root, is that of an issuing authority of this trust domain alone.

    One that names no trust domain could speak for ours anyway where nothing constrains it; but then it must be plain
    that it is no authority between, under which those of several trust domains stand.
    """
    authority, *between, _ = path
    try:
        constraints = extension_of(authority, x509.BasicConstraints)
        usage = extension_of(authority, x509.KeyUsage)
        if constraints is None or not constraints.ca or usage is None or not usage.key_cert_sign:
            return False
        is_plain = _names(authority, trust_domain) or (not names_of(authority) and constraints.path_length == 0)
        if not is_plain or any(names_of(each) and not _names(each, trust_domain) for each in between):
            return False
        return forbidding(path, trust_domain) is None
    except UNREADABLE:
        return False


def _path(
    authority: x509.Certificate, others: Sequence[x509.Certificate], anchors: Anchors, now: datetime
) -> list[x509.Certificate]:
    """From the authority to a root; empty where it leads to none now, or is one itself."""
    try:
        path = find_path(authority, others, anchors, now=now)
    except NoPathError:
        return []
    is_weak = any(weakness_of(each, is_anchor=each == path[-1]) for each in path)
    return path if len(path) > 1 and not is_weak else []


def _has_signed(issuer: x509.Certificate, leaf: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(issuer)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def _names(authority: x509.Certificate, trust_domain: TrustDomain) -> bool:
    return names_of(authority) == [str(trust_domain.id)]
