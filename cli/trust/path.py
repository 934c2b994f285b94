"""Whether the path from what the peer signs leads to a root that the believer trusts (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from citadel.certification_path import NoPathError, extension_of, find_path, weakness_of
from citadel.grade import Grade
from citadel.name_constraints import constrains_uris, forbidding, is_refused_by_envoy
from citadel.serial import serial_hex
from citadel.spiffe import TrustDomain
from cli.trust.check import Check, Side, Subject, Way
from cli.trust.facts import ClusterFacts, Source
from cli.trust.shared import EXCHANGE, are_of_one_domain, counted, domain_of, trusted_of

_LITTLE: Final = 10  # an authority with less than this part of its life left should have been replaced
_NEW_AUTHORITY: Final = "make a new issuing authority with `citadel-cli root sign`"


def path_checks(believer: ClusterFacts, peer: ClusterFacts, way: Way, now: datetime) -> Iterator[Check]:
    """Everything about the certificates on the way; `now` is the believer's clock."""

    def check(subject: Subject, grade: Grade, finding: str, fix: str = "", at: Side = way.peer) -> Check:
        return Check(subject=subject, way=way, grade=grade, finding=finding, fix=fix, at=at)

    if not peer.issuing:
        yield check(
            Subject.AUTHORITY, Grade.BAD, "there is none that signs", "see `citadel-cli status`, and its upstream"
        )
        return
    yield (
        check(Subject.AUTHORITY, Grade.BAD, peer.issuing_trouble, "finish its rotation: `citadel-cli rotate watch`")
        if peer.issuing_trouble
        else check(Subject.AUTHORITY, Grade.GOOD, _named(peer.issuing[0]))
    )
    trusted = trusted_of(believer, peer)
    if trusted is None and believer.source is not Source.FOLDER:
        return  # it is told of the federation that there is no bundle
    if trusted is None:
        trusted = peer.roots
        told = "a folder does not say whom its cluster trusts of other domains; what follows is by the other's roots"
        fix = "name the admin socket of the server in place of the folder, or a file of `citadel-cli trust export`"
        yield check(Subject.ROOT, Grade.UNKNOWN, told, fix, way.believer)
    anchor = _anchor(peer.issuing, trusted)
    if anchor is None:
        yield check(
            Subject.ROOT,
            Grade.BAD,
            f"{_named(peer.issuing[-1])} leads to no root that is trusted (of {len(trusted)})",
            _root_fix(believer, peer),
            Side.BOTH if are_of_one_domain(believer, peer) else way.believer,
        )
        return
    yield check(Subject.ROOT, Grade.GOOD, _named(anchor))
    path = (*peer.issuing, anchor) if anchor != peer.issuing[-1] else peer.issuing
    for found in _judged(path, trusted, domain_of(peer, believer), now):
        yield check(*found)
    forgery = _forgery(believer, peer)
    if forgery is not None:
        yield check(*forgery)


_Found = tuple[Subject, Grade, str, str]


def _judged(
    path: Sequence[x509.Certificate], trusted: Sequence[x509.Certificate], domain: TrustDomain | None, now: datetime
) -> Iterator[_Found]:
    yield _constraints(path, domain)
    yield _path_length(path)
    yield _lifetimes(path, now)
    yield _walk(path, trusted, now)


def _constraints(path: Sequence[x509.Certificate], domain: TrustDomain | None) -> _Found:
    if domain is None or not constrains_uris(path):
        return Subject.CONSTRAINTS, Grade.GOOD, "none", ""
    forbids = forbidding(path, domain)
    if forbids is not None:
        return (
            Subject.CONSTRAINTS,
            Grade.BAD,
            f"{_named(forbids)} may not speak for {domain}",
            f"{_NEW_AUTHORITY} for {domain}, or run the cluster in the domain that it was signed for",
        )
    if is_refused_by_envoy(domain):
        return (
            Subject.CONSTRAINTS,
            Grade.BAD,
            f"Envoy cannot compare {domain} with name constraints, and refuses it",
            "take a name without an underscore that is no IP address, or an issuing authority without constraints",
        )
    return Subject.CONSTRAINTS, Grade.GOOD, f"they permit {domain}", ""


