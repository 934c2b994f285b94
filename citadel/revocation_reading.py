"""Revocation lists from the server, judged before anything relies on them (invariant 9). Blocks: call it off the loop.

Envoy acknowledges a list that is dated in the future, has lapsed, was signed by somebody else, names another key or has
a critical extension, and from then on refuses every certificate of its issuer. This was measured.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from citadel._wire import types_pb2
from citadel.bundle import TrustBundle
from citadel.certification_path import UNREADABLE, extension_of
from citadel.errors import InvalidArgument, Reason
from citadel.revocation import RevocationList, RevocationSet


def read_revocations(message: types_pb2.RevocationSet, *, bundle: TrustBundle | None, now: datetime) -> RevocationSet:
    """The lists in `message`, if all of them can be relied on. `bundle` is that of the own trust domain.

    Raises `InvalidArgument` (`revocations_malformed`); then none may be used: the others would leave somebody out.
    """
    try:
        lists = tuple(RevocationList.from_der(each.issuer, each.crl) for each in message.lists)
        check_lists(lists, roots=bundle.x509_authorities if bundle else (), now=now)
        for each in lists:
            _ = each.der, each.pem  # made here rather than where secrets are built, which must not block
        return RevocationSet(lists)
    except UNREADABLE as error:
        raise _malformed(f"a revocation list cannot be read: {error}") from error


def check_lists(
    lists: Collection[RevocationList], *, roots: Collection[x509.Certificate], now: datetime | None = None
) -> None:
    """Whether all of them together can be relied on where these roots are trusted. Raises as `read_revocations`.

    Without `now`, which everybody judges by a clock of their own, whether they can ever be.
    """
    for each in lists:
        if fault := _fault_of(each, roots) or (_fault_in_time(each, now) if now is not None else ""):
            raise _malformed(f"the revocation list of {each.issuer.subject.rfc4514_string()} {fault}")
    if len({each.issuer_key_id for each in lists}) < len(lists):
        raise _malformed("two revocation lists are of one authority, and no verifier asks both")


def is_vouched_for(authority: x509.Certificate, roots: Collection[x509.Certificate]) -> bool:
    """Whether it is one of these roots, or was signed by one."""
    return any(_is_under(root, authority) for root in roots)


def _fault_of(each: RevocationList, roots: Collection[x509.Certificate]) -> str:
    """Why this list, which its issuer signed, cannot be relied on, whenever that is; empty if it can."""
    constraints, usage = extension_of(each.issuer, x509.BasicConstraints), extension_of(each.issuer, x509.KeyUsage)
    if constraints is None or not constraints.ca or (usage is not None and not usage.crl_sign):
        return "is of a certificate that may not sign one"
    if not is_vouched_for(each.issuer, roots):
        return "is of an authority that the trust bundle does not vouch for"
    for extension in each.crl.extensions:
        if extension.critical:
            return f"has a critical extension, {extension.oid.dotted_string}, which verifiers refuse"
        named = extension.value
        if isinstance(named, x509.AuthorityKeyIdentifier) and named.key_identifier != each.issuer_key_id:
            return "names another key than its issuer's"
    return ""


def _fault_in_time(each: RevocationList, now: datetime) -> str:
    begins, lapses, ends = each.crl.last_update_utc, each.crl.next_update_utc, each.issuer.not_valid_after_utc
    if begins > now:
        return f"is dated {begins.isoformat()}, in the future"
    # Of an issuer that has ended, nothing is left that its list could refuse.
    if lapses is None or lapses <= now < ends:
        return f"has lapsed at {lapses.isoformat()}" if lapses else "does not say how long it is good"
    return ""


def _is_under(root: x509.Certificate, issuer: x509.Certificate) -> bool:
    if root == issuer:
        return True
    try:
        issuer.verify_directly_issued_by(root)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _malformed(message: str) -> InvalidArgument:
    return InvalidArgument(Reason.REVOCATIONS_MALFORMED, message)
