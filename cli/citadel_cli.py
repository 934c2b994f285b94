"""`citadel-cli`: administration of a Citadel server over its local admin socket. `cli.output` lists the exit codes."""

from __future__ import annotations

from pathlib import Path

import click

from citadel import logs
from citadel.clock import SystemClock
from citadel.config.types import LogSettings
from cli.admin.agent import agent_group
from cli.admin.audit import audit_group
from cli.admin.backup import backup_command, restore_command
from cli.admin.bundle import bundle_group
from cli.admin.entry import entry_group
from cli.admin.explain import explain_command
from cli.admin.federation import federation_group
from cli.admin.invocation import DEFAULT_SOCKET, SOCKET_VARIABLE, AdminGroup, Invocation
from cli.admin.kubernetes import k8s_group
from cli.admin.ledger import ledger_group
from cli.admin.mint import mint
from cli.admin.parameters import SocketType
from cli.admin.proxy import proxy_group
from cli.admin.revoke import revocation_group, revoke_command
from cli.admin.root import root_group
from cli.admin.rotate import rotate_group
from cli.admin.status import status_command
from cli.admin.svid import svid_group
from cli.admin.token import token_group
from cli.admin.trust import trust_group
from cli.admin.vault import vault_group
from cli.authz.commands import authz_group
from cli.completion import completion_command
from cli.output import Form
from cli.workload.commands import fetch_command, watch_command
from cli.workload.jwt import jwt_group


@click.group(
    cls=AdminGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExample:\n  citadel-cli --socket /run/citadel/admin.sock -o json status",
)
@click.option(
    "--socket",
    type=SocketType(),
    default=DEFAULT_SOCKET,
    envvar=SOCKET_VARIABLE,
    show_default=True,
    show_envvar=True,
    help="The server's admin socket.",
)
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(list(Form), case_sensitive=False),
    default="table",
    show_default=True,
    help="Tables for people, JSON for programs. Also taken after the command.",
)
@click.version_option(package_name="citadel", prog_name="citadel-cli")
@click.pass_context
def citadel_cli(context: click.Context, socket: Path, form: Form) -> None:
    """Administer a Citadel server on this machine, as root or as the server's own user."""
    logs.configure(LogSettings(level="warning"))  # to standard error: standard output is the answer alone
    # Who calls this as a function may give another clock as click's `obj`.
    context.obj = Invocation(socket=socket, form=form, clock=context.obj or SystemClock())


citadel_cli.add_command(token_group)
citadel_cli.add_command(agent_group)
citadel_cli.add_command(entry_group)
citadel_cli.add_command(bundle_group)
citadel_cli.add_command(federation_group)
citadel_cli.add_command(svid_group)
citadel_cli.add_command(ledger_group)
citadel_cli.add_command(audit_group)
citadel_cli.add_command(root_group)
citadel_cli.add_command(rotate_group)
citadel_cli.add_command(revoke_command)
citadel_cli.add_command(revocation_group)
svid_group.add_command(fetch_command)
svid_group.add_command(watch_command)
citadel_cli.add_command(jwt_group)
citadel_cli.add_command(status_command)
citadel_cli.add_command(backup_command)
citadel_cli.add_command(restore_command)
citadel_cli.add_command(explain_command)
citadel_cli.add_command(proxy_group)
citadel_cli.add_command(trust_group)
citadel_cli.add_command(vault_group)
citadel_cli.add_command(k8s_group)
citadel_cli.add_command(authz_group)
svid_group.add_command(mint)
citadel_cli.add_command(completion_command(citadel_cli, "citadel-cli"))


def main() -> None:
    """The entry point of the `citadel-cli` program."""
    citadel_cli(prog_name="citadel-cli")


if __name__ == "__main__":
    main()
