"""`citadel-cli entry`: which identity a workload gets, on which node, when which selectors match."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import click

from citadel._wire import admin_pb2, types_pb2
from citadel.entry import Entry
from citadel.reserved import server_id
from citadel.selector import Selector
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.wire import entry_from_wire, entry_to_wire
from cli.admin.entry_apply import apply_command
from cli.admin.entry_end import end_of
from cli.admin.entry_show import flags_text, show_entry, ttl_text
from cli.admin.entry_update import update_command
from cli.admin.invocation import CALL_SECONDS, Invocation, admin_command
from cli.admin.parameters import DurationType, MomentType, SelectorType, SpiffeIdType, TextType, TrustDomainType
from cli.admin.plain import to_plain
from cli.admin.tables import print_table
from cli.output import Form, echo, print_json

if TYPE_CHECKING:
    from citadel._wire.admin_pb2_grpc import AdminAsyncStub  # exists for type checkers only

PAGE_SIZE: Final = 500
_LATER: Final = "Recorded now, used by later versions."


@click.group("entry")
def entry_group() -> None:
    """Entries: which workload gets which identity."""


@admin_command(
    "create",
    group=entry_group,
    example="citadel-cli entry create --spiffe-id spiffe://example.org/web"
    " --parent-id spiffe://example.org/citadel/agent/a1 --selector unix:uid:1000",
)
@click.option("--spiffe-id", type=SpiffeIdType(), required=True, help="The identity that the workload gets.")
@click.option("--parent-id", type=SpiffeIdType(), help="The agent, or the alias of agents, on whose nodes it counts.")
@click.option("--node", is_flag=True, help="Make an alias of nodes: the parent is the server, selectors are of nodes.")
@click.option(
    "--selector",
    "selectors",
    type=SelectorType(),
    multiple=True,
    metavar="TYPE:VALUE",
    help="A fact that must be true of the caller. Repeatable; all must match.",
)
@click.option("--ttl", type=DurationType(), help="Lifetime of X.509-SVIDs; the server's default otherwise.")
@click.option("--jwt-ttl", type=DurationType(), help="Lifetime of JWT-SVIDs; the server's default otherwise.")
@click.option(
    "--dns-name", "dns_names", type=TextType(), multiple=True, help="A DNS name for the certificate. Repeatable."
)
@click.option(
    "--federates-with",
    "federates_with",
    type=TrustDomainType(),
    multiple=True,
    help="A foreign trust domain whose workloads this one trusts, by the bundle that is known of it. Repeatable.",
)
@click.option("--hint", type=TextType(), help="Tells a workload with several identities what this one is for.")
@click.option("--expires-at", type=MomentType(), help="When the entry ends, such as 2030-01-31T12:00:00Z.")
@click.option("--expires-in", type=DurationType(), help="How long the entry lasts from now.")
@click.option("--admin", is_flag=True, help=f"The identity may administer the server. {_LATER}")
@click.option("--downstream", is_flag=True, help="It is a child cluster's server, which may ask for an authority.")
def create(  # noqa: PLR0913 - one parameter for each option
    invocation: Invocation,
    *,
    spiffe_id: SpiffeId,
    parent_id: SpiffeId | None,
    node: bool,
    selectors: tuple[Selector, ...],
    ttl: timedelta | None,
    jwt_ttl: timedelta | None,
    dns_names: tuple[str, ...],
    federates_with: tuple[TrustDomain, ...],
    hint: str | None,
    expires_at: datetime | None,
    expires_in: timedelta | None,
    admin: bool,
    downstream: bool,
) -> None:
    """Create an entry and show it as the server keeps it."""
    wanted = Entry(
        id="",
        spiffe_id=spiffe_id,
        parent_id=_parent(spiffe_id, parent_id, node=node),
        selectors=frozenset(selectors),
        x509_svid_ttl=ttl,
        jwt_svid_ttl=jwt_ttl,
        dns_names=dns_names,
        federates_with=frozenset(federates_with),
        hint=hint or "",
        expires_at=end_of(invocation, expires_at, expires_in),
        admin=admin,
        downstream=downstream,
    )
    request = admin_pb2.CreateEntryRequest(entry=entry_to_wire(wanted))
    show_entry(invocation, invocation.ask(lambda server: server.CreateEntry(request, timeout=CALL_SECONDS)))


@admin_command("show", group=entry_group, example="citadel-cli entry show 0b9f6c1e-52d7-4c0e-9a43-7d1f2e8a6b35")
@click.argument("entry_id", metavar="ID", type=TextType())
def show(invocation: Invocation, entry_id: str) -> None:
    """Show one entry."""
    request = admin_pb2.GetEntryRequest(id=entry_id)
    show_entry(invocation, invocation.ask(lambda server: server.GetEntry(request, timeout=CALL_SECONDS)))


@admin_command("list", group=entry_group, example="citadel-cli -o json entry list --spiffe-id spiffe://example.org/web")
@click.option("--spiffe-id", type=SpiffeIdType(), help="Only entries of this identity.")
@click.option("--parent-id", type=SpiffeIdType(), help="Only entries of this parent.")
@click.option(
    "--origin", type=TextType(), metavar="PREFIX", help="Only entries that the server made from this: k8s:main/shop/."
)
@click.option("--by-hand", is_flag=True, help="Only entries that people registered.")
def list_(
    invocation: Invocation, *, spiffe_id: SpiffeId | None, parent_id: SpiffeId | None, origin: str | None, by_hand: bool
) -> None:
    """List all entries, or those that fit."""
    request = admin_pb2.ListEntriesRequest(
        spiffe_id=str(spiffe_id or ""), parent_id=str(parent_id or ""), page_size=PAGE_SIZE
    )
    if origin and by_hand:
        raise click.UsageError("what is registered by hand has no origin: use --origin or --by-hand")
    found = invocation.ask(lambda server: all_pages(server, request))
    messages = [each for each in found if each.origin.startswith(origin or "") and not (by_hand and each.origin)]
    if invocation.form is Form.JSON:
        print_json({"entries": [to_plain(message) for message in messages]})
        return
    entries = [entry_from_wire(message) for message in messages]
    print_table(
        ("ID", "SPIFFE ID", "PARENT", "SELECTORS", "TTL", "FLAGS", "ORIGIN"),
        (
            (
                entry.id,
                entry.spiffe_id,
                entry.parent_id,
                sorted(entry.selectors),
                ttl_text(entry.x509_svid_ttl),
                flags_text(entry),
                entry.origin,
            )
            for entry in entries
        ),
        none="no entries",
    )


@admin_command("delete", group=entry_group, example="citadel-cli entry delete 0b9f6c1e-52d7-4c0e-9a43-7d1f2e8a6b35")
@click.argument("entry_id", metavar="ID", type=TextType())
def delete(invocation: Invocation, entry_id: str) -> None:
    """Delete an entry: nothing new is issued for it. Certificates that are out stay good until they end."""
    request = admin_pb2.DeleteEntryRequest(id=entry_id)
    message = invocation.ask(lambda server: server.DeleteEntry(request, timeout=CALL_SECONDS))
    if invocation.form is Form.JSON:
        print_json(to_plain(message))
    else:
        echo(f"deleted entry {message.id} of {message.spiffe_id}")


async def all_pages(server: AdminAsyncStub, request: admin_pb2.ListEntriesRequest) -> list[types_pb2.Entry]:
    """Every entry that fits. Keeps the place in `request`."""
    entries: list[types_pb2.Entry] = []
    while True:
        page = await server.ListEntries(request, timeout=CALL_SECONDS)
        entries.extend(page.entries)
        if not page.next_page_token:
            return entries
        request.page_token = page.next_page_token


def _parent(spiffe_id: SpiffeId, parent_id: SpiffeId | None, *, node: bool) -> SpiffeId:
    if parent_id is not None and not node:
        return parent_id
    if node and parent_id is None:
        return server_id(spiffe_id.trust_domain)
    raise click.UsageError("say either --parent-id, or --node for an alias of nodes")


entry_group.add_command(update_command)
entry_group.add_command(apply_command)
