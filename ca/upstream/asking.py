"""What is asked of an upstream for an issuing authority, and what its answer must be (checked off the loop: slow)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.authority.certificates import CA_KEY_USAGE, only_within, trust_domain_san, unique_subject
from ca.authority.ports import SignedDownstream
from ca.keys.kinds import AuthorityPublicKey, hash_for
from ca.keys.remote import SigningKey
from ca.keys.signing import sign_with
from citadel.certification_path import UNREADABLE, NoPathError, extension_of, find_path, weakness_of
from citadel.clock import Clock
from citadel.serial import new_serial
from citadel.spiffe import TrustDomain

_log = structlog.get_logger(__name__)

CLOCKS_DIFFER: Final = timedelta(minutes=5)  # at the most: who signs counts from a now of its own
_SET_THE_CLOCKS: Final = "set the clocks of both"


class BadAnswerError(Exception):
    """It is not what was asked for: the text says what it is instead, as `a certificate that is no authority's`."""

    def __init__(self, what: str, *, fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix


async def issuer_request(key: SigningKey, trust_domain: TrustDomain, *, is_constrained: bool = False) -> bytes:
    """A request (DER) for an authority of this trust domain that signs leaves and nothing else.

    With `is_constrained`, for one that signs for this trust domain alone. Raises as `RemoteKey.sign`.
    """
    builder = (
        x509.CertificateSigningRequestBuilder(subject_name=unique_subject("Citadel Issuer", new_serial()))
        .add_extension(trust_domain_san(trust_domain), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(CA_KEY_USAGE, critical=True)
    )
    if is_constrained:
        builder = builder.add_extension(only_within(trust_domain), critical=True)
    signed = await sign_with(key, lambda own: builder.sign(own, hash_for(own)))
    return signed.public_bytes(Encoding.DER)


def begin_of(path: Iterable[x509.Certificate]) -> datetime:
    """When all of them have begun."""
    return max(each.not_valid_before_utc for each in path)


def check_issuer(issuer: x509.Certificate, *, public_key: AuthorityPublicKey, trust_domain: TrustDomain) -> None:
    """That it is for this key, of this trust domain, and signs leaves alone. Raises `BadAnswerError`."""
    try:
        _check_issuer(issuer, public_key, trust_domain)
    except UNREADABLE as error:
        raise BadAnswerError(f"a certificate that cannot be read: {error}") from error


def _check_issuer(issuer: x509.Certificate, public_key: AuthorityPublicKey, trust_domain: TrustDomain) -> None:
    if issuer.public_key() != public_key:
        raise BadAnswerError("an authority with another key than that of this server")
    constraints, usage = extension_of(issuer, x509.BasicConstraints), extension_of(issuer, x509.KeyUsage)
    if constraints is None or not constraints.ca:
        raise BadAnswerError("a certificate that is no authority's")
    if constraints.path_length != 0:
        raise BadAnswerError(f"an authority with path length {constraints.path_length}, not 0")
    if usage is None or not (usage.key_cert_sign and usage.crl_sign):
        raise BadAnswerError("an authority that may not sign certificates and revocation lists")
    names = extension_of(issuer, x509.SubjectAlternativeName)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []
    if uris != [str(trust_domain.id)]:
        raise BadAnswerError(f"an authority of {', '.join(uris) or 'no trust domain'}, not of {trust_domain}")
    if extension_of(issuer, x509.SubjectKeyIdentifier) is None:
        raise BadAnswerError("an authority without a key identifier, by which revocation lists know it")


def check_validity(
    path: Iterable[x509.Certificate], *, not_after: datetime, now: datetime, ahead: timedelta = CLOCKS_DIFFER
) -> None:
    """That the first of `path`, an issuing authority, ends by `not_after`, and all of them begin by now and `ahead`."""
    issuer, *above = path
    begins = begin_of((issuer, *above))
    if begins > now + ahead:
        raise BadAnswerError(
            f"an authority that begins at {begins.isoformat()}: the clocks differ", fix=_SET_THE_CLOCKS
        )
    if issuer.not_valid_after_utc > not_after + CLOCKS_DIFFER:
        ends = issuer.not_valid_after_utc.isoformat()
        raise BadAnswerError(f"an authority until {ends}, later than it was asked for")


def check_path(signed: SignedDownstream, now: datetime) -> None:
    """That its root vouches for it, once all have begun. Raises `BadAnswerError`."""
    issuer, *between = signed.chain
    try:
        path = find_path(issuer, between, [signed.root], now=max(now, begin_of((*signed.chain, signed.root))))
    except NoPathError as error:
        raise BadAnswerError(f"an authority that its root does not vouch for now: {error.why}") from error
    for certificate in path:
        if weakness := weakness_of(certificate, is_anchor=certificate == signed.root):
            raise BadAnswerError(f"a certificate that {weakness}")


async def until_begun(signed: SignedDownstream, clock: Clock) -> None:
    """Wait: whatever it signed before would be refused here by everybody, and so would its revocation list."""
    left = begin_of((*signed.chain, signed.root)) - clock.now()
    if left > timedelta(0):
        seconds = left.total_seconds()
        _log.warning("the clocks differ: the authority from upstream begins later", seconds=round(seconds, 1))
        await clock.sleep(min(seconds, CLOCKS_DIFFER.total_seconds()))
