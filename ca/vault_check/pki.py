"""From what a PKI secrets engine holds to findings: whether its issuer can sign this server's authorities (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509

from ca.authority.soundness import domain_fault, root_faults
from ca.settings import ServerSettings
from ca.vault_check.facts import Issuer, Mount, Pki, Seen
from ca.vault_check.finding import Finding, Subject, bad, failed, good, unknown, warning
from ca.vault_check.mounts import mount_finding
from citadel.certification_path import UNREADABLE, NoPathError, extension_of, find_path
from citadel.config.types import format_duration
from citadel.errors import CitadelError, Reason

_SIGNING: Final = "issuing-certificates"
_OTHERWISE: Final = timedelta(hours=768)  # how long leases last at most where nobody has set anything


def pki_findings(pki: Pki, settings: ServerSettings, *, now: datetime) -> Iterator[Finding]:
    """Everything about `upstream.vault`."""
    named = settings.upstream.vault
    assert named is not None  # noqa: S101 - for the type checker: it was looked at because it is set
    yield mount_finding(pki.mount, named.mount, "pki")
    if isinstance(pki.mount, CitadelError) or pki.mount.engine != "pki":
        return
    if isinstance(pki.issuers, CitadelError):
        yield failed(Subject.ISSUER, pki.issuers, "look whether the mount serves")
        return
    issuer = signing_issuer(pki.issuers, named.issuer)
    if issuer is None:
        yield _no_issuer(pki.issuers, named.issuer)
        return
    yield from _issuer(issuer, settings)
    yield _usage(pki.usages, issuer)
    yield from _path(issuer, pki.issuers, now)
    yield _names(pki.issuers)
    yield _lifetime(issuer, settings, now)
    yield _limit(pki.mount, settings)


def signing_issuer(issuers: Sequence[Issuer], named: str | None) -> Issuer | None:
    """The one that is named (by name or id), or the default."""
    if named is None:
        return next((each for each in issuers if each.is_default), None)
    return next((each for each in issuers if named in (each.name, each.id)), None)


def _no_issuer(issuers: Sequence[Issuer], named: str | None) -> Finding:
    have = ", ".join(str(each) for each in issuers)
    if not issuers:
        found, fix = "the mount has none", "make a root there: `deploy/vault/README.md` has the command"
    elif named is None:
        found, fix = "there is no default", f"make one of these the default, or set `upstream.vault.issuer`: {have}"
    else:
        found, fix = f"there is no {named}", f"set `upstream.vault.issuer` to one of {have}"
    return bad(Subject.ISSUER, Reason.VAULT_NOT_FOUND, found, fix)


def _issuer(issuer: Issuer, settings: ServerSettings) -> Iterator[Finding]:
    try:
        fault = domain_fault(issuer.certificate, settings.trust_domain)
    except UNREADABLE as error:
        fault = f"cannot be read: {error}"
    if fault:
        fix = f"make an issuer for {settings.trust_domain}, with `uri_sans` or without"
        yield bad(Subject.ISSUER, Reason.UPSTREAM_INVALID, f"{issuer} {fault}", fix)
        return
    yield good(Subject.ISSUER, f"{issuer}{', the default' if issuer.is_default else ''}")


def _usage(usages: Seen[frozenset[str]], issuer: Issuer) -> Finding:
    if isinstance(usages, CitadelError):
        if usages.reason is Reason.VAULT_DENIED:
            return unknown(Subject.USAGE, "the policy does not allow to read it")
        return failed(Subject.USAGE, usages, "look whether the mount serves")
    if _SIGNING in usages:
        return good(Subject.USAGE, "it may sign certificates")
    fix = f"`vault write MOUNT/issuer/{issuer} usage=read-only,{_SIGNING},crl-signing`, or name another one"
    found = f"{issuer} may not sign certificates: its usage is {', '.join(sorted(usages)) or 'empty'}"
    return bad(Subject.USAGE, Reason.UPSTREAM_CANNOT_SIGN, found, fix)


def _path(issuer: Issuer, issuers: Sequence[Issuer], now: datetime) -> Iterator[Finding]:
    """From the issuer to a root of the same mount: those are all that agents and proxies will trust."""
    roots, path = [each for each in issuers if each.is_root], [issuer.certificate]
    if not issuer.is_root:
        others, anchors = (
            [each.certificate for each in issuers if each.is_root is is_root] for is_root in (False, True)
        )
        try:
            path = find_path(issuer.certificate, others, anchors, now=now.replace(microsecond=0))
        except NoPathError as error:
            found = f"{issuer} does not lead to a root in this mount: {error.why}"
            fix = "import its root into the mount (`vault write MOUNT/issuers/import/cert`), or let a root sign"
            yield bad(Subject.ROOTS, Reason.UPSTREAM_INVALID, found, fix)
            return
    yield _path_length(path)
    yield from _roots(roots, issuer, path[-1], now)


def _path_length(path: Sequence[x509.Certificate]) -> Finding:
    """Below each must be place for this server's issuing authority, and for those between."""
    for between, authority in enumerate(path):
        constraints = extension_of(authority, x509.BasicConstraints)
        length = constraints.path_length if constraints is not None else None
        if length is not None and length <= between:
            found = f"{_named(authority)} allows {length} below it, and {between + 1} are needed"
            fix = "let an issuer sign that allows more: make a root without `max_path_length`"
            return bad(Subject.PATH_LENGTH, Reason.UPSTREAM_CANNOT_SIGN, found, fix)
    return good(Subject.PATH_LENGTH, "it may sign an authority")


