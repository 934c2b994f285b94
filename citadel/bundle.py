"""Trust bundles: the keys by which the SVIDs of one trust domain are believed, and their SPIFFE JSON form.

Source: SPIFFE_Trust_Domain_and_Bundle.md and the bundle sections of X509-SVID.md and JWT-SVID.md (the lines BUNDLE-*,
X509-37 to 44, JWT-25 to 29 of the conformance checklist). A bundle does not name its trust domain in its JSON, so the
two always travel together here (BUNDLE-16), and bundles of different domains are never merged (invariant 7).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import MappingProxyType
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from citadel.bundle_keys import (
    Tell,
    check_jwt_authority,
    check_x509_authority,
    jwt_entry,
    tell_in_log,
    usable_keys,
    x509_entry,
)
from citadel.certification_path import UNREADABLE, extension_of
from citadel.errors import InvalidArgument, Reason
from citadel.jwk import JwtKey
from citadel.spiffe import TrustDomain
from citadel.strict_json import load_object

MAX_BUNDLE_BYTES: Final = 16 * 1024 * 1024
DEFAULT_REFRESH_INTERVAL: Final = timedelta(minutes=5)  # BUNDLE-20


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustBundle:
    """The authorities of one trust domain. Without any, it is valid and trusts nothing (BUNDLE-03).

    Two bundles are equal when they hold the same: the X.509 authorities are kept in the order of their DER without
    duplicates, the JWT authorities (public keys by key id) in the order of their ids. `refresh_hint` is whole seconds.
    The constructor raises `InvalidArgument` (`bundle_malformed`) for what the JSON form could not say.
    """

    trust_domain: TrustDomain
    x509_authorities: tuple[x509.Certificate, ...] = ()
    jwt_authorities: Mapping[str, JwtKey] = field(default_factory=dict, hash=False)
    sequence: int | None = None
    refresh_hint: timedelta | None = None

    def __post_init__(self) -> None:
        for certificate in self.x509_authorities:
            check_x509_authority(certificate)
        for kid, key in self.jwt_authorities.items():
            check_jwt_authority(kid, key)
        if self.sequence is not None and (type(self.sequence) is not int or self.sequence < 0):
            raise _malformed(f"the sequence {self.sequence!r} is not an integer from 0 up")
        if self.refresh_hint is not None and (self.refresh_hint < timedelta() or self.refresh_hint.microseconds):
            raise _malformed(f"the refresh hint {self.refresh_hint} is not a whole number of seconds")
        by_der = {certificate.public_bytes(Encoding.DER): certificate for certificate in self.x509_authorities}
        object.__setattr__(self, "x509_authorities", tuple(by_der[der] for der in sorted(by_der)))
        object.__setattr__(self, "jwt_authorities", MappingProxyType(dict(sorted(self.jwt_authorities.items()))))

    def names_its_domain(self) -> bool:
        """Whether each X.509 authority says that it is of this trust domain; one that does not may be over others."""
        return all(names_of(authority) == [str(self.trust_domain.id)] for authority in self.x509_authorities)

    def named_otherwise(self) -> set[str]:
        """The trust domains that X.509 authorities say they are of, where they do not say this one.

        An authority must be of the trust domain of what it signs (X509-SVID, section 2), if it says of which it is.
        """
        named = ({_domain_in(uri) for uri in names_of(each)} - {""} for each in self.x509_authorities)
        return set().union(*(names for names in named if self.trust_domain.name not in names))

    @classmethod
    def from_json(cls, trust_domain: TrustDomain, data: bytes, *, tell: Tell = tell_in_log) -> Self:
        """Parse a SPIFFE bundle document of `trust_domain`, UTF-8 JSON of at most `MAX_BUNDLE_BYTES`.

        Raises `InvalidArgument` (`bundle_malformed`) when the document has no one meaning: not JSON, a member named
        twice, no array `keys`, a sequence or refresh hint of the wrong type, two JWT keys under one id.

        A single unusable element of `keys` is skipped (RFC 7517 section 5, BUNDLE-12, BUNDLE-14, X509-42), and `tell`
        is told once for all of them. That only ever trusts less; refusing the whole document would leave the old bundle
        in force, and with it the keys that this one takes away (BUNDLE-18).
        """
        return cls.from_document(trust_domain, _load(data), tell=tell)

    @classmethod
    def from_document(
        cls, trust_domain: TrustDomain, document: Mapping[str, object], *, tell: Tell = tell_in_log
    ) -> Self:
        """As `from_json`, from the JSON object itself, which the caller parsed with `citadel.strict_json`."""
        keys = document.get("keys")
        if not isinstance(keys, list):
            raise _malformed("the bundle has no array `keys`")  # BUNDLE-02
        x509_authorities, jwt_authorities = usable_keys(trust_domain, keys, tell)
        return cls(
            trust_domain=trust_domain,
            x509_authorities=x509_authorities,
            jwt_authorities=jwt_authorities,
            sequence=_natural(document, "spiffe_sequence"),
            refresh_hint=_seconds(document, "spiffe_refresh_hint"),
        )

    def to_json(self) -> bytes:
        """The SPIFFE bundle document; equal bundles give equal bytes. Only public members are ever written."""
        return _dump(self.to_document())

    def to_document(self) -> dict[str, object]:
        """The JSON object of `to_json`."""
        document: dict[str, object] = {
            "keys": [x509_entry(certificate) for certificate in self.x509_authorities]
            + [jwt_entry(kid, key) for kid, key in self.jwt_authorities.items()]
        }
        if self.sequence is not None:
            document["spiffe_sequence"] = self.sequence
        if self.refresh_hint is not None:
            document["spiffe_refresh_hint"] = self.refresh_hint // timedelta(seconds=1)
        return document

    def to_pem(self) -> bytes:
        """The X.509 authorities as concatenated PEM; empty when there are none."""
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in self.x509_authorities)

    def x509_digest(self) -> str:
        """SHA-256, in lowercase hex, of the X.509 authorities' DER in sorted order: what a join string pins.

        Depends on nothing else: not on their order, the sequence, the refresh hint or the JWT authorities.
        """
        digest = hashlib.sha256()
        for certificate in self.x509_authorities:
            digest.update(certificate.public_bytes(Encoding.DER))
        return digest.hexdigest()

    def jwt_digest(self) -> str:
        """SHA-256, in lowercase hex, of the JWT authorities alone."""
        entries = [jwt_entry(kid, key) for kid, key in self.jwt_authorities.items()]
        return hashlib.sha256(_dump({"keys": entries})).hexdigest()

    @property
    def refresh_interval(self) -> timedelta:
        """How long to wait between polls: the hint, or five minutes where there is none or it is zero."""
        return self.refresh_hint or DEFAULT_REFRESH_INTERVAL


def names_of(authority: x509.Certificate) -> list[str]:
    """The URIs by which it names its trust domain; none where it may be over several, or cannot be read."""
    try:
        names = extension_of(authority, x509.SubjectAlternativeName)
    except UNREADABLE:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []


def bundle_map_from_json(data: bytes) -> Mapping[TrustDomain, TrustBundle]:
    """Parse a SPIFFE bundle map, whole or not at all (BUNDLE-26).

    The members' refresh hints are dropped, so that none can change how the map itself is refreshed (BUNDLE-25). Raises
    `InvalidArgument` (`bundle_malformed`, `trust_domain_malformed`) as `TrustBundle.from_json` does, and for a name
    that stands twice (BUNDLE-23) or has a scheme (BUNDLE-21).
    """
    members = _load(data).get("trust_domains")
    if not isinstance(members, dict):
        raise _malformed("the bundle map has no object `trust_domains`")
    bundles: dict[TrustDomain, TrustBundle] = {}
    for name, document in members.items():
        trust_domain = TrustDomain(name)  # not `parse`, which would also take `spiffe://name`
        if not isinstance(document, dict):
            raise _malformed(f"the bundle of {name!r} is not a JSON object")
        bundles[trust_domain] = replace(TrustBundle.from_document(trust_domain, document), refresh_hint=None)
    return MappingProxyType(bundles)


def bundle_map_to_json(bundles: Iterable[TrustBundle]) -> bytes:
    """The SPIFFE bundle map of `bundles`, without their refresh hints (BUNDLE-24).

    Raises `InvalidArgument` (`bundle_malformed`) when two are of one trust domain (BUNDLE-22).
    """
    members: dict[str, object] = {}
    for bundle in bundles:
        if bundle.trust_domain.name in members:
            raise _malformed(f"two bundles of {bundle.trust_domain} cannot stand in one map")
        members[bundle.trust_domain.name] = replace(bundle, refresh_hint=None).to_document()
    return _dump({"trust_domains": members})


def _natural(document: Mapping[str, object], name: str) -> int | None:
    if name not in document:
        return None
    value = document[name]
    if type(value) is not int or value < 0:  # `True` is an int to isinstance, and not to JSON
        raise _malformed(f"{name} is not an integer from 0 up")
    return value


def _seconds(document: Mapping[str, object], name: str) -> timedelta | None:
    value = _natural(document, name)
    try:
        return None if value is None else timedelta(seconds=value)
    except OverflowError as error:
        raise _malformed(f"{name} is longer than time is counted") from error


def _dump(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")


def _domain_in(uri: str) -> str:
    scheme, _, rest = uri.partition("://")
    return rest.partition("/")[0].lower() if scheme.lower() == "spiffe" else ""


def _load(data: bytes) -> dict[str, object]:
    return load_object(data, max_bytes=MAX_BUNDLE_BYTES, reason=Reason.BUNDLE_MALFORMED)


def _malformed(message: str) -> InvalidArgument:
    return InvalidArgument(Reason.BUNDLE_MALFORMED, message)
