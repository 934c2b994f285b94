"""What a folder offers: an issuing authority with its key and the roots to trust, once all is well with it (pure)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.authority.soundness import (
    KeyUnusableError,
    authority_faults,
    domain_fault,
    fits,
    read_authority_key,
    root_faults,
)
from ca.issuance.leaf import PlainLeafSigner
from ca.issuance.lifetime import LimitedBy, Validity
from ca.keys.kinds import AuthorityKey
from ca.upstream.files.folder import Content, invalid
from ca.upstream.lineage import (
    MOST_ROOTS,
    ONE_NAME_EACH,
    FaultyLineageError,
    NoLineageError,
    lineage,
    named,
    namesakes,
)
from citadel.bundle import TrustBundle
from citadel.certificate_chain import read_chain
from citadel.certification_path import UNREADABLE, extension_of
from citadel.errors import CitadelError, InvalidArgument
from citadel.name_constraints import is_refused_by_envoy
from citadel.reserved import server_id
from citadel.serial import new_serial
from citadel.server_anchors import server_anchors
from citadel.spiffe import TrustDomain
from citadel.svid import verify_x509_svid

_TRIAL: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An issuing authority that could sign now. `chain` stands between it and `root`, which is one of `roots`."""

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    root: x509.Certificate
    roots: tuple[x509.Certificate, ...]
    key: AuthorityKey = field(repr=False, compare=False)


def offer_of(
    content: Content, *, trust_domain: TrustDomain, now: datetime, trusted: Collection[x509.Certificate] = ()
) -> Offer:
    """What the folder offers. Where it leads to several roots, one that is `trusted` already is taken.

    Raises `FailedPrecondition` (`upstream_invalid`), naming the file. Signs for a moment: not for the event loop.
    """
    names = content.names
    certificate, *others = _certificates(content, names.certificate)
    if names.chain is not None:
        others += _certificates(content, names.chain)
    roots = _roots(content, trust_domain, now)
    _check_authority(content, certificate, trust_domain, now)
    key = _key(content, certificate)
    chain, root = _path(content, certificate, others, roots, now=now, trusted=trusted)
    offer = Offer(certificate=certificate, chain=chain, root=root, roots=roots, key=key)
    _check_by_trial(content, offer, trust_domain, now)
    _check_it_is_known(content, offer, trust_domain, now)
    return offer


def _certificates(content: Content, name: str) -> Sequence[x509.Certificate]:
    try:
        return read_chain(content.files[name])
    except InvalidArgument as error:
        raise invalid(content.path(name), f"is no whole file of certificates: {error.message}") from error


def _check_authority(content: Content, certificate: x509.Certificate, trust_domain: TrustDomain, now: datetime) -> None:
    path = content.path(content.names.certificate)
    for fault in authority_faults(certificate, now=now):
        raise invalid(path, fault)
    if fault := domain_fault(certificate, trust_domain):
        raise invalid(path, fault, fix="put the authority of this cluster there")
    if extension_of(certificate, x509.NameConstraints) is not None and is_refused_by_envoy(trust_domain):
        raise invalid(path, f"has a name constraint, and Envoy then refuses every certificate of {trust_domain}")


def _key(content: Content, certificate: x509.Certificate) -> AuthorityKey:
    path = content.path(content.names.key)
    try:
        key = read_authority_key(content.files[content.names.key])
    except KeyUnusableError as error:
        fix = "put it there without a passphrase, mode 0600" if "encrypted" in str(error) else ""
        raise invalid(path, str(error), fix=fix) from error
    if not fits(key, certificate):
        raise invalid(path, f"does not fit {content.names.certificate}")
    return key


def _roots(content: Content, trust_domain: TrustDomain, now: datetime) -> tuple[x509.Certificate, ...]:
    """Those that are listed and have not ended: an old one that was left there says nothing any more."""
    path = content.path(content.names.roots)
    listed = tuple(dict.fromkeys(_certificates(content, content.names.roots)))
    if len(listed) > MOST_ROOTS:
        raise invalid(path, f"lists {len(listed)} roots, more than {MOST_ROOTS}")
    roots = tuple(root for root in listed if root.not_valid_after_utc > now)
    if not roots:
        raise invalid(path, "lists no root that has not expired")
    for root in roots:
        for fault in root_faults(root, now=now):
            raise invalid(path, f"lists {named(root)}, which {fault}")
        if fault := domain_fault(root, trust_domain):
            raise invalid(path, f"lists {named(root)}, which {fault}")
    if twins := namesakes(roots):
        raise invalid(path, f"lists two roots of one name, {named(twins[0])}, with different keys", fix=ONE_NAME_EACH)
    return roots


def _path(
    content: Content,
    certificate: x509.Certificate,
    others: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    *,
    now: datetime,
    trusted: Collection[x509.Certificate],
) -> tuple[tuple[x509.Certificate, ...], x509.Certificate]:
    """What stands between the certificate and its root, and that root."""
    path = content.path(content.names.certificate)
    try:
        return lineage(certificate, others, roots, now=now, trusted=trusted)
    except FaultyLineageError as error:
        raise invalid(path, str(error)) from error
    except NoLineageError as error:
        raise invalid(
            path,
            f"leads to no root in {content.names.roots}{f': {error}' if str(error) else ''}",
            fix="put its root there, and what stands between them beside it",
        ) from error


def _check_by_trial(content: Content, offer: Offer, trust_domain: TrustDomain, now: datetime) -> None:
    """Sign a leaf and have it verified, as every peer will: path lengths, name constraints and all else in one."""
    spiffe_id = server_id(trust_domain)
    leaf = PlainLeafSigner(issuer=offer.certificate).sign(
        key=offer.key,
        spiffe_id=spiffe_id,
        dns_names=(),
        public_key=ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        validity=Validity(
            not_before=offer.certificate.not_valid_before_utc,
            not_after=min(now + _TRIAL, offer.certificate.not_valid_after_utc),
            limited_by=LimitedBy.ISSUER,
        ),
        serial=new_serial(),
    )
    chain = [leaf, *(each.public_bytes(Encoding.DER) for each in (offer.certificate, *offer.chain))]
    try:
        bundle = TrustBundle(trust_domain=trust_domain, x509_authorities=(offer.root,))
        verify_x509_svid(chain, {trust_domain: bundle}, now)
    except (CitadelError, *UNREADABLE) as error:
        problem = error.message if isinstance(error, CitadelError) else str(error)
        path = content.path(content.names.certificate)
        raise invalid(path, f"signs nothing that peers would take: {problem}") from error


def _check_it_is_known(content: Content, offer: Offer, trust_domain: TrustDomain, now: datetime) -> None:
    """Agents know their server by this authority where the root names no trust domain."""
    bundle = TrustBundle(trust_domain=trust_domain, x509_authorities=(offer.root,))
    if not server_anchors(bundle, (offer.certificate, *offer.chain), now=now):
        raise invalid(
            content.path(content.names.certificate),
            f"does not say that it is of {trust_domain}, nor does its root: agents could not know their server",
            fix=f"sign one with the URI {trust_domain.id} as `citadel-cli root sign` does, or with path length 0",
        )
