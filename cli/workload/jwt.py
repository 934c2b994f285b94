"""`citadel-cli jwt`: the caller's own JWT-SVIDs, and what tokens say."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import BinaryIO, Final

import click

from citadel.bundle import MAX_BUNDLE_BYTES, TrustBundle
from citadel.errors import InvalidArgument, Unauthenticated
from citadel.jws import MAX_TOKEN_BYTES, Jws
from citadel.jwt_svid import subject_of, verify_jwt_svid
from citadel.spiffe import SpiffeId
from cli.admin.invocation import Invocation, admin_command
from cli.admin.parameters import DurationType, SpiffeIdType, TextType
from cli.admin.tables import print_fields
from cli.output import Form, echo, print_json
from cli.workload.address import EndpointAddress
from cli.workload.client import WorkloadClient
from cli.workload.commands import DEFAULT_SOCKET, socket_option
from cli.workload.token_view import fields, plain, problem_of

_TIMEOUT: Final = "30s"


@click.group("jwt")
def jwt_group() -> None:
    """JWT-SVIDs: the caller's own, and what tokens say."""


@admin_command("fetch", group=jwt_group, example="citadel-cli -o json jwt fetch spiffe://example.org/reviews")
@click.argument("audience", nargs=-1, required=True, type=TextType())
@click.option("--spiffe-id", type=SpiffeIdType(), help="Only this identity; otherwise every one of the caller.")
@click.option("--raw", is_flag=True, help="Print the tokens alone, one on each line, the default identity's first.")
@socket_option
@click.option("--timeout", type=DurationType(), default=_TIMEOUT, show_default=True, help="How long to wait.")
def fetch_command(
    invocation: Invocation,
    audience: tuple[str, ...],
    spiffe_id: SpiffeId | None,
    *,
    raw: bool,
    socket: str | None,
    timeout: timedelta,
) -> None:
    """Fetch tokens of this very process for AUDIENCE, which is who will check them. Several stand in one token.

    Asks the agent as any workload does: who calls decides what comes. A token is as good as a password while it lasts,
    so the table does not show it; --raw and JSON do.
    """
    client = WorkloadClient(EndpointAddress.find(socket, os.environ, DEFAULT_SOCKET))
    tokens = asyncio.run(client.fetch_jwt_svids(audience, spiffe_id, within=timeout.total_seconds()))
    if raw:
        for each in tokens:
            echo(each.token)
    elif invocation.form is Form.JSON:
        print_json({"svids": [{"hint": each.hint, **plain(each.jws), "token": each.token} for each in tokens]})
    else:
        for number, each in enumerate(tokens):
            if number:
                echo("")
            print_fields([*fields(each.jws, invocation.clock.now()), ("hint", each.hint)])
        echo("\nthe tokens themselves: --raw, or -o json")


@admin_command("inspect", group=jwt_group, example="citadel-cli jwt inspect - < token")
@click.argument("token")
def inspect_command(invocation: Invocation, token: str) -> None:
    """Show what TOKEN (`-` for standard input) says, whoever signed it: nothing of it is verified.

    Needs no server and no agent. Ends with exit code 3 for what is not one signed token.
    """
    with _refusing_the_argument():
        jws = Jws.read(_given(token))
    now = invocation.clock.now()
    if invocation.form is Form.JSON:
        print_json({"verified": False, "problem": problem_of(jws, now), **plain(jws)})
        return
    echo("not verified: anybody can have written this\n")
    print_fields([*fields(jws, now), ("problem", problem_of(jws, now) or "none to be seen without its keys")])


@admin_command(
    "verify", group=jwt_group, example="citadel-cli jwt verify - --audience spiffe://example.org/reviews < token"
)
@click.argument("token")
@click.option("--audience", required=True, type=TextType(), help="Who checks: the token must be for exactly this.")
@click.option(
    "--bundle",
    "bundle_file",
    type=click.File("rb"),
    help="SPIFFE bundle (JSON) of the token's own trust domain; otherwise the agent is asked.",
)
@socket_option
@click.option("--timeout", type=DurationType(), default=_TIMEOUT, show_default=True, help="How long to wait.")
def verify_command(
    invocation: Invocation,
    token: str,
    audience: str,
    bundle_file: BinaryIO | None,
    socket: str | None,
    timeout: timedelta,
) -> None:
    """Verify the JWT-SVID TOKEN (`-` for standard input), by the agent, or by a bundle in a file.

    The agent judges by what this very process may trust. Says who the token is of; otherwise ends with the reason and
    an exit code that is not 0. A bundle comes from `citadel-cli bundle show --format spiffe`.
    """
    now, token = invocation.clock.now(), _given(token)
    if bundle_file is not None:
        with _refusing_the_argument():
            spiffe_id = _verified(token, bundle_file.read(MAX_BUNDLE_BYTES + 1), audience, now)
    else:
        client = WorkloadClient(EndpointAddress.find(socket, os.environ, DEFAULT_SOCKET))
        spiffe_id = asyncio.run(client.validate_jwt_svid(token, audience, within=timeout.total_seconds()))
    jws = Jws.read(token)
    if invocation.form is Form.JSON:
        print_json({"verified": True, "spiffe_id": str(spiffe_id), **plain(jws)})
        return
    echo(f"verified: this token is of {spiffe_id}, for {audience}\n")
    print_fields(fields(jws, now))


def _given(argument: str) -> str:
    """The token, from standard input for `-`: no other user of the machine can read it there."""
    if argument != "-":
        return argument
    return sys.stdin.buffer.read(2 * MAX_TOKEN_BYTES).decode("utf-8", errors="replace").strip()


@contextmanager
def _refusing_the_argument() -> Iterator[None]:
    """A token that is not good is an argument that is not, here as from the agent: its caller is not in question."""
    try:
        yield
    except Unauthenticated as error:
        raise InvalidArgument(error.reason, error.message, fix=error.fix) from error


def _verified(token: str, document: bytes, audience: str, now: datetime) -> SpiffeId:
    domain = subject_of(Jws.read(token).claims).trust_domain
    bundle = TrustBundle.from_json(domain, document)
    return verify_jwt_svid(token, {domain: bundle}, audience, now).spiffe_id
