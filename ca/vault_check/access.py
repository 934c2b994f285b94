"""From how Vault is reached and what this server's token may, to findings (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Final

from ca.settings import ServerSettings
from ca.vault_check.facts import Health, Login, VaultFacts
from ca.vault_check.policy import Rule, own_beginnings, rules_for
from ca.vault_check.subject import Subject
from citadel.config.types import format_duration
from citadel.errors import CitadelError, Reason
from citadel.finding import Finding, bad, failed, good, unknown, warning

_MULTI_ISSUER: Final = (1, 11)  # the first Vault whose PKI has several issuers in one mount
_OPENBAO_IS_FROM: Final = 2  # its numbers begin there, and all of its versions know them
_TOLD_TO: Final = timedelta(seconds=1.5)  # it tells whole seconds, and the question takes a moment
_BEHIND: Final = timedelta(minutes=1)
_SHORT_LEASE: Final = timedelta(minutes=1)
_ANYTHING: Final = "*"
_ATTACH: Final = "attach the policy that `citadel-cli vault policy` prints; or the token is a wrong one"
_SMALLEST: Final = "log in with a policy of its own: `citadel-cli vault policy` prints the smallest"


def reach_findings(facts: VaultFacts, settings: ServerSettings) -> Iterator[Finding]:
    """Whether it answers, and how it is."""
    assert settings.vault is not None  # noqa: S101 - for the type checker: the settings name what is looked at
    address, health = settings.vault.address, facts.health
    if isinstance(health, CitadelError):
        fix = "compare `vault.address` and `vault.ca_file` with Vault, and look whether it runs"
        yield failed(Subject.REACHED, health, fix)
        return
    by = "without TLS, on loopback" if address.startswith("http:") else "its certificate verifies"
    yield good(Subject.REACHED, f"{address}, {by}")
    if not health.is_initialized or health.is_sealed:
        found, fix = (
            ("it is sealed", "unseal it") if health.is_initialized else ("it was never set up", "initialise it")
        )
        yield bad(Subject.SEALED, Reason.VAULT_UNAVAILABLE, found, fix)
        return
    yield good(Subject.SEALED, "no")
    yield _version(health, settings)
    yield _clock(health, settings)


def login_findings(facts: VaultFacts, settings: ServerSettings) -> Iterator[Finding]:
    """Whether this server is let in, for how long, and with which rights."""
    assert settings.vault is not None  # noqa: S101 - as above
    login, vault = facts.login, settings.vault
    method = next(name for name, each in vault.login if each is not None)
    where = f" in the namespace {vault.namespace}" if vault.namespace else ""
    # Nobody but who may look at the role can tell more of it.
    unseen = "; when its secret id ends, or how often it may be used, cannot be told" if vault.login.approle else ""
    if login is None:
        yield unknown(Subject.LOGIN, "not tried: Vault does not serve")
        return
    if isinstance(login, CitadelError):
        # Who may look neither at itself nor at its rights has no rights, or no good token.
        if login.reason is not Reason.VAULT_DENIED or isinstance(facts.allowed, CitadelError):
            fix = f"compare `vault.login.{method}` and `vault.namespace` with what is there"
            yield failed(Subject.LOGIN, login, _ATTACH if login.reason is Reason.VAULT_DENIED else fix)
            return
        yield good(Subject.LOGIN, f"by {method}{where}{unseen}")
        yield unknown(Subject.LEASE, "the policy does not allow to look at the token")
    else:
        policies = ", ".join(login.policies) or "none"
        yield good(Subject.LOGIN, f"by {method}{where}, with the policies {policies}{unseen}")
        yield _lease(login, by_token=vault.login.token is not None)
        if "root" in login.policies:
            yield warning(Subject.POWER, "this is a root token, which may do anything in Vault", _SMALLEST)
            return
    yield from _policy(facts, settings)
    yield from _power(facts, settings)


def probes(settings: ServerSettings) -> tuple[str, ...]:
    """The paths whose capabilities are to be asked for."""
    return tuple(dict.fromkeys([*(rule.path for rule in rules_for(settings)), *_beyond(settings)]))


def is_among_own(settings: ServerSettings) -> bool:
    """Whether the key that seals is called as those that this server makes in Transit, and may delete."""
    transit, seal = settings.keys.vault_transit, settings.keys.vault_seal
    if transit is None or seal is None:
        return False
    return seal.mount == transit.mount and seal.key.startswith(own_beginnings(transit))


def _version(health: Health, settings: ServerSettings) -> Finding:
    numbers = tuple(int(each) for each in re.findall(r"\d+", health.version)[:2])
    if settings.upstream.vault is not None and numbers < _MULTI_ISSUER and numbers[:1] < (_OPENBAO_IS_FROM,):
        fix = "upgrade it: roots could not be rotated there"
        return bad(Subject.VERSION, Reason.VAULT_REFUSED, f"{health.version} has one issuer for each mount", fix)
    return good(Subject.VERSION, health.version)


def _clock(health: Health, settings: ServerSettings) -> Finding:
    ahead = health.time - health.asked_at
    seconds = round(ahead.total_seconds())
    told = f"that of Vault is {abs(seconds)} s {'ahead' if seconds > 0 else 'behind'}"
    found = told if abs(ahead) > _TOLD_TO else "the same"
    fix = "set both clocks right (NTP)"
    signs = settings.upstream.vault is not None
    if signs and ahead > settings.svids.backdate + _TOLD_TO:
        told = f"{found}: what it signs is not valid yet for so long"
        return bad(Subject.CLOCK, Reason.VAULT_REFUSED, told, fix)
    if abs(ahead) > _BEHIND:
        return warning(Subject.CLOCK, found, fix)
    return good(Subject.CLOCK, found)


def _lease(login: Login, *, by_token: bool) -> Finding:
    """Only a token from a file ends for good: otherwise this server logs in anew."""
    if login.uses:
        found = f"the token is good for {login.uses} calls more"
        fix = "make it without `num_uses`, or set that to 0 for the role"
        return bad(Subject.LEASE, Reason.VAULT_LOGIN_REFUSED, found, fix)
    if login.lease is None:
        return good(Subject.LEASE, "it never ends")
    lasts = format_duration(login.lease)
    if by_token and not login.is_renewable:
        fix = "make the token renewable (with `-period=24h` it can be for ever), or log in by another method"
        return warning(Subject.LEASE, f"it ends in {lasts}, and cannot be renewed", fix)
    if login.lease < _SHORT_LEASE:
        fix = "let the token live for an hour or so: each renewal is a chance to miss it"
        return warning(Subject.LEASE, f"it lasts {lasts}", fix)
    then = "is renewed" if login.is_renewable else "cannot be renewed: this server logs in again"
    return good(Subject.LEASE, f"it lasts {lasts}, and {then}")


def _policy(facts: VaultFacts, settings: ServerSettings) -> Iterator[Finding]:
    if isinstance(facts.allowed, CitadelError):
        fix = 'add `path "sys/capabilities-self" { capabilities = ["update"] }` to the policy'
        yield failed(Subject.POLICY, facts.allowed, fix)
        return
    lacking = [(rule, sorted(_lacks(rule, facts.allowed))) for rule in rules_for(settings)]
    for rule, capabilities in lacking:
        if capabilities:
            found = f"{rule.path} does not allow {', '.join(capabilities)}"
            fix = f"add what `citadel-cli vault policy` prints for it: {rule.why}"
            if rule.is_vital:
                yield bad(Subject.POLICY, Reason.VAULT_DENIED, found, fix)
            else:
                yield warning(Subject.POLICY, found, fix)
    if not any(capabilities for _, capabilities in lacking):
        yield good(Subject.POLICY, f"all {len(lacking)} paths that are needed are allowed")


def _lacks(rule: Rule, allowed: Mapping[str, frozenset[str]]) -> set[str]:
    has = allowed.get(rule.path, frozenset())
    return set(rule.capabilities) - has


def _power(facts: VaultFacts, settings: ServerSettings) -> Iterator[Finding]:
    """Whoever breaks into this server has its token."""
    if isinstance(facts.allowed, CitadelError):
        return
    needed = {rule.path: {*rule.capabilities} for rule in rules_for(settings)}
    excess = {path: sorted(has - needed.get(path, set()) - {"deny"}) for path, has in facts.allowed.items()}
    if excess.get(_ANYTHING):
        found = f"the policy has a rule for every path: {', '.join(excess[_ANYTHING])}"
        yield warning(Subject.POWER, found, _SMALLEST)
        return
    for path, capabilities in excess.items():
        if capabilities:
            yield warning(Subject.POWER, f"{path} allows {', '.join(capabilities)}", _SMALLEST)


def _beyond(settings: ServerSettings) -> Iterator[str]:
    """What no server needs, and a policy that is too wide allows; the widest first."""
    yield _ANYTHING
    yield from ("sys/policies/acl/citadel", "sys/mounts/citadel", "auth/token/create")
    if (pki := settings.upstream.vault) is not None:
        yield from (f"{pki.mount}/{name}" for name in _PKI_BEYOND)
        if not pki.rotate_root:
            yield from (f"{pki.mount}/root/rotate/internal", f"{pki.mount}/root/replace")
    if (transit := settings.keys.vault_transit) is not None:
        own = f"{transit.prefix}-"
        yield from (f"{transit.mount}/{kind}/{own}*" for kind in ("export/signing-key", "backup", "keys", "sign"))
        yield from (f"{transit.mount}/{kind}/*" for kind in ("keys", "sign", "decrypt"))
    if (seal := settings.keys.vault_seal) is not None:
        if not is_among_own(settings):
            yield f"{seal.mount}/keys/{seal.key}/config"
        yield from (f"{seal.mount}/{kind}/{seal.key}" for kind in ("export/encryption-key", "backup"))


_PKI_BEYOND: Final = (
    "root",
    "root/sign-self-issued",
    "sign-verbatim",
    "root/rotate/exported",
    "issuers/generate/root/exported",
    "issuers/import/bundle",
)
