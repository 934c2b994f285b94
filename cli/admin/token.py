"""`citadel-cli token`: join tokens for agents."""

from __future__ import annotations

from datetime import timedelta

import click
from google.protobuf.duration_pb2 import Duration

from citadel._wire import admin_pb2 as pb
from citadel.selector import Selector
from citadel.wire import from_timestamp
from cli.admin.invocation import CALL_SECONDS, Invocation, admin_command
from cli.admin.parameters import DurationType, SelectorType, TextType
from cli.admin.plain import to_plain
from cli.admin.tables import moment_and_distance
from cli.output import Form, echo, print_json


@click.group("token")
def token_group() -> None:
    """Tokens with which agents join."""


@admin_command("create", group=token_group, example="citadel-cli token create --ttl 10m --node-selector node:rack:a1")
@click.option("--ttl", type=DurationType(), help="How long the token can be used; the server's default otherwise.")
@click.option("--agent-name", type=TextType(), help="The agent's name; the server chooses one otherwise.")
@click.option(
    "--node-selector",
    "node_selectors",
    type=SelectorType(),
    multiple=True,
    metavar="node:KEY:VALUE",
    help="A fact about the node that you vouch for. Repeatable.",
)
def create(
    invocation: Invocation, ttl: timedelta | None, agent_name: str | None, node_selectors: tuple[Selector, ...]
) -> None:
    """Make a token that lets one agent join once, and print its join string.

    The join string is a secret: give it to the agent in a file of mode 0600. It alone goes to standard output.
    """
    request = pb.CreateTokenRequest(
        ttl=_duration(ttl) if ttl is not None else None,
        agent_name=agent_name or "",
        node_selectors=[str(item) for item in node_selectors],
    )
    reply = invocation.ask(lambda admin: admin.CreateToken(request, timeout=CALL_SECONDS))
    if invocation.form is Form.JSON:
        print_json(to_plain(reply))
        return
    echo(reply.join_string)
    until = moment_and_distance(from_timestamp(reply.expires_at), invocation.clock.now())
    click.echo(f"for {reply.agent_id}, once, until {until}", err=True)
    if reply.agent_exists:
        click.echo(
            f"warning: {reply.agent_id} exists already: using this token replaces its key, and the machine that runs "
            "under it now loses its identity",
            err=True,
        )


def _duration(value: timedelta) -> Duration:
    message = Duration()
    message.FromTimedelta(value)
    return message
