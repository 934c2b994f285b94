"""What a PKI engine offers: the issuer that signs now, and the roots to trust, once all is well with them (pure)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NoReturn

from cryptography import x509

from ca.authority.soundness import authority_faults, domain_fault, is_self_signed, root_faults, trust_domain_of
from ca.upstream.lineage import (
    MOST_BETWEEN,
    MOST_ROOTS,
    ONE_NAME_EACH,
    FaultyLineageError,
    NoLineageError,
    lineage,
    named,
    namesakes,
)
from ca.upstream.vault.engine import VaultIssuer, invalid
from citadel.certification_path import UNREADABLE, extension_of
from citadel.name_constraints import constrains_uris, is_refused_by_envoy
from citadel.spiffe import TrustDomain

_MOST_NOTES: Final = 10
_WAIT: Final = "set the clocks of both, or wait until it has begun"
_ANOTHER: Final = "make another one the default there, or name one in upstream.vault.issuer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What signs: the issuer of this id, and the way from it to its root. `chain` is empty where it is the root."""

    issuer_id: str
    chain: tuple[x509.Certificate, ...]
    root: x509.Certificate

    @property
    def ends(self) -> datetime:
        """Nothing that it signs is good after this."""
        return min(each.not_valid_after_utc for each in (*self.chain, self.root))


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was read: all issuers, the id of the one that leads, and the ids of those that issue nothing any more.

    Of those that are `unread` nobody knows whether they do.
    """

    issuers: tuple[VaultIssuer, ...]
    leading: str
    retired: frozenset[str] = frozenset()
    unread: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """`line` is what signs now, `lines` those of all roots that can, `roots` what is to be trusted.

    `notes` say what was left out, and why.
    """

    line: Line
    roots: tuple[x509.Certificate, ...]
    lines: Mapping[x509.Certificate, Line] = field(repr=False)
    notes: tuple[str, ...] = ()


def offer_of(
    found: Found,
    *,
    mount: str,
    trust_domain: TrustDomain,
    now: datetime,
    known: Sequence[x509.Certificate] = (),
    trusted: Collection[x509.Certificate] = (),
) -> Offer:
    """What is offered beside the roots that are `known` here, of which those sign that are `trusted`.

    Raises `FailedPrecondition` (`upstream_invalid`) where nothing good could be signed now. Verifies: off the loop.
    """
    leading = next((each for each in found.issuers if each.id == found.leading), None)
    if leading is None or leading.certificate is None:
        raise invalid(mount, f"has an issuer {found.leading} that cannot be read")
    judged = dict(_judged(found, known, trust_domain, now))
    roots = {each.certificate: each for each, fault in judged.items() if not fault and each.certificate is not None}
    judge = _Judge(mount=mount, trust_domain=trust_domain, now=now)
    line = judge.line(leading, leading.certificate, found, roots, judged, trusted)
    # A right that is lost takes nothing away from what is trusted here, and adds nothing to it.
    unclear = [each for root, each in roots.items() if each.id in found.unread and root not in (*known, line.root)]
    left_out = found.retired.union(each.id for each in unclear)
    listed = [root for root, each in roots.items() if root == line.root or each.id not in left_out]
    listed.sort(key=lambda each: each != line.root and each not in trusted)  # where there are too many, these stay
    notes = [f"{each} in {mount} is not trusted: it {fault}" for each, fault in judged.items() if fault]
    notes += [f"{each} in {mount} is not trusted before it signs: the policy hides its usage" for each in unclear]
    notes = _few(notes, f"more issuers in {mount} are not trusted")
    strange = [
        f"{roots[root]} in {mount} is trusted, and {why}: delete it where nobody knows whose it is"
        for root in listed[:MOST_ROOTS]
        if root != line.root and (why := _strangeness(root, roots[root], found))
    ]
    notes += _few(strange, f"more issuers in {mount} are trusted like these")
    if len(listed) > MOST_ROOTS:
        notes.append(f"{mount} has {len(listed)} roots, and {MOST_ROOTS} are trusted")
    return Offer(
        line=line,
        roots=tuple(listed[:MOST_ROOTS]),
        lines={
            root: Line(issuer_id=each.id, chain=(), root=root)
            for root, each in roots.items()
            if each.has_key and each.id not in left_out
        }
        | {line.root: line},
        notes=tuple(notes),
    )


def _strangeness(root: x509.Certificate, issuer: VaultIssuer, found: Found) -> str:
    """What whoever may do no more than import certificates could have brought; "" where it is none of that."""
    if trust_domain_of(root) is None:
        return "names no trust domain"
    under = (each for each in _certificates(found.issuers) if each != root and each.issuer == root.subject)
    return "has no key there, nor an issuer under it" if not issuer.has_key and next(under, None) is None else ""


def _few(notes: list[str], more: str) -> list[str]:
    return notes if len(notes) <= _MOST_NOTES else [*notes[:_MOST_NOTES], f"{len(notes) - _MOST_NOTES} {more}"]


def _judged(
    found: Found, known: Sequence[x509.Certificate], trust_domain: TrustDomain, now: datetime
) -> Iterator[tuple[VaultIssuer, str]]:
    """What is wrong with each self-signed issuer that has not ended: "" where that is nothing."""
    taken = list(known)
    # Of two of one name that counts which is trusted already, and then that which signs.
    for issuer in sorted(found.issuers, key=lambda each: (each.certificate not in taken, each.id != found.leading)):
        certificate = issuer.certificate
        if certificate is None:
            yield issuer, "has a certificate that cannot be read"
        elif is_self_signed(certificate) and (certificate.not_valid_after_utc > now or issuer.id == found.leading):
            if not (fault := _fault(certificate, taken, trust_domain, now)):
                taken.append(certificate)
            yield issuer, fault


def _fault(
    certificate: x509.Certificate, taken: Sequence[x509.Certificate], trust_domain: TrustDomain, now: datetime
) -> str:
    try:
        if fault := next(root_faults(certificate, now=now), "") or domain_fault(certificate, trust_domain):
            return fault
        if namesakes((*taken, certificate)):
            return f"has the name of another root with another key, {certificate.subject.rfc4514_string()}"
    except UNREADABLE as error:
        return f"cannot be read: {error}"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judge:
    mount: str
    trust_domain: TrustDomain
    now: datetime

    def line(
        self,
        leading: VaultIssuer,
        certificate: x509.Certificate,
        found: Found,
        roots: Mapping[x509.Certificate, VaultIssuer],
        judged: Mapping[VaultIssuer, str],
        trusted: Collection[x509.Certificate],
    ) -> Line:
        """The way from the issuer that leads to its root, with nothing wrong on it."""
        is_root = is_self_signed(certificate)
        for fault in (judged.get(leading), *authority_faults(certificate, now=self.now, is_anchor=is_root)):
            if fault:
                is_early = certificate.not_valid_before_utc > self.now
                fix = ONE_NAME_EACH if fault.startswith("has the name") else _WAIT if is_early else _ANOTHER
                self._refuse(leading, f"which {fault}", fix=fix)
        if is_root:
            line = Line(issuer_id=leading.id, chain=(), root=certificate)
        else:
            others = [*_certificates(found.issuers), *leading.further]
            try:
                between, root = lineage(certificate, others, tuple(roots), now=self.now, trusted=trusted)
            except NoLineageError as error:
                self._refuse(
                    leading,
                    f"which leads to none of its self-signed issuers{f': {error}' if str(error) else ''}",
                    fix=f"import its root there: `vault write {self.mount}/issuers/import/cert pem_bundle=@root.pem`",
                )
            except FaultyLineageError as error:
                self._refuse(leading, f"which {error}")
            line = Line(issuer_id=leading.id, chain=(certificate, *between), root=root)
        self._check(leading, (*line.chain, line.root))
        return line

    def _check(self, leading: VaultIssuer, path: Sequence[x509.Certificate]) -> None:
        """That an issuing authority may stand below all of this."""
        if len(path) > MOST_BETWEEN:  # all of them but the root stand between an issuing authority and that
            self._refuse(leading, f"which stands more than {MOST_BETWEEN - 1} below its root")
        if not leading.has_key:
            self._refuse(leading, "whose key is not there", fix="name one that can sign: upstream.vault.issuer")
        for depth, each in enumerate(path, start=1):
            constraints = extension_of(each, x509.BasicConstraints)
            if constraints is not None and constraints.path_length is not None and constraints.path_length < depth:
                self._refuse(
                    leading,
                    f"and {named(each)} has path length {constraints.path_length}: no authority may stand below it",
                    fix=f"make it with a path length of {depth} or more, or none",
                )
            if fault := domain_fault(each, self.trust_domain):
                self._refuse(leading, f"under {named(each)}, which {fault}", fix=_ANOTHER)
        if constrains_uris(path) and is_refused_by_envoy(self.trust_domain):
            self._refuse(
                leading, f"under a name constraint, and Envoy then refuses every certificate of {self.trust_domain}"
            )

    def _refuse(self, leading: VaultIssuer, problem: str, *, fix: str = "") -> NoReturn:
        raise invalid(self.mount, f"signs by {leading}, {problem}", fix=fix)


def _certificates(issuers: Iterable[VaultIssuer]) -> Iterator[x509.Certificate]:
    return (each.certificate for each in issuers if each.certificate is not None)
