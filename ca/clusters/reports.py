"""What is believed of a child's report. Pure: a child must not be able to speak for others.

Each authority that it names must be one that was signed for it here, and each list must be that authority's own and
look as lists do here: what is pushed to Envoy was validated first (invariant 9). Envoy refuses more than what is wrong,
and a list that it cannot take would withhold those of everybody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.clusters.model import Said
from ca.revocation.crl import is_as_built
from citadel._wire import clusters_pb2 as pb
from citadel._wire import types_pb2
from citadel.bundle import TrustBundle
from citadel.certification_path import UNREADABLE
from citadel.errors import InvalidArgument, Reason
from citadel.jwk import JwtKey
from citadel.revocation import RevocationList
from citadel.spiffe import TrustDomain

_MOST_KEYS: Final = 1000
_MOST_BYTES: Final = 4 * 1024 * 1024  # of lists: about a hundred thousand certificates that are revoked
_SAID_TWICE: Final = "an issuing authority twice"


@dataclass(slots=True)
class Reading:
    """What was believed, and why the rest was not."""

    said: Said
    ignored: list[str] = field(default_factory=list)


def read_report(
    report: pb.ClusterReport,
    *,
    trust_domain: TrustDomain,
    signed: Collection[x509.Certificate],
    taken: Collection[str],
    known: Iterable[RevocationList] = (),
    at: datetime,
) -> Reading:
    """Read what a child says of authorities and keys.

    `signed` are the authorities that were signed for it, `taken` the ids of JWT keys of others, `known` lists of it
    that were verified before. Raises `InvalidArgument` (`bundle_malformed`) where its keys cannot be read at all.
    """
    ignored: list[str] = []
    room = _MOST_BYTES
    own = {each.public_bytes(Encoding.DER): each for each in signed}
    verified = {(each.issuer, each.der): each for each in known}
    issuers: set[x509.Certificate] = set()
    lists: dict[x509.Certificate, RevocationList] = {}
    for each in report.issuers:
        issuer = own.get(each.certificate)
        if issuer is None or issuer in issuers:
            ignored.append(_SAID_TWICE if issuer else "an issuing authority that was not signed for it here")
            continue
        issuers.add(issuer)
        room -= len(each.crl)
        if room < 0:  # the whole must fit what its clusters and agents take; without this list, nobody checks any
            ignored.append(f"revocation lists of more than {_MOST_BYTES} bytes together")
        elif each.crl:
            try:
                lists[issuer] = verified.get((issuer, each.crl)) or read_list(each)
            except InvalidArgument as error:
                ignored.append(error.message)
    said = Said(
        at=at,
        issuers=frozenset(issuers),
        lists=tuple(sorted(lists.values(), key=lambda each: each.issuer_key_id)),
        without_list=frozenset(issuers - lists.keys()),
        jwt_keys=_keys(report.jwt_keys, trust_domain, taken, ignored),
    )
    return Reading(said, ignored)


def kept_report(said: Said, trust_domain: TrustDomain) -> pb.ClusterReport:
    """What was believed, as a report that says nothing else."""
    by_issuer = {each.issuer: each.der for each in said.lists}
    keys = TrustBundle(trust_domain=trust_domain, jwt_authorities=said.jwt_keys)
    return pb.ClusterReport(
        issuers=[
            pb.IssuerReport(certificate=each.public_bytes(Encoding.DER), crl=by_issuer.get(each, b""))
            for each in sorted(said.issuers, key=lambda each: each.serial_number)
        ],
        jwt_keys=types_pb2.Bundle(trust_domain=trust_domain.name, json=keys.to_json()),
        withdrawn_jwt_keys=said.withdrawn,
    )


def read_list(reported: pb.IssuerReport) -> RevocationList:
    """The list of an authority, which signed it. Raises `InvalidArgument` (`revocations_malformed`)."""
    found = RevocationList.from_der(reported.certificate, reported.crl)
    try:
        if not is_as_built(found.crl, found.issuer):
            raise _malformed("a revocation list is not in the form in which they are signed here")
    except UNREADABLE as error:
        raise _malformed(f"a revocation list cannot be read: {error}") from error
    return found


def _keys(
    bundle: types_pb2.Bundle, trust_domain: TrustDomain, taken: Collection[str], ignored: list[str]
) -> Mapping[str, JwtKey]:
    if not bundle.json:
        return {}
    if bundle.trust_domain != trust_domain.name:
        ignored.append("JWT keys of another trust domain")
        return {}
    keys: dict[str, JwtKey] = {}
    for kid, key in TrustBundle.from_json(trust_domain, bundle.json).jwt_authorities.items():
        if len(keys) == _MOST_KEYS:
            ignored.append(f"more than {_MOST_KEYS} JWT keys")
            break
        if kid in taken:
            ignored.append(f"the JWT key {kid[:100]!r}: another one has this id")
        else:
            keys[kid] = key
    return keys


def _malformed(message: str) -> InvalidArgument:
    return InvalidArgument(Reason.REVOCATIONS_MALFORMED, message)
