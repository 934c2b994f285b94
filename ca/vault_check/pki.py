"""From what a PKI secrets engine holds to findings: whether its issuer can sign this server's authorities (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from ca.authority.soundness import trust_domain_of
from ca.settings import ServerSettings
from ca.upstream.settings import VaultPkiSettings
from ca.upstream.vault.engine import VaultIssuer
from ca.upstream.vault.offer import Found, Offer, offer_of
from ca.vault_check.facts import Mount, Pki, Seen
from ca.vault_check.mounts import mount_finding
from ca.vault_check.subject import Subject
from citadel.config.types import format_duration
from citadel.errors import CitadelError, Reason
from citadel.finding import Finding, bad, failed, good, unknown, warning

_SIGNING: Final = "issuing-certificates"
_OTHERWISE: Final = timedelta(hours=768)  # how long leases last at most where nobody has set anything


def pki_findings(pki: Pki, settings: ServerSettings, *, is_hidden: bool, now: datetime) -> Iterator[Finding]:
    """Everything about `upstream.vault`."""
    named = settings.upstream.vault
    assert named is not None  # noqa: S101 - for the type checker: it was looked at because it is set
    yield mount_finding(pki.mount, named.mount, "pki", is_hidden=is_hidden)
    if isinstance(pki.mount, CitadelError) or pki.mount.engine != "pki":
        return
    yield from _issuers(pki, named, settings, now)
    yield _limit(pki.mount, named, settings)


def _issuers(pki: Pki, named: VaultPkiSettings, settings: ServerSettings, now: datetime) -> Iterator[Finding]:
    """As the server itself will judge them."""
    for asked in (pki.issuers, pki.leading):
        if isinstance(asked, CitadelError):
            if asked is pki.issuers and asked.reason is Reason.VAULT_NOT_FOUND:  # what Vault says of a list of none
                fix = "make a root there: `deploy/vault/README.md` has the command"
                yield bad(Subject.ISSUER, asked.reason, f"{named.mount} has none", fix)
            else:
                yield failed(Subject.ISSUER, asked, "look whether the mount serves")
            return
    assert not isinstance(pki.issuers, CitadelError)  # noqa: S101 - for the type checker
    assert not isinstance(pki.leading, CitadelError)  # noqa: S101 - as above
    found = Found(issuers=tuple(pki.issuers), leading=pki.leading)
    try:
        offer = offer_of(found, mount=named.mount, trust_domain=settings.trust_domain, now=now)
    except CitadelError as error:
        yield failed(Subject.ISSUER, error, "rotate the root in Vault, or name another issuer")
        return
    names = {each.certificate: each for each in found.issuers}
    signer = next(each for each in found.issuers if each.id == offer.line.issuer_id)
    yield good(Subject.ISSUER, f"{_name(signer)} can sign authorities")
    yield _usage(pki.usages, signer, named)
    yield from (warning(Subject.ROOTS, note, "delete it there, or make it anew") for note in offer.notes)
    if trust_domain_of(offer.line.root) is None:  # of the others there is a note
        told = f"the root above {_name(signer)} names no trust domain, and is trusted all the same"
        fix = f"give this server a mount of its own, whose roots have uri_sans={settings.trust_domain.id}"
        yield warning(Subject.ROOTS, told, fix)
    trusted = ", ".join(_name(names[each]) for each in offer.roots if each in names)
    yield good(Subject.ROOTS, f"trusted will be {trusted}")
    yield _lifetime(offer, settings, now)


def _name(issuer: VaultIssuer) -> str:
    return issuer.name or issuer.id


def _usage(usages: Seen[frozenset[str]], issuer: VaultIssuer, named: VaultPkiSettings) -> Finding:
    if isinstance(usages, CitadelError):
        if usages.reason is Reason.VAULT_DENIED:
            return unknown(Subject.USAGE, "the policy does not allow to read it")
        return failed(Subject.USAGE, usages, "look whether the mount serves")
    if _SIGNING in usages:
        return good(Subject.USAGE, "it may sign certificates")
    found = f"{_name(issuer)} may not sign certificates: its usage is {', '.join(sorted(usages)) or 'empty'}"
    fix = f"`vault write {named.mount}/issuer/{_name(issuer)} usage=read-only,{_SIGNING},crl-signing`, or name another"
    return bad(Subject.USAGE, Reason.VAULT_REFUSED, found, fix)


def _lifetime(offer: Offer, settings: ServerSettings, now: datetime) -> Finding:
    left, asked = offer.line.ends - now, settings.authorities.issuer_lifetime
    if left >= asked:
        return good(Subject.LIFETIME, f"it lasts {_days(left)}")
    found = f"it ends in {_days(left)}, before an issuing authority of {format_duration(asked)} would"
    return warning(Subject.LIFETIME, found, "rotate the root; until then issuing authorities end with it")


def _limit(mount: Mount, named: VaultPkiSettings, settings: ServerSettings) -> Finding:
    limit = mount.longest if mount.longest is not None else _OTHERWISE
    told = format_duration(limit) if mount.longest is not None else f"Vault's own, {_days(limit)} unless that was set"
    asked = {"authorities.issuer_lifetime": settings.authorities.issuer_lifetime}
    if named.rotate_root:
        asked["authorities.root_lifetime"] = settings.authorities.root_lifetime
    shortened = [f"{name} ({format_duration(value)})" for name, value in asked.items() if value > limit]
    if not shortened:
        return good(Subject.LIMIT, told)
    longest = max(asked.values()) // timedelta(hours=1)
    fix = f"`vault secrets tune -max-lease-ttl={longest}h {named.mount}`, or set shorter lifetimes"
    return warning(Subject.LIMIT, f"{told}: {' and '.join(shortened)} would be shortened to it", fix)


def _days(value: timedelta) -> str:
    """No finer than a person wants to read."""
    step = next((each for each in (timedelta(days=1), timedelta(hours=1)) if value >= 2 * each), timedelta(seconds=1))
    return format_duration(max(value // step * step, timedelta(0)))
