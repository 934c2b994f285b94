"""`citadel`: the processes. `citadel server`, `citadel agent` and `citadel demo`."""

from __future__ import annotations

from pathlib import Path

import click

from citadel import logs
from citadel.config.loader import load
from citadel.errors import CitadelError
from cli.completion import completion_command
from cli.demo.command import demo
from cli.limits import raise_open_files
from cli.output import CommandGroup
from cli.signals import run_until_signal
from sds.settings import AgentSettings

_config = click.option(
    "--config",
    "-c",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The YAML file with the settings.",
)


@click.group(cls=CommandGroup)
@click.version_option(package_name="citadel")
def main() -> None:
    """Citadel, a certificate authority for service meshes.

    Example: citadel server run --config server.yaml
    """


@main.group()
def server() -> None:
    """The certificate authority.

    Example: citadel server run --config /etc/citadel/server.yaml
    """


@server.command("run")
@_config
def server_run(path: Path) -> None:
    """Run the server until SIGTERM.

    Example: citadel server run --config /etc/citadel/server.yaml
    """
    from ca.settings import ServerSettings  # noqa: PLC0415 - an agent holds nothing of a server in memory

    settings = load(path, ServerSettings)
    logs.configure(settings.log)
    from cli.server_process import run_server  # noqa: PLC0415 - the other commands start without SQLAlchemy

    raise_open_files()
    try:
        run_until_signal(lambda stop: run_server(settings, stop=stop))
    except CitadelError as error:
        if error.reason.value.startswith("vault_"):
            error.fix = error.fix or f"`citadel-cli vault check -c {path}` says what does not fit"
        raise


@server.command("validate")
@_config
def server_validate(path: Path) -> None:
    """Check the settings of a server without starting it.

    Example: citadel server validate --config /etc/citadel/server.yaml
    """
    from ca.settings import ServerSettings  # noqa: PLC0415 - as above

    settings = load(path, ServerSettings)
    from cli.server_process import validate_server  # noqa: PLC0415 - as above

    for warning in validate_server(settings):
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{path}: valid for a server of {settings.trust_domain}")


@main.group()
def agent() -> None:
    """The agent of one node.

    Example: citadel agent run --config /etc/citadel/agent.yaml
    """


@agent.command("run")
@_config
def agent_run(path: Path) -> None:
    """Run the agent until SIGTERM. The first start needs a join string.

    Example: citadel agent run --config /etc/citadel/agent.yaml
    """
    settings = load(path, AgentSettings)
    logs.configure(settings.log)
    from cli.agent_process import run_agent  # noqa: PLC0415 - the other commands start without Envoy's stubs

    raise_open_files()
    run_until_signal(lambda stop: run_agent(settings, stop=stop))


@agent.command("validate")
@_config
def agent_validate(path: Path) -> None:
    """Check the settings of an agent without starting it.

    Example: citadel agent validate --config /etc/citadel/agent.yaml
    """
    settings = load(path, AgentSettings)
    from cli.agent_process import validate_agent  # noqa: PLC0415 - as above

    validate_agent(settings)
    click.echo(f"{path}: valid for an agent of {settings.trust_domain}")


main.add_command(demo)
main.add_command(completion_command(main, "citadel"))
