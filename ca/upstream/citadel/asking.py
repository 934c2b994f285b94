"""What is asked of a parent for an issuing authority, and what its answer must be (pure, but slow: off the loop)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.authority.ports import SignedDownstream
from ca.keys.kinds import AuthorityKey, AuthorityPublicKey, hash_for
from citadel._wire import clusters_pb2 as pb
from citadel.certification_path import UNREADABLE, NoPathError, extension_of, find_path, weakness_of
from citadel.errors import FailedPrecondition, Reason, Unavailable
from citadel.spiffe import TrustDomain
from citadel.svid import MAX_CHAIN_LENGTH

CLOCKS_DIFFER: Final = timedelta(minutes=5)  # at the most: the parent counts from its own now
_SET_THE_CLOCKS: Final = "set the clocks of the parent and of this server"


def issuer_request(key: AuthorityKey, trust_domain: TrustDomain) -> bytes:
    """A request (DER) for an authority of this trust domain that signs leaves and nothing else."""
    name = x509.UniformResourceIdentifier(str(trust_domain.id))
    builder = (
        x509.CertificateSigningRequestBuilder(subject_name=x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([name]), critical=True)  # the subject is empty
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    )
    return builder.sign(key, hash_for(key)).public_bytes(Encoding.DER)


def checked_answer(
    answer: pb.SignIssuerResponse,
    *,
    public_key: AuthorityPublicKey,
    trust_domain: TrustDomain,
    roots: Collection[x509.Certificate],
    not_after: datetime,
    now: datetime,
) -> SignedDownstream:
    """What the parent signed, if it is what was asked for: for this key, until `not_after` at most, under a root of it.

    It may begin a little later than `now`, where clocks differ: see `begin_of`.

    Raises `FailedPrecondition` (`upstream_invalid`), or `Unavailable` (`upstream_unavailable`) for a root that is not
    known yet: it is on its way.
    """
    if not 0 < len(answer.chain) <= MAX_CHAIN_LENGTH:
        raise _invalid(f"a chain of {len(answer.chain)} certificates")
    try:
        issuer, *between = map(x509.load_der_x509_certificate, answer.chain)
        root = x509.load_der_x509_certificate(answer.root)
        _check_issuer(issuer, public_key, trust_domain)
        begins = begin_of((issuer, *between, root))
        if begins > now + CLOCKS_DIFFER:
            raise _invalid(f"an authority that begins at {begins.isoformat()}: the clocks differ", fix=_SET_THE_CLOCKS)
        if issuer.not_valid_after_utc > not_after + CLOCKS_DIFFER:
            raise _invalid(f"an authority until {issuer.not_valid_after_utc.isoformat()}, later than it was asked for")
    except UNREADABLE as error:
        raise _invalid(f"a certificate that cannot be read: {error}") from error
    if root not in roots:
        raise Unavailable(
            Reason.UPSTREAM_UNAVAILABLE, "the parent signed by a root that it has not made known here, or takes back"
        )
    _check_path(issuer, between, root, max(now, begins))
    return SignedDownstream(chain=(issuer, *between), root=root)


def begin_of(path: Iterable[x509.Certificate]) -> datetime:
    """When all of them have begun."""
    return max(each.not_valid_before_utc for each in path)


def _check_issuer(issuer: x509.Certificate, public_key: AuthorityPublicKey, trust_domain: TrustDomain) -> None:
    if issuer.public_key() != public_key:
        raise _invalid("an authority with another key than that of this server")
    constraints, usage = extension_of(issuer, x509.BasicConstraints), extension_of(issuer, x509.KeyUsage)
    if constraints is None or not constraints.ca:
        raise _invalid("a certificate that is no authority's")
    if constraints.path_length != 0:
        raise _invalid(f"an authority with path length {constraints.path_length}, not 0")
    if usage is None or not (usage.key_cert_sign and usage.crl_sign):
        raise _invalid("an authority that may not sign certificates and revocation lists")
    names = extension_of(issuer, x509.SubjectAlternativeName)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []
    if uris != [str(trust_domain.id)]:
        raise _invalid(f"an authority of {', '.join(uris) or 'no trust domain'}, not of {trust_domain}")
    if extension_of(issuer, x509.SubjectKeyIdentifier) is None:
        raise _invalid("an authority without a key identifier, by which revocation lists know it")


def _check_path(
    issuer: x509.Certificate, between: list[x509.Certificate], root: x509.Certificate, now: datetime
) -> None:
    try:
        path = find_path(issuer, between, [root], now=now)
    except NoPathError as error:
        raise _invalid(f"an authority that its root does not vouch for now: {error.why}") from error
    for certificate in path:
        if weakness := weakness_of(certificate, is_anchor=certificate == root):
            raise _invalid(f"a certificate that {weakness}")


def _invalid(what: str, *, fix: str = "look at the parent") -> FailedPrecondition:
    return FailedPrecondition(Reason.UPSTREAM_INVALID, f"the parent answered with {what}", fix=fix)
