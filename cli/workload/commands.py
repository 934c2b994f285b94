"""`citadel-cli svid fetch` and `svid watch`: the caller's own identities, asked of the agent as any workload asks."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

from citadel.config.types import format_duration
from citadel.errors import CitadelError
from citadel.spiffe import SpiffeId
from citadel.x509_context import X509Context
from cli.admin.invocation import Invocation, admin_command
from cli.admin.parameters import DurationType, SpiffeIdType, TextType
from cli.admin.tables import moment, moment_cell, print_heading, print_table, serial_cell
from cli.output import Form, echo, print_error, print_json
from cli.signals import run_until_signal
from cli.workload.address import ADDRESS_VARIABLE, EndpointAddress
from cli.workload.client import WorkloadClient
from cli.workload.folder import SvidFolder
from cli.workload.hook import Hook
from cli.workload.watching import Watching

DEFAULT_SOCKET: Final = Path("/run/citadel/agent.sock")

_Command = Callable[..., None]


def socket_option(command: _Command) -> _Command:
    """The option that names the agent."""
    return click.option(
        "--socket",
        type=TextType(),
        metavar="ADDRESS",
        help=f"The agent: unix:///PATH, tcp://IP:PORT or a path; else {ADDRESS_VARIABLE}, else {DEFAULT_SOCKET}.",
    )(command)


def _identity_option(command: _Command) -> _Command:
    return click.option(
        "--spiffe-id",
        type=SpiffeIdType(),
        help="Which identity to write; the default one, which comes first, otherwise.",
    )(command)


def _write_option(command: _Command) -> _Command:
    return click.option(
        "--write",
        "folder",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder of mode 0700 for svid.pem, key.pem, bundle.pem and federated/, all below its link `current`.",
    )(command)


@admin_command("fetch", example="citadel-cli svid fetch --write /run/web/identity")
@socket_option
@_write_option
@_identity_option
@click.option(
    "--timeout", type=DurationType(), default="30s", show_default=True, help="How long to wait for the agent."
)
def fetch_command(
    invocation: Invocation, socket: str | None, folder: Path | None, spiffe_id: SpiffeId | None, timeout: timedelta
) -> None:
    """Show or write the X509-SVIDs that this very process may have, and the bundles that it may trust.

    Asks the agent as any workload does: who calls decides what comes, no other right helps. The private key is never
    shown, only written.
    """
    client = WorkloadClient(EndpointAddress.find(socket, os.environ, DEFAULT_SOCKET))
    context = asyncio.run(client.fetch_x509_context(within=timeout.total_seconds()))
    svid = context.choose(spiffe_id)
    if folder is not None:
        with SvidFolder.held(folder) as held:
            held.write(svid, context)
    if invocation.form is Form.JSON:
        print_json(_plain(context))
    else:
        _print(context, invocation.clock.now())
        if folder is not None:
            echo(f"\nwrote {svid.svid.spiffe_id} to {folder}")


@admin_command("watch", example='citadel-cli svid watch --write /run/web/identity --run "systemctl reload nginx"')
@socket_option
@_write_option
@_identity_option
@click.option("--run", "command", type=TextType(), help="Command to run after each change, without a shell.")
@click.option(
    "--run-timeout",
    type=DurationType(),
    default="60s",
    show_default=True,
    help="How long the command may take before it is killed.",
)
def watch_command(
    invocation: Invocation,
    socket: str | None,
    folder: Path | None,
    spiffe_id: SpiffeId | None,
    command: str | None,
    run_timeout: timedelta,
) -> None:
    """Follow the X509-SVIDs that this very process may have: write each change, run a command. Ends with SIGTERM.

    The first answer is a change too. While there is no agent or no identity, that is said once and tried again; what
    was written stays as it is.
    """
    hook = Hook.parse(command, within=run_timeout) if command is not None else None
    client = WorkloadClient(EndpointAddress.find(socket, os.environ, DEFAULT_SOCKET))
    with ExitStack() as stack:
        held = stack.enter_context(SvidFolder.held(folder)) if folder is not None else None

        async def on_change(context: X509Context) -> None:
            svid = context.choose(spiffe_id)
            if held is not None:
                await asyncio.to_thread(held.write, svid, context)
            _tell_change(context, invocation)
            if hook is not None and (problem := await hook.run()):
                click.echo(f"warning: {problem}", err=True)

        def on_trouble(error: CitadelError) -> None:
            print_error(error, invocation.form)

        watching = Watching(source=client, on_change=on_change, on_trouble=on_trouble, clock=invocation.clock)
        run_until_signal(lambda stop: _until(stop, watching))


async def _until(stop: asyncio.Event, watching: Watching) -> None:
    running, stopping = asyncio.create_task(watching.run()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()  # raises what ended it
    finally:
        running.cancel()
        stopping.cancel()
        await asyncio.gather(running, stopping, return_exceptions=True)


def _tell_change(context: X509Context, invocation: Invocation) -> None:
    if invocation.form is Form.JSON:
        echo(json.dumps(_plain(context)))
        return
    now = invocation.clock.now()
    for each in context.svids:
        left = format_duration(timedelta(seconds=(each.svid.not_after - now) // timedelta(seconds=1)))
        echo(f"{moment(now)} {each.svid.spiffe_id} serial {each.svid.serial} for {left}")


def _plain(context: X509Context) -> dict[str, Any]:
    return {
        "svids": [
            {
                "spiffe_id": str(each.svid.spiffe_id),
                "hint": each.hint,
                "serial": each.svid.serial,
                "not_after": moment(each.svid.not_after),
                "chain_pem": each.svid.chain_pem.decode("ascii"),
            }
            for each in context.svids
        ],
        "bundles": {domain.name: bundle.to_pem().decode("ascii") for domain, bundle in sorted(context.bundles.items())},
    }


def _print(context: X509Context, now: datetime) -> None:
    print_table(
        ("SPIFFE ID", "HINT", "SERIAL", "NOT AFTER"),
        (
            (str(each.svid.spiffe_id), each.hint, serial_cell(each.svid.serial), moment_cell(each.svid.not_after, now))
            for each in context.svids
        ),
        none="",
    )
    print_heading("trusted")
    print_table(
        ("TRUST DOMAIN", "AUTHORITIES"),
        ((domain.name, len(bundle.x509_authorities)) for domain, bundle in sorted(context.bundles.items())),
        none="",
    )
