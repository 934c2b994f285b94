"""SDS resources: Envoy's `Secret` messages, built once and shared by every stream that sends them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeAlias

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from envoy.config.core.v3 import base_pb2, extension_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_spiffe_validator_config_pb2
from google.protobuf.any_pb2 import Any as PackedMessage
from google.protobuf.message import Message

from citadel.spiffe import TrustDomain
from sds.holdings import HeldSvid

SECRET_TYPE_URL: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a type's name
_SPIFFE_VALIDATOR: Final = "envoy.tls.cert_validator.spiffe"
_VERSION_DIGITS: Final = 16  # 64 bits tell contents apart; nobody gains by making two collide


@dataclass(frozen=True, slots=True)
class SvidFacts:
    """What a certificate resource holds, as it is reported."""

    spiffe_id: str
    serial: str
    not_after: datetime
    issuer_key_id: bytes = b""


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """What a validation context holds, as it is reported; of several bundles, the caller's own.

    `revocation_version` is that of the set whose lists stand in it; empty where none do.
    """

    trust_domain: str
    sequence: int
    revocation_version: str = ""


@dataclass(frozen=True, slots=True)
class CredentialFacts:
    """What a gateway's credential holds, as it is reported: of authorities nothing."""

    serial: str = ""
    not_after: datetime | None = None


Facts: TypeAlias = SvidFacts | BundleFacts | CredentialFacts


@dataclass(frozen=True, slots=True)
class Resource:
    """One secret, ready to send. `version` stands for its content: the same content, the same version."""

    name: str
    version: str
    facts: Facts
    body: PackedMessage = field(repr=False, compare=False)


def certificate_resource(name: str, held: HeldSvid) -> Resource:
    """An SVID with its key as a `tls_certificate` called `name`."""
    secret = secret_pb2.Secret(
        name=name,
        tls_certificate=common_pb2.TlsCertificate(certificate_chain=_inline(held.svid.chain_pem)),
    )
    version = _version_of(secret)  # the leaf stands for its key, so that nothing made from the key is ever reported
    secret.tls_certificate.private_key.inline_bytes = _key_pem(held.private_key)
    facts = SvidFacts(str(held.svid.spiffe_id), held.svid.serial, held.svid.not_after, held.issuer_key_id)
    return Resource(name, version, facts, _packed(secret))


def plain_context_resource(name: str, authorities: bytes, facts: BundleFacts, *, lists: bytes = b"") -> Resource:
    """The authorities (PEM, at least one) of the one domain that a caller trusts, as a `trusted_ca`.

    `lists` are the revocation lists (PEM) of all that sign leaves, if there are any.
    """
    context = common_pb2.CertificateValidationContext(trusted_ca=_inline(authorities))
    if lists:
        context.crl.CopyFrom(_inline(lists))
        context.only_verify_leaf_cert_crl = True  # without it Envoy asks for a list of the root as well
    return _context_resource(name, context, facts)


def spiffe_context_resource(name: str, authorities: Mapping[TrustDomain, bytes], facts: BundleFacts) -> Resource:
    """Authorities (PEM, at least one each) of several domains, for Envoy's SPIFFE validator.

    Behind the authorities may stand revocation lists of every one of them and of all that sign leaves under them: this
    validator reads them there, and ignores the `crl` of the context.

    It picks the roots by the peer's own trust domain (X509-36); a `trusted_ca` of all of them would let the roots of
    one domain vouch for IDs of another (invariant 7).
    """
    validator = tls_spiffe_validator_config_pb2.SPIFFECertValidatorConfig(
        trust_domains=[
            tls_spiffe_validator_config_pb2.SPIFFECertValidatorConfig.TrustDomain(
                name=trust_domain.name, trust_bundle=_inline(authorities[trust_domain])
            )
            for trust_domain in sorted(authorities)
        ]
    )
    extension = extension_pb2.TypedExtensionConfig(name=_SPIFFE_VALIDATOR, typed_config=_packed(validator))
    return _context_resource(name, common_pb2.CertificateValidationContext(custom_validator_config=extension), facts)


def gateway_certificate_resource(name: str, chain: bytes, key: bytes, facts: CredentialFacts) -> Resource:
    """A gateway's own certificate with its key, both PEM."""
    secret = secret_pb2.Secret(name=name, tls_certificate=common_pb2.TlsCertificate(certificate_chain=_inline(chain)))
    version = _version_of(secret)  # as above
    secret.tls_certificate.private_key.inline_bytes = key
    return Resource(name, version, facts, _packed(secret))


def gateway_context_resource(name: str, authorities: bytes, lists: bytes) -> Resource:
    """What vouches for a gateway's clients, with revocation lists where there are any; both PEM."""
    context = common_pb2.CertificateValidationContext(trusted_ca=_inline(authorities))
    if lists:
        context.crl.CopyFrom(_inline(lists))
    return _context_resource(name, context, CredentialFacts())


def _context_resource(name: str, context: Any, facts: BundleFacts | CredentialFacts) -> Resource:
    secret = secret_pb2.Secret(name=name, validation_context=context)
    return Resource(name, _version_of(secret), facts, _packed(secret))


def _key_pem(private_key: bytes) -> bytes:
    # Our own key, checked when it was made: RSA's costly check would only stop the event loop.
    key = load_der_private_key(private_key, None, unsafe_skip_rsa_key_validation=True)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _inline(data: bytes) -> Any:
    return base_pb2.DataSource(inline_bytes=data)


def _packed(message: Message) -> PackedMessage:
    packed = PackedMessage()
    packed.Pack(message, deterministic=True)
    return packed


def _version_of(message: Message) -> str:
    return hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()[:_VERSION_DIGITS]
