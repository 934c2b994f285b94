"""The same leaves in half the time: what they share is encoded once, what differs is put in between.

cryptography's builder spends more time on the parts around a signature than on the signature. This signer describes a
certificate to cryptography's ASN.1 encoder (RFC 5280 section 4.1) and hands it parts that are encoded already. It is
used where its bytes are the builder's, which is tried for each issuing authority before it signs:
`docs/decisions/0020-leaves-from-encoded-parts.md`.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Final, cast

import structlog
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.issuance import leaf
from ca.issuance.leaf import LeafSigner, PlainLeafSigner
from ca.issuance.lifetime import LimitedBy, Validity
from ca.keys.kinds import AuthorityKey
from citadel.spiffe import SpiffeId, TrustDomain

_VERSION_3: Final = 2  # RFC 5280 section 4.1.2.1
_SERIAL_LIMIT: Final = 1 << 159  # 20 octets with the sign bit free (section 4.1.2.2)
_GENERALIZED_FROM: Final = 2050  # section 4.1.2.5
# Entries whose names are kept encoded, some 500 bytes each, and moments that the leaves of one second share.
_NAMES_KEPT: Final = 4096
_VALIDITIES_KEPT: Final = 64

_log = structlog.get_logger(__name__)


@asn1.sequence
class _Extension:
    oid: x509.ObjectIdentifier
    critical: Annotated[bool, asn1.Default(value=False)]
    value: bytes


@asn1.sequence
class _Validity:
    not_before: asn1.UTCTime | asn1.GeneralizedTime
    not_after: asn1.UTCTime | asn1.GeneralizedTime


@asn1.sequence
class _Algorithm:
    oid: x509.ObjectIdentifier


@asn1.sequence
class _PublicKeyInfo:
    algorithm: asn1.TLV
    key: asn1.BitString


@asn1.sequence
class _ToBeSigned:
    version: Annotated[int, asn1.Explicit(0)]
    serial: int
    signature: asn1.TLV
    issuer: asn1.TLV
    validity: asn1.TLV
    subject: asn1.TLV
    public_key: _PublicKeyInfo
    extensions: Annotated[list[asn1.TLV], asn1.Explicit(3)]


@asn1.sequence
class _Certificate:
    to_be_signed: asn1.TLV
    algorithm: asn1.TLV
    signature: asn1.BitString


class FastLeafSigner:
    """A `LeafSigner` that encodes only what differs. Made by `leaf_signer`, which checks it first."""

    def __init__(self, *, issuer: x509.Certificate) -> None:
        self._ecdsa = ec.ECDSA(hashes.SHA256())
        self._algorithm = _encoded(_Algorithm(oid=x509.SignatureAlgorithmOID.ECDSA_WITH_SHA256))
        self._issuer = _tlv(issuer.subject.public_bytes())
        self._subject = _tlv(leaf.EMPTY_SUBJECT.public_bytes())
        self._shared = [_extension(shared) for shared in leaf.shared_extensions(issuer)]
        self._names = lru_cache(_NAMES_KEPT)(lambda *names: _extension(leaf.names(*names)))
        self._validity = lru_cache(_VALIDITIES_KEPT)(_validity)

    def sign(
        self,
        *,
        key: AuthorityKey,
        spiffe_id: SpiffeId,
        dns_names: tuple[str, ...],
        public_key: bytes,
        validity: Validity,
        serial: int,
    ) -> bytes:
        if not 0 < serial < _SERIAL_LIMIT:
            raise ValueError("a serial number must be positive and fit 20 octets")
        leaf_key = asn1.decode_der(_PublicKeyInfo, public_key)
        to_be_signed = asn1.encode_der(
            _ToBeSigned(
                version=_VERSION_3,
                serial=serial,
                signature=self._algorithm,
                issuer=self._issuer,
                validity=self._validity(validity.not_before, validity.not_after),
                subject=self._subject,
                public_key=leaf_key,
                # Each once: the shared ones, which are four of other kinds, and these two.
                extensions=[
                    *self._shared,
                    _key_identifier(leaf_key.key),
                    self._names(spiffe_id, dns_names),
                ],
            )
        )
        signature = cast("ec.EllipticCurvePrivateKey", key).sign(to_be_signed, self._ecdsa)  # `leaf_signer` has looked
        return asn1.encode_der(
            _Certificate(
                to_be_signed=_tlv(to_be_signed),
                algorithm=self._algorithm,
                signature=asn1.BitString(signature, 0),
            )
        )


def leaf_signer(*, issuer: x509.Certificate) -> LeafSigner:
    """The fast signer if it writes what the builder writes, the plain one otherwise; it knows EC P-256 alone."""
    plain, key = PlainLeafSigner(issuer=issuer), issuer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return plain
    try:
        fast = FastLeafSigner(issuer=issuer)
        agree = _agree(plain, fast)
    except Exception as error:  # noqa: BLE001 - whatever an unstable module raises, the builder is there
        _log.warning("the fast way to make leaves fails, the plain one is taken", error=repr(error))
        return plain
    if not agree:
        _log.warning("the fast way to make leaves differs from the plain one, which is taken")
        return plain
    return fast


def _agree(plain: LeafSigner, fast: LeafSigner) -> bool:
    """Whether both sign the same bytes for samples of each kind, and validly.

    By a key that is thrown away: that of the issuing authority may be elsewhere, and what it signs is not to be wasted.
    """
    domain, signing = TrustDomain("a.test"), ec.generate_private_key(ec.SECP256R1())
    keys = [
        ec.generate_private_key(curve).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for curve in (ec.SECP256R1(), ec.SECP384R1())
    ]
    moments = [datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC) for year in (1999, 2049, 2050)]
    samples = [
        (SpiffeId(domain, path), dns_names, key, moment, serial)
        for path, dns_names in (("/web", ()), ("/" + "x" * 2000, ("web.a.test", "*.a.test")))
        for key in keys
        for moment in moments
        for serial in (1, 0x80, (1 << 128) - 1)
    ]
    for spiffe_id, dns_names, key, moment, serial in samples:
        validity = Validity(not_before=moment, not_after=moment + timedelta(hours=1), limited_by=LimitedBy.DEFAULT)
        made = [
            x509.load_der_x509_certificate(
                signer.sign(
                    key=signing,
                    spiffe_id=spiffe_id,
                    dns_names=dns_names,
                    public_key=key,
                    validity=validity,
                    serial=serial,
                )
            )
            for signer in (plain, fast)
        ]
        if made[0].tbs_certificate_bytes != made[1].tbs_certificate_bytes:
            return False
        if made[0].signature_algorithm_oid != made[1].signature_algorithm_oid:
            return False
        signing.public_key().verify(made[1].signature, made[1].tbs_certificate_bytes, ec.ECDSA(hashes.SHA256()))
    return True


def _key_identifier(key: asn1.BitString) -> asn1.TLV:
    """RFC 5280 section 4.2.1.2 (1): the SHA-1 of the key's bits. It names the key and protects nothing."""
    digest = hashlib.sha1(key.as_bytes(), usedforsecurity=False).digest()
    return _encoded(_Extension(oid=x509.SubjectKeyIdentifier.oid, critical=False, value=asn1.encode_der(digest)))


def _validity(not_before: datetime, not_after: datetime) -> asn1.TLV:
    if not_after < not_before:
        raise ValueError("a certificate must not end before it begins")
    return _encoded(_Validity(not_before=_time(not_before), not_after=_time(not_after)))


def _time(moment: datetime) -> asn1.UTCTime | asn1.GeneralizedTime:
    if moment.microsecond or moment.tzinfo is None:
        raise ValueError("the times of a certificate are whole seconds of a known zone")
    moment = moment.astimezone(UTC)
    return asn1.UTCTime(moment) if moment.year < _GENERALIZED_FROM else asn1.GeneralizedTime(moment)


def _extension(extension: leaf.Extension) -> asn1.TLV:
    return _encoded(_Extension(oid=extension.oid, critical=extension.critical, value=extension.value.public_bytes()))


def _encoded(value: object) -> asn1.TLV:
    return _tlv(asn1.encode_der(value))


def _tlv(der: bytes) -> asn1.TLV:
    return asn1.decode_der(asn1.TLV, der)
