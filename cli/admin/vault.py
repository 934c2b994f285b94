"""`citadel-cli vault`: whether Vault fits the settings of a server, and the policy that this needs. Needs no server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from ca.settings import ServerSettings
from ca.vault_check.policy import as_hcl, rules_for
from citadel.config.loader import load
from citadel.errors import InvalidArgument, Reason
from citadel.finding import is_fit
from cli.admin.findings import conclude, plain_finding, print_findings, warnings_of
from cli.admin.invocation import Invocation, admin_command
from cli.admin.tables import print_heading
from cli.output import Form, echo, print_json

_CONFIG = click.option(
    "--config",
    "-c",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The YAML file with the settings of the server.",
)


@click.group("vault")
def vault_group() -> None:
    """Vault, as the settings of a server use it. Needs no server."""


@admin_command("check", group=vault_group, example="citadel-cli vault check -c /etc/citadel/server.yaml")
@_CONFIG
def check_command(invocation: Invocation, *, path: Path) -> None:
    """Log in to Vault as the server would, and tell whether it would work, and what to do.

    It changes nothing there. Ends with code 8 where the server would not work; warnings alone end with 0.
    """
    settings = _load(path)
    from cli.vault_check import look  # noqa: PLC0415 - the other commands start without what speaks to Vault

    found = asyncio.run(look(settings, invocation.clock))
    if invocation.form is Form.JSON:
        print_json({"fits": is_fit(found), "checks": [plain_finding(each) for each in found]})
    else:
        print_findings(found)
        if is_fit(found):
            print_heading(f"a server would work{warnings_of(found)}")
    conclude(found, who="a server with these settings", otherwise=Reason.VAULT_REFUSED)


@admin_command(
    "policy", group=vault_group, example="citadel-cli vault policy -c server.yaml | vault policy write citadel -"
)
@_CONFIG
def policy_command(invocation: Invocation, *, path: Path) -> None:
    """Print the smallest policy for the server, as `vault policy write` takes it. Asks nobody."""
    rules = rules_for(_load(path))
    if invocation.form is Form.JSON:
        print_json({"path": {rule.path: {"capabilities": list(rule.capabilities)} for rule in rules}})
    else:
        echo(as_hcl(rules), nl=False)


def _load(path: Path) -> ServerSettings:
    settings = load(path, ServerSettings)
    if settings.vault is None:
        raise InvalidArgument(
            Reason.CONFIG_INVALID,
            f"{path} does not use Vault",
            fix="set `vault`, and one of `upstream.vault`, `keys.vault_transit` and `keys.vault_seal`",
        )
    return settings
