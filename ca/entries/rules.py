"""What an entry must be to be taken. Pure; every refusal names its rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Final

from citadel.entry import Entry
from citadel.errors import InvalidArgument, Reason
from citadel.reserved import is_agent_id, is_reserved_dns_name, is_reserved_id, server_id
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.workload_selectors import check_workload_selectors

MAX_HINT_BYTES: Final = 1024  # WAPI-25
MAX_SELECTORS: Final = 100
MAX_DNS_NAMES: Final = 100
_LEAST_TTL: Final = timedelta(seconds=1)
# RFC 1123 host names, with the underscore that service names use; a wildcard is never part of an identity.
_DNS_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_MAX_DNS_NAME: Final = 253
_MAX_SHOWN: Final = 200  # characters of a value that are repeated in a refusal


def check_entry(entry: Entry, *, trust_domain: TrustDomain, now: datetime) -> None:
    """Refuse, with `InvalidArgument`, an entry that must not exist in `trust_domain`."""
    for _, problem in entry_problems(entry, trust_domain=trust_domain, now=now):
        raise problem


def entry_problems(entry: Entry, *, trust_domain: TrustDomain, now: datetime) -> Iterator[tuple[str, InvalidArgument]]:
    """Every field that breaks a rule, with the first rule that it breaks."""
    checks: tuple[tuple[str, Callable[[], None]], ...] = (
        ("spiffe_id", lambda: _check_identity(entry.spiffe_id, trust_domain)),
        ("parent_id", lambda: _check_parent(entry, trust_domain)),
        ("selectors", lambda: _check_selectors(entry, trust_domain)),
        ("dns_names", lambda: _check_dns_names(entry)),
        ("x509_svid_ttl", lambda: _check_lifetime(entry.x509_svid_ttl)),
        ("jwt_svid_ttl", lambda: _check_lifetime(entry.jwt_svid_ttl)),
        ("federates_with", lambda: _check_federation(entry, trust_domain)),
        ("hint", lambda: _check_hint(entry.hint)),
        ("expires_at", lambda: _check_end(entry, now)),
    )
    for field, check in checks:
        try:
            check()
        except InvalidArgument as problem:
            yield field, problem


def is_alias(entry: Entry, trust_domain: TrustDomain) -> bool:
    """Whether the entry names nodes and not workloads: its parent is the server."""
    return entry.parent_id == server_id(trust_domain)


def _check_identity(spiffe_id: SpiffeId, trust_domain: TrustDomain) -> None:
    if not spiffe_id.is_member_of(trust_domain):
        raise InvalidArgument(
            Reason.ENTRY_FOREIGN_TRUST_DOMAIN,
            f"{_shown(spiffe_id)} is not in this server's trust domain {trust_domain}",
        )
    if not spiffe_id.path:
        raise InvalidArgument(
            Reason.ENTRY_ROOT_PATH,
            f"{_shown(spiffe_id)} names the trust domain itself; a workload's ID has a path (X509-06)",
        )
    if is_reserved_id(spiffe_id):
        raise InvalidArgument(Reason.ENTRY_RESERVED_ID, f"{_shown(spiffe_id)} is reserved for Citadel itself")


def _check_parent(entry: Entry, trust_domain: TrustDomain) -> None:
    parent = entry.parent_id
    if not parent.is_member_of(trust_domain) or not parent.path:
        raise InvalidArgument(
            Reason.ENTRY_BAD_PARENT, f"parent {_shown(parent)} is no agent, alias or server of {trust_domain}"
        )
    if is_reserved_id(parent) and not (is_agent_id(parent) or is_alias(entry, trust_domain)):
        raise InvalidArgument(
            Reason.ENTRY_BAD_PARENT,
            f"parent {_shown(parent)} is reserved and neither an agent nor the server",
            fix=f"agents are {trust_domain.id}/citadel/agent/NAME, the server is {server_id(trust_domain)}",
        )
    if parent == entry.spiffe_id:
        raise InvalidArgument(Reason.ENTRY_BAD_PARENT, "an entry cannot be its own parent")


def _check_selectors(entry: Entry, trust_domain: TrustDomain) -> None:
    if not entry.selectors:
        raise InvalidArgument(
            Reason.ENTRY_NO_SELECTORS, "an entry without selectors would match every caller", fix="name at least one"
        )
    if len(entry.selectors) > MAX_SELECTORS:
        raise InvalidArgument(Reason.ENTRY_BAD_SELECTOR, f"more than {MAX_SELECTORS} selectors")
    wants_node = is_alias(entry, trust_domain)
    for selector in entry.selectors:
        if (selector.type == "node") != wants_node:
            raise InvalidArgument(
                Reason.ENTRY_BAD_SELECTOR,
                f"selector {_shown(selector)} can never match here",
                fix="an alias (parent: the server) takes 'node:…' selectors, every other entry takes none of them",
            )
    if not wants_node:
        check_workload_selectors(entry.selectors)


def _check_dns_names(entry: Entry) -> None:
    if len(entry.dns_names) > MAX_DNS_NAMES:
        raise InvalidArgument(Reason.ENTRY_BAD_DNS_NAME, f"more than {MAX_DNS_NAMES} DNS names")
    for name in entry.dns_names:
        check_dns_name(name)


def check_dns_name(name: str) -> None:
    """Refuse, with `InvalidArgument`, what is no name of one host, or is reserved."""
    if is_reserved_dns_name(name):
        raise InvalidArgument(
            Reason.ENTRY_RESERVED_DNS_NAME, f"DNS name {_shown(name)!r} is reserved for Citadel itself"
        )
    if "*" in name:
        raise InvalidArgument(Reason.ENTRY_BAD_DNS_NAME, f"DNS name {_shown(name)!r} has a wildcard; name each host")
    labels = name.split(".")
    looks_like_an_address = labels[-1].isdigit()
    if looks_like_an_address or len(name) > _MAX_DNS_NAME or not all(_DNS_LABEL.fullmatch(label) for label in labels):
        raise InvalidArgument(
            Reason.ENTRY_BAD_DNS_NAME, f"{_shown(name)!r} is not a DNS name", fix="write it like web.example.org"
        )


def _check_lifetime(ttl: timedelta | None) -> None:
    if ttl is not None and ttl < _LEAST_TTL:
        raise InvalidArgument(Reason.ENTRY_BAD_LIFETIME, f"lifetime {ttl} is shorter than one second")


def _check_federation(entry: Entry, trust_domain: TrustDomain) -> None:
    if trust_domain in entry.federates_with:
        raise InvalidArgument(Reason.ENTRY_MALFORMED, f"an entry cannot federate with its own domain {trust_domain}")


def _check_hint(hint: str) -> None:
    if len(hint.encode()) > MAX_HINT_BYTES:
        raise InvalidArgument(Reason.ENTRY_MALFORMED, f"the hint is longer than {MAX_HINT_BYTES} bytes")
    if "\0" in hint:
        raise InvalidArgument(Reason.ENTRY_MALFORMED, "the hint holds a NUL, which PostgreSQL cannot keep")


def _check_end(entry: Entry, now: datetime) -> None:
    if entry.has_expired(now):
        raise InvalidArgument(Reason.ENTRY_EXPIRED, f"the entry would have expired at {entry.expires_at}")


def _shown(value: object) -> str:
    return str(value)[:_MAX_SHOWN]