def _path_length(path: Sequence[x509.Certificate]) -> _Found:
    for below, authority in enumerate(path):
        constraints = extension_of(authority, x509.BasicConstraints)
        if constraints is None or not constraints.ca:
            return Subject.PATH_LENGTH, Grade.BAD, f"{_named(authority)} is no authority (CA:TRUE)", _NEW_AUTHORITY
        if constraints.path_length is not None and constraints.path_length < below:
            return (
                Subject.PATH_LENGTH,
                Grade.BAD,
                f"{_named(authority)} allows {constraints.path_length} below it, and there are {below}",
                f"{_NEW_AUTHORITY} by a root that allows as many",
            )
    return Subject.PATH_LENGTH, Grade.GOOD, "it suffices", ""


def _lifetimes(path: Sequence[x509.Certificate], now: datetime) -> _Found:
    for authority in path:
        begin, end = authority.not_valid_before_utc, authority.not_valid_after_utc
        if end <= now:
            return Subject.LIFETIMES, Grade.BAD, f"{_named(authority)} ended at {end:%Y-%m-%dT%H:%M:%SZ}", "renew it"
        if begin > now:
            told = f"{_named(authority)} is valid only from {begin:%Y-%m-%dT%H:%M:%SZ} on"
            return Subject.LIFETIMES, Grade.BAD, told, "set the clocks right (NTP), or wait"
    first = min(path, key=lambda each: each.not_valid_after_utc)
    end = first.not_valid_after_utc
    told = f"{_named(first)} ends first, at {end:%Y-%m-%dT%H:%M:%SZ}"
    if end - now < (end - first.not_valid_before_utc) / _LITTLE:
        return Subject.LIFETIMES, Grade.WARNING, told, "it should have been replaced by now: see `citadel-cli status`"
    return Subject.LIFETIMES, Grade.GOOD, told, ""


def _walk(path: Sequence[x509.Certificate], trusted: Sequence[x509.Certificate], now: datetime) -> _Found:
    # The same walk by which an SVID is judged, for all that no rule here knows.
    try:
        walked = find_path(path[0], path[1:], trusted, now=now.replace(microsecond=0))
    except NoPathError as error:
        return (
            Subject.PATH,
            Grade.BAD,
            f"it is refused: {error.why}",
            "see the findings above, or replace what it names",
        )
    for authority in walked:
        if weakness := weakness_of(authority, is_anchor=authority == walked[-1]):
            return Subject.PATH, Grade.BAD, f"{_named(authority)} {weakness}", "replace it"
    return Subject.PATH, Grade.GOOD, f"{counted(len(walked), 'authority', 'authorities')}, all signatures good", ""


def _forgery(believer: ClusterFacts, peer: ClusterFacts) -> _Found | None:
    """Whether the peer's authority can sign identities of the believer's domain that the believer would take."""
    anchor = _anchor(peer.issuing, believer.roots)
    if anchor is None or believer.trust_domain is None:
        return None
    if forbidding((*peer.issuing, anchor), believer.trust_domain) is not None:
        told = f"name constraints keep the signer from those of {believer.trust_domain}"
        return Subject.FORGERY, Grade.GOOD, told, ""
    told = f"the signer can make every identity of {believer.trust_domain}, by the root that both have"
    if are_of_one_domain(believer, peer):
        return Subject.FORGERY, Grade.GOOD, f"{told}: clusters of one trust domain and one root are one trust", ""
    fix = "sign its authority anew with name constraints (`citadel-cli root sign` does), or give it a root of its own"
    return Subject.FORGERY, Grade.WARNING, told, fix


def _anchor(issuing: Sequence[x509.Certificate], trusted: Sequence[x509.Certificate]) -> x509.Certificate | None:
    """The trusted authority that the chain leads to. One of the chain that is trusted itself counts too."""
    itself = next((each for each in issuing if each in trusted), None)
    return itself or next((root for root in trusted if issuing and _has_signed(root, issuing[-1])), None)


def _has_signed(root: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        authority.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _root_fix(believer: ClusterFacts, peer: ClusterFacts) -> str:
    if are_of_one_domain(believer, peer):
        return f"sign both issuing authorities by one root; or {EXCHANGE}"
    domain = peer.trust_domain
    return (
        f"`citadel-cli federation refresh {domain}`, or `citadel-cli bundle set {domain} FILE --reason TEXT` with its "
        "bundle of now"
    )


def _named(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(names[0].value) if names else certificate.subject.rfc4514_string() or "an authority without a name"
    return f"{name} ({serial_hex(certificate.serial_number)[:12]})"
