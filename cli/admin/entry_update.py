"""`citadel-cli entry update`: change some terms of one entry."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from citadel._wire import admin_pb2, types_pb2
from citadel.selector import Selector
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.wire import entry_from_wire, entry_to_wire
from cli.admin.entry_end import end_of
from cli.admin.entry_show import show_entry
from cli.admin.invocation import CALL_SECONDS, Invocation, admin_command
from cli.admin.parameters import DurationType, MomentType, SelectorType, SpiffeIdType, TextType, TrustDomainType

if TYPE_CHECKING:
    from citadel._wire.admin_pb2_grpc import AdminAsyncStub  # exists for type checkers only

# What each word after --clear leaves of an entry.
_CLEARED: Final[dict[str, tuple[str, Any]]] = {
    "ttl": ("x509_svid_ttl", None),
    "jwt-ttl": ("jwt_svid_ttl", None),
    "dns-name": ("dns_names", ()),
    "federates-with": ("federates_with", frozenset()),
    "hint": ("hint", ""),
    "expires-at": ("expires_at", None),
}


@admin_command("update", example="citadel-cli entry update 0b9f6c1e-52d7-4c0e-9a43-7d1f2e8a6b35 --ttl 30m --clear hint")
@click.argument("entry_id", metavar="ID", type=TextType())
@click.option("--spiffe-id", type=SpiffeIdType(), help="Another identity; the old one is taken from the workload.")
@click.option("--parent-id", type=SpiffeIdType(), help="Another agent, or alias of agents.")
@click.option("--selector", "selectors", type=SelectorType(), multiple=True, metavar="TYPE:VALUE", help="All of them.")
@click.option("--ttl", type=DurationType(), help="Lifetime of X.509-SVIDs.")
@click.option("--jwt-ttl", type=DurationType(), help="Lifetime of JWT-SVIDs.")
@click.option("--dns-name", "dns_names", type=TextType(), multiple=True, help="All DNS names.")
@click.option(
    "--federates-with", type=TrustDomainType(), multiple=True, help="All foreign trust domains that it trusts."
)
@click.option("--hint", type=TextType(), help="What this identity is for.")
@click.option("--expires-at", type=MomentType(), help="When the entry ends, such as 2030-01-31T12:00:00Z.")
@click.option("--expires-in", type=DurationType(), help="How long the entry lasts from now.")
@click.option("--admin/--no-admin", default=None, help="Whether the identity may administer the server.")
@click.option("--downstream/--no-downstream", default=None, help="Whether it may ask for an issuing authority.")
@click.option("--clear", type=click.Choice(list(_CLEARED)), multiple=True, help="Set back to the default. Repeatable.")
@click.option("--revision", type=click.IntRange(min=1), help="Change it only where it is still at this revision.")
def update_command(
    invocation: Invocation,
    *,
    entry_id: str,
    clear: tuple[str, ...],
    revision: int | None,
    expires_at: datetime | None,
    expires_in: timedelta | None,
    **terms: SpiffeId | tuple[Selector | TrustDomain | str, ...] | timedelta | str | bool | None,
) -> None:
    """Change what is named, and nothing else; an option that can be repeated replaces all that there were."""
    changes = _changes(terms, expires_at=end_of(invocation, expires_at, expires_in))
    for word in clear:
        name, value = _CLEARED[word]
        if name in changes:
            raise click.UsageError(f"--clear {word} and a value for it cannot go together")
        changes[name] = value
    if not changes:
        raise click.UsageError("say what to change")
    show_entry(invocation, invocation.ask(lambda server: _update(server, entry_id, revision, changes)))


def _changes(terms: dict[str, Any], *, expires_at: datetime | None) -> dict[str, Any]:
    """The fields of an entry that were named, with their values."""
    for name, field in (("ttl", "x509_svid_ttl"), ("jwt_ttl", "jwt_svid_ttl")):
        terms[field] = terms.pop(name)
    terms["expires_at"] = expires_at
    named = {name: value for name, value in terms.items() if value not in (None, ())}
    for name in ("selectors", "federates_with"):
        if name in named:
            named[name] = frozenset(named[name])
    return named


async def _update(
    server: AdminAsyncStub, entry_id: str, revision: int | None, changes: dict[str, Any]
) -> types_pb2.Entry:
    found = entry_from_wire(await server.GetEntry(admin_pb2.GetEntryRequest(id=entry_id), timeout=CALL_SECONDS))
    # The server refuses it where somebody changed the entry since it was read, or since `revision`.
    wanted = replace(found, **changes, revision=revision or found.revision)
    return await server.UpdateEntry(admin_pb2.UpdateEntryRequest(entry=entry_to_wire(wanted)), timeout=CALL_SECONDS)