def _roots(roots: Sequence[Issuer], issuer: Issuer, root: x509.Certificate, now: datetime) -> Iterator[Finding]:
    """All roots in the mount will be trusted, so all are looked at; one that signs nothing here hurts less."""
    are_sound = True
    for each in roots:
        for fault in list(root_faults(each.certificate, now=now))[:1]:  # the first is the worst
            are_sound, found = False, f"{each} {fault}"
            if each.certificate == root:
                fix = f"rotate it: {issuer} hangs on it"
                yield bad(Subject.ROOTS, Reason.UPSTREAM_INVALID, found, fix)
            else:
                yield warning(Subject.ROOTS, found, f"delete it: `vault delete MOUNT/issuer/{each}`")
    if are_sound:
        yield good(Subject.ROOTS, ", ".join(str(each) for each in roots))


def _names(issuers: Sequence[Issuer]) -> Finding:
    """Envoy looks authorities up by their names, and of two alike takes the wrong one half of the time."""
    counts = Counter(each.certificate.subject.rfc4514_string() for each in issuers if each.is_root)
    twins = [name for name, count in counts.items() if count > 1]
    if not twins:
        return good(Subject.NAMES, "each has its own")
    found = f"several roots are called {', '.join(twins)}: proxies could not tell them apart"
    fix = "make the new one again with another `common_name`, and delete the twin"
    return bad(Subject.NAMES, Reason.UPSTREAM_INVALID, found, fix)


def _lifetime(issuer: Issuer, settings: ServerSettings, now: datetime) -> Finding:
    left, asked = issuer.certificate.not_valid_after_utc - now, settings.authorities.issuer_lifetime
    if left >= asked:
        return good(Subject.LIFETIME, f"{issuer} lasts {_days(left)}")
    found = f"{issuer} ends in {_days(left)}, before an issuing authority of {format_duration(asked)} would"
    return warning(Subject.LIFETIME, found, "rotate the root; until then issuing authorities live as long as it does")


def _limit(mount: Mount, settings: ServerSettings) -> Finding:
    named, authorities = settings.upstream.vault, settings.authorities
    limit = mount.longest if mount.longest is not None else _OTHERWISE
    told = format_duration(limit) if mount.longest is not None else f"Vault's own, {_days(limit)} unless that was set"
    rotates = named is not None and named.rotate_root
    asked = {"authorities.issuer_lifetime": authorities.issuer_lifetime}
    asked |= {"authorities.root_lifetime": authorities.root_lifetime} if rotates else {}
    shortened = [f"{name} ({format_duration(value)})" for name, value in asked.items() if value > limit]
    if not shortened:
        return good(Subject.LIMIT, told)
    longest = max(asked.values()) // timedelta(hours=1)
    fix = f"`vault secrets tune -max-lease-ttl={longest}h MOUNT`, or set shorter lifetimes"
    return warning(Subject.LIMIT, f"{told}: {' and '.join(shortened)} would be shortened to it", fix)


def _days(value: timedelta) -> str:
    """No finer than a person wants to read."""
    step = timedelta(days=1) if value >= timedelta(days=2) else timedelta(seconds=1)
    return format_duration(max(value // step * step, timedelta(0)))


def _named(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or "an authority without a name"
