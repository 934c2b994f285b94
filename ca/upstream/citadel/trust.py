"""What a parent says is to be trusted, read and judged before any of it is in force (slow: off the loop)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from google.protobuf.message import DecodeError

from ca.authority.model import AuthorityState
from citadel._wire import clusters_pb2 as pb
from citadel._wire import types_pb2
from citadel.bundle import TrustBundle
from citadel.certification_path import UNREADABLE
from citadel.errors import CitadelError, FailedPrecondition, Reason
from citadel.revocation import RevocationList, RevocationSet
from citadel.revocation_reading import is_vouched_for, read_revocations
from citadel.spiffe import TrustDomain
from citadel.succession import Succession
from citadel.succession_wire import successions_from_wire

_ID_DIGITS: Final = 32
_STATES: Final = {
    state.value: state
    for state in (AuthorityState.PREPARED, AuthorityState.ACTIVE, AuthorityState.OLD, AuthorityState.TAINTED)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """What the parent calls each half of what is to be trusted. Compared for equality alone."""

    x509: str = ""
    jwt: str = ""

    @classmethod
    def of(cls, message: pb.KnownVersions) -> Versions:
        """As the parent said them."""
        return cls(x509=message.x509, jwt=message.jwt)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentTrust:
    """The parent's bundle, whose `roots` sign authorities here and elsewhere; lists of all authorities of the domain.

    What is in the bundle beside `roots` is trusted by workloads alone. `lists` are those that the parent knows, which
    are for nobody where they are not whole.
    """

    versions: Versions
    bundle: TrustBundle
    roots: Mapping[x509.Certificate, AuthorityState]
    lists: tuple[RevocationList, ...]
    lists_are_whole: bool
    successions: tuple[Succession, ...]
    message: bytes

    @property
    def further(self) -> tuple[x509.Certificate, ...]:
        """What workloads trust beside the roots."""
        return tuple(each for each in self.bundle.x509_authorities if each not in self.roots)


def root_id_of(root: x509.Certificate) -> str:
    """The id of the row of a root: the same whenever it is told of."""
    return root.fingerprint(hashes.SHA256()).hex()[:_ID_DIGITS]


def read_trust(message: pb.ClusterTrust, *, trust_domain: TrustDomain, now: datetime) -> ParentTrust:
    """What the parent said. Raises `FailedPrecondition` (`upstream_invalid`) where it cannot be: then none of it is."""
    try:
        bundle = _bundle_of(message, trust_domain)
        roots = _roots_of(message, bundle)
        lists = _lists_of(message.revocations, bundle, now)
    except UNREADABLE as error:
        raise _invalid(f"a certificate cannot be read: {error}") from error
    return _made(message, bundle, roots, lists.lists, is_whole=message.revocations_are_whole)


def read_kept_trust(data: bytes, *, trust_domain: TrustDomain, now: datetime) -> ParentTrust:
    """What was kept of what the parent said. Lists that have become bad since are left out, all of them."""
    try:
        message = pb.ClusterTrust.FromString(data)
    except DecodeError as error:
        raise _invalid("it is no message of this version") from error
    try:
        return read_trust(message, trust_domain=trust_domain, now=now)
    except FailedPrecondition:
        return _without_lists(message, trust_domain)


def _without_lists(message: pb.ClusterTrust, trust_domain: TrustDomain) -> ParentTrust:
    try:
        bundle = _bundle_of(message, trust_domain)
        return _made(message, bundle, _roots_of(message, bundle), (), is_whole=False)
    except UNREADABLE as error:
        raise _invalid(f"a certificate cannot be read: {error}") from error


def _made(
    message: pb.ClusterTrust,
    bundle: TrustBundle,
    roots: Mapping[x509.Certificate, AuthorityState],
    lists: tuple[RevocationList, ...],
    *,
    is_whole: bool,
) -> ParentTrust:
    return ParentTrust(
        versions=Versions.of(message.versions),
        bundle=bundle,
        roots=roots,
        lists=lists,
        lists_are_whole=is_whole,
        successions=tuple(successions_from_wire(bundle.trust_domain, message.successions)),
        message=message.SerializeToString(deterministic=True),
    )


def _bundle_of(message: pb.ClusterTrust, trust_domain: TrustDomain) -> TrustBundle:
    if message.bundle.trust_domain != trust_domain.name:
        raise _invalid(f"the bundle is one of {message.bundle.trust_domain!r}, and trust_domain is {trust_domain}")
    try:
        bundle = TrustBundle.from_json(trust_domain, message.bundle.json)
    except CitadelError as error:
        raise _invalid(error.message) from error
    if not bundle.x509_authorities:  # Envoy refuses an empty CA, and nobody could be served (invariant 9)
        raise _invalid("the bundle has no X.509 authority")
    return bundle


def _roots_of(message: pb.ClusterTrust, bundle: TrustBundle) -> Mapping[x509.Certificate, AuthorityState]:
    roots: dict[x509.Certificate, AuthorityState] = {}
    for each in message.roots:
        root, state = x509.load_der_x509_certificate(each.certificate), _STATES.get(each.state)
        if state is None:
            raise _invalid(f"a root is in the state {each.state!r}, which this version does not know")
        if root not in bundle.x509_authorities:
            raise _invalid("a root is not in the bundle")
        roots[root] = state
    if AuthorityState.ACTIVE not in roots.values():
        raise _invalid("no root is active")
    return roots


def _lists_of(message: types_pb2.RevocationSet, bundle: TrustBundle, now: datetime) -> RevocationSet:
    """Those of authorities that the bundle vouches for: agents refuse a set with any other, and nobody needs it."""
    kept = types_pb2.RevocationSet(
        lists=[
            each
            for each in message.lists
            if is_vouched_for(x509.load_der_x509_certificate(each.issuer), bundle.x509_authorities)
        ]
    )
    try:
        return read_revocations(kept, bundle=bundle, now=now)
    except CitadelError as error:
        raise _invalid(error.message) from error


def _invalid(problem: str) -> FailedPrecondition:
    return FailedPrecondition(
        Reason.UPSTREAM_INVALID, f"what the parent says is to be trusted cannot be: {problem}", fix="look at the parent"
    )
