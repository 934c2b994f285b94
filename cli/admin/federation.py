"""`citadel-cli federation`: the trust domains whose bundles the server fetches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click
from google.protobuf.timestamp_pb2 import Timestamp

from citadel._wire import federation_pb2 as pb
from citadel._wire import types_pb2
from citadel._wire.federation_pb2_grpc import FederationsStub
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.wire import from_duration, from_timestamp
from cli.admin.bundle_file import read_bundle
from cli.admin.invocation import CALL_SECONDS, Invocation, admin_command
from cli.admin.parameters import SpiffeIdType, TextType, TrustDomainType
from cli.admin.plain import to_plain
from cli.admin.tables import about, moment_and_distance, moment_cell, print_fields, print_table
from cli.output import Form, echo, print_json, printable

if TYPE_CHECKING:
    from citadel._wire.federation_pb2_grpc import FederationsAsyncStub  # exists for type checkers only

T = TypeVar("T")

_NEVER: Final = "never"  # a bundle that is known nevertheless was handed over with the federation
_PROFILES: Final = ("https_web", "https_spiffe")
_domain = click.argument("trust_domain", metavar="TRUST-DOMAIN", type=TrustDomainType())


@click.group("federation")
def federation_group() -> None:
    """The foreign trust domains whose bundles the server fetches."""


@admin_command(
    "create",
    group=federation_group,
    example="citadel-cli federation create west.test --url https://citadel.west.test:8446 --profile https_spiffe"
    " --endpoint-id spiffe://west.test/citadel/server --bundle west-bundle.json",
)
@_domain
@click.option("--url", type=TextType(), required=True, help="The address of its bundle endpoint, https.")
@click.option("--profile", type=click.Choice(_PROFILES), required=True, help="How the endpoint proves who it is.")
@click.option("--endpoint-id", type=SpiffeIdType(), help="Who shows itself there; for https_spiffe.")
@click.option(
    "--bundle",
    "file",
    type=click.Path(path_type=Path),
    help="Its bundle as its owner gave it to you, SPIFFE's JSON or PEM: by this the first contact is believed.",
)
@click.option("--reason", type=TextType(), help="Why, for the audit log.")
def create(
    invocation: Invocation,
    trust_domain: TrustDomain,
    url: str,
    profile: str,
    endpoint_id: SpiffeId | None,
    file: Path | None,
    reason: str | None,
) -> None:
    """Fetch the bundle of a foreign trust domain, now and again and again.

    Where the endpoint is away or is not believed now, the federation is kept, and fetched later: the exit code 0 says
    that it was set up, and a warning that nothing was fetched yet. Trust has one direction: the other side sets up its
    own.
    """
    bootstrap = None
    if file is not None:
        bootstrap = types_pb2.Bundle(trust_domain=trust_domain.name, json=read_bundle(file, trust_domain).to_json())
    request = pb.CreateFederationRequest(
        trust_domain=trust_domain.name,
        endpoint_url=url,
        profile=profile,
        endpoint_spiffe_id=str(endpoint_id or ""),
        bootstrap=bootstrap,
        why=reason or "",
    )
    _print(invocation, _ask(invocation, lambda server: server.CreateFederation(request, timeout=CALL_SECONDS)))


@admin_command("list", group=federation_group, example="citadel-cli federation list")
def list_command(invocation: Invocation) -> None:
    """List the federations, and how each is."""
    listed = _ask(invocation, lambda server: server.ListFederations(pb.ListFederationsRequest(), timeout=CALL_SECONDS))
    if invocation.form is Form.JSON:
        print_json({"federations": [to_plain(each) for each in listed.federations]})
        return
    now = invocation.clock.now()
    print_table(
        ("TRUST DOMAIN", "STATE", "FETCHED", "NEXT", "ROOTS", "JWT KEYS", "ENTRIES", "PROFILE", "URL"),
        (
            (
                each.trust_domain,
                each.last_reason or "good",
                moment_cell(_moment(each.refreshed_at), now) if each.HasField("refreshed_at") else _NEVER,
                moment_cell(_moment(each.next_refresh_at), now),
                each.bundle.x509_authorities,
                each.bundle.jwt_authorities,
                each.bundle.entries,
                each.profile,
                printable(each.endpoint_url),
            )
            for each in listed.federations
        ),
        none="there are no federations",
    )


@admin_command("show", group=federation_group, example="citadel-cli federation show west.test")
@_domain
def show(invocation: Invocation, trust_domain: TrustDomain) -> None:
    """Show one federation, and why its last fetch failed where it did."""
    request = pb.GetFederationRequest(trust_domain=trust_domain.name)
    _print(invocation, _ask(invocation, lambda server: server.GetFederation(request, timeout=CALL_SECONDS)))


@admin_command("refresh", group=federation_group, example="citadel-cli federation refresh west.test")
@_domain
@click.option("--force", is_flag=True, help="Take a bundle of an older sequence too: its store was restored.")
@click.option("--reason", type=TextType(), help="Why, for the audit log; needed with --force.")
def refresh(invocation: Invocation, trust_domain: TrustDomain, reason: str | None, *, force: bool) -> None:
    """Fetch the bundle now."""
    if force and reason is None:
        raise click.UsageError("--force needs --reason")
    request = pb.RefreshFederationRequest(trust_domain=trust_domain.name, force=force, why=reason or "")
    _print(invocation, _ask(invocation, lambda server: server.RefreshFederation(request, timeout=CALL_SECONDS)))


@admin_command("delete", group=federation_group, example="citadel-cli federation delete west.test --reason 'moved'")
@_domain
@click.option("--reason", type=TextType(), help="Why, for the audit log.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(invocation: Invocation, trust_domain: TrustDomain, reason: str | None, *, yes: bool) -> None:
    """End a federation, and take its bundle from every workload at once."""
    if not yes:
        question = (
            f"End the federation with {trust_domain}? New connections between its workloads and yours are refused."
        )
        click.confirm(question, abort=True, err=True)
    request = pb.DeleteFederationRequest(trust_domain=trust_domain.name, why=reason or "")
    deleted = _ask(invocation, lambda server: server.DeleteFederation(request, timeout=CALL_SECONDS))
    if invocation.form is Form.JSON:
        print_json(to_plain(deleted))
    else:
        echo(f"ended the federation with {trust_domain}: its bundle is trusted by nobody here")


def _ask(invocation: Invocation, question: Callable[[FederationsAsyncStub], Awaitable[T]]) -> T:
    return invocation.ask_service(lambda channel: question(FederationsStub(channel)))


def _print(invocation: Invocation, federation: pb.Federation) -> None:
    if invocation.form is Form.JSON:
        print_json(to_plain(federation))
    else:
        print_fields(_fields(federation, invocation.clock.now()))
    if federation.last_reason:
        text = f"warning: not fetched: {printable(federation.last_error)} ({federation.last_reason})"
        click.echo(text, err=True)
        if federation.last_fix:
            click.echo(f"  try: {printable(federation.last_fix)}", err=True)


def _fields(federation: pb.Federation, now: datetime) -> list[tuple[str, object]]:
    bundle = federation.bundle
    known: tuple[tuple[str, object], ...] = (("bundle", "none: nobody of it is trusted"),)
    if federation.HasField("bundle"):
        hint = from_duration(bundle.refresh_hint) if bundle.HasField("refresh_hint") else None
        known = (
            ("X.509 authorities", bundle.x509_authorities or "none: nobody of it is trusted"),
            ("JWT authorities", bundle.jwt_authorities),
            ("sequence", bundle.sequence or "none"),
            ("refresh hint", about(hint) if hint is not None else "none"),
            ("changed", moment_and_distance(from_timestamp(bundle.updated_at), now)),
            ("entries that federate", bundle.entries),
        )
    fetched = _moment(federation.refreshed_at)
    failure = (("failed fetches since", federation.failures),) if federation.failures else ()
    return [
        ("trust domain", federation.trust_domain),
        ("URL", printable(federation.endpoint_url)),
        ("profile", federation.profile),
        *((("endpoint", federation.endpoint_spiffe_id),) if federation.endpoint_spiffe_id else ()),
        ("fetched", moment_and_distance(fetched, now) if fetched is not None else _NEVER),
        ("next", moment_and_distance(_moment(federation.next_refresh_at), now)),
        *failure,
        *known,
    ]


def _moment(message: Timestamp) -> datetime | None:
    # A time that was not sent reads as 1970, which nothing here happened in.
    return from_timestamp(message) if message.ByteSize() else None
