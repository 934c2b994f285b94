"""CA certificates: what a root and an issuing authority look like (pure; the lines X509-07 to X509-21)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from ca.keys.kinds import AuthorityKey, AuthorityPublicKey, hash_for
from citadel.serial import new_serial
from citadel.spiffe import TrustDomain

# keyCertSign and cRLSign only: the table of the standard ties the other bits to leaves (X509-19 to X509-21).
CA_KEY_USAGE: Final = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def build_root(
    *,
    trust_domain: TrustDomain | None,
    key: AuthorityKey,
    now: datetime,
    lifetime: timedelta,
    backdate: timedelta,
    serial: int | None = None,
) -> x509.Certificate:
    """A self-signed root that names its trust domain, valid from a little before `now` for `lifetime` from now.

    One that is for clusters of several trust domains names none. Where `serial` is not given, each is another one.
    """
    serial = new_serial() if serial is None else serial
    name = unique_subject("Citadel Root", serial)
    builder = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key(), serial_number=serial)
        .not_valid_before(now - backdate)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(CA_KEY_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if trust_domain is not None:
        builder = builder.add_extension(trust_domain_san(trust_domain), critical=False)
    return builder.sign(key, hash_for(key))


def build_issuer(  # noqa: PLR0913 - what a certificate says
    *,
    trust_domain: TrustDomain,
    public_key: AuthorityPublicKey,
    root: x509.Certificate,
    root_key: AuthorityKey,
    not_before: datetime,
    not_after: datetime,
    cluster: str = "",
    is_constrained: bool = False,
    serial: int | None = None,
) -> x509.Certificate:
    """An intermediate that may sign leaves and nothing else (`pathlen:0`), never outliving its root (invariant 6).

    With `is_constrained` everybody refuses what it signs for another trust domain, also where they trust its root.
    Where `serial` is not given, each is another one.
    """
    serial = new_serial() if serial is None else serial
    builder = (
        x509.CertificateBuilder(
            subject_name=unique_subject(f"Citadel Issuer {cluster}".rstrip(), serial),
            issuer_name=root.subject,
            public_key=public_key,
            serial_number=serial,
        )
        .not_valid_before(max(not_before, root.not_valid_before_utc))
        .not_valid_after(min(not_after, root.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(CA_KEY_USAGE, critical=True)
        .add_extension(trust_domain_san(trust_domain), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(authority_key_identifier(root), critical=False)
    )
    if is_constrained:
        builder = builder.add_extension(only_within(trust_domain), critical=True)
    return builder.sign(root_key, hash_for(root_key))


def subject_key_id(certificate: x509.Certificate) -> bytes:
    """What certificates under this authority call it by. Raises `x509.ExtensionNotFound`."""
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


def authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The identifier that certificates under `issuer` carry."""
    ski = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ski)


def unique_subject(common_name: str, serial: int) -> x509.Name:
    """A subject of its own for every CA certificate.

    BoringSSL looks issuers up by name, and two roots of one name break verification while a rotation has both in the
    bundle.
    """
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, f"{serial:032x}"),
        ]
    )


def trust_domain_san(trust_domain: TrustDomain) -> x509.SubjectAlternativeName:
    """How an authority says whose it is."""
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(trust_domain.id))])


def only_within(trust_domain: TrustDomain) -> x509.NameConstraints:
    """That an authority signs for this trust domain alone."""
    # A leading dot would let in the domains below and not the domain itself (RFC 5280 section 4.2.1.10). A leaf with no
    # URI at all is let through, and is no SVID.
    return x509.NameConstraints(
        permitted_subtrees=[x509.UniformResourceIdentifier(trust_domain.name)], excluded_subtrees=None
    )
