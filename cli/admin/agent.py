"""`citadel-cli agent`: which agents there are and how they are; ban, unban and evict them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeVar

import click
from google.protobuf.timestamp_pb2 import Timestamp

from citadel._wire import agents_pb2 as pb
from citadel._wire.agents_pb2_grpc import AgentAdminStub
from citadel.wire import entry_from_wire, from_timestamp
from cli.admin.invocation import CALL_SECONDS, Invocation, admin_command
from cli.admin.parameters import TextType
from cli.admin.plain import to_plain
from cli.admin.tables import (
    Abridged,
    moment_and_distance,
    moment_cell,
    print_fields,
    print_heading,
    print_table,
    serial_cell,
)
from cli.output import Form, echo, print_json

if TYPE_CHECKING:
    from citadel._wire.agents_pb2_grpc import AgentAdminAsyncStub  # exists for type checkers only

T = TypeVar("T")

_PAGE: Final = 500
_PREFIX: Final = "/citadel/agent/"
_STATES: Final = {
    "connected": pb.ListAgentsRequest.CONNECTED,
    "away": pb.ListAgentsRequest.AWAY,
    "banned": pb.ListAgentsRequest.BANNED,
}
_AGENT: Final = click.argument("agent", metavar="NAME|ID", type=TextType())
_YES: Final = click.option("--yes", is_flag=True, help="Do not ask.")
_WHY: Final = click.option("--reason", type=TextType(), help="Why, for the audit log.")


@click.group("agent")
def agent_group() -> None:
    """Agents: one on each node. NAME is what stands behind /citadel/agent/ in an agent's SPIFFE ID."""


@admin_command("list", group=agent_group, example="citadel-cli agent list --state away")
@click.option("--state", type=click.Choice(list(_STATES)), help="Only agents in this state.")
def list_command(invocation: Invocation, state: str | None) -> None:
    """List the agents by name, with the end of each one's own certificate and when it was last seen."""
    wanted = _STATES[state] if state is not None else pb.ListAgentsRequest.STATE_UNSPECIFIED
    request = pb.ListAgentsRequest(state=wanted, page_size=_PAGE)
    agents = _ask(invocation, lambda server: _all_pages(server, request))
    if invocation.form is Form.JSON:
        print_json({"agents": [to_plain(agent) for agent in agents]})
        return
    now = invocation.clock.now()
    print_table(
        ("AGENT", "STATE", "LAST SEEN", "VERSION", "STREAMS", "JOINED BY", "SVID", "UNTIL"),
        (
            (
                _name_cell(agent),
                _state(agent),
                moment_cell(_time(agent.last_seen), now),
                agent.version,
                agent.streams,
                agent.joined_by,
                serial_cell(agent.svid_serial),
                moment_cell(_time(agent.svid_not_after), now),
            )
            for agent in agents
        ),
        none="no agents",
    )


@admin_command("show", group=agent_group, example="citadel-cli agent show node-1")
@_AGENT
def show(invocation: Invocation, agent: str) -> None:
    """Show one agent: what the server vouches for about its node, its entries, and its streams."""
    request = pb.GetAgentRequest(agent=agent)
    found = _ask(invocation, lambda server: server.GetAgent(request, timeout=CALL_SECONDS))
    if invocation.form is Form.JSON:
        print_json(to_plain(found))
        return
    _print_agent(invocation, found.agent)
    print_heading("entries")
    print_table(
        ("ID", "SPIFFE ID", "SELECTORS"),
        ((entry.id, entry.spiffe_id, sorted(entry.selectors)) for entry in map(entry_from_wire, found.entries)),
        none="no entries",
    )
    print_heading("streams")
    print_table(
        ("STREAM", "PROTOCOL", "PID", "UID", "EXECUTABLE", "SECRETS"),
        (
            (
                stream.stream_id,
                stream.protocol,
                stream.pid,
                stream.uid,
                stream.executable,
                [resource.name for resource in stream.resources],
            )
            for stream in found.streams
        ),
        none="no streams",
    )


@admin_command("ban", group=agent_group, example="citadel-cli agent ban node-1 --reason 'disk was stolen' --yes")
@_AGENT
@click.option("--reason", type=TextType(), required=True, help="Why, for the audit log and for `agent show`.")
@_YES
def ban(invocation: Invocation, agent: str, reason: str, *, yes: bool) -> None:
    """Sign nothing more for an agent, from this moment on. No token brings it back before `unban`.

    Its streams end at once. Certificates that its workloads hold stay good until they end.
    """
    _confirm(f"Ban agent {agent}? Its workloads get no new certificates.", yes=yes)
    request = pb.BanAgentRequest(agent=agent, reason=reason)
    _done(invocation, "banned", lambda server: server.BanAgent(request, timeout=CALL_SECONDS))


@admin_command("unban", group=agent_group, example="citadel-cli agent unban node-1 --reason 'found again'")
@_AGENT
@_WHY
def unban(invocation: Invocation, agent: str, reason: str | None) -> None:
    """Let a banned agent come back with the key that it had."""
    request = pb.UnbanAgentRequest(agent=agent, reason=reason or "")
    _done(invocation, "unbanned", lambda server: server.UnbanAgent(request, timeout=CALL_SECONDS))


@admin_command("evict", group=agent_group, example="citadel-cli agent evict node-1 --reason 'node removed' --yes")
@_AGENT
@_WHY
@_YES
def evict(invocation: Invocation, agent: str, reason: str | None, *, yes: bool) -> None:
    """Forget an agent and its key: for nodes that are gone. With a new token it can join again, under a new key.

    One that joined with a certificate can join again with that: ban it to keep it out.
    """
    _confirm(f"Evict agent {agent}? It can come back only by joining again.", yes=yes)
    request = pb.EvictAgentRequest(agent=agent, reason=reason or "")
    _done(invocation, "evicted", lambda server: server.EvictAgent(request, timeout=CALL_SECONDS))


def _ask(invocation: Invocation, question: Callable[[AgentAdminAsyncStub], Awaitable[T]]) -> T:
    return invocation.ask_service(lambda channel: question(AgentAdminStub(channel)))


async def _all_pages(server: AgentAdminAsyncStub, request: pb.ListAgentsRequest) -> list[pb.Agent]:
    agents: list[pb.Agent] = []
    while True:
        page = await server.ListAgents(request, timeout=CALL_SECONDS)
        agents.extend(page.agents)
        if not page.next_page_token:
            return agents
        request.page_token = page.next_page_token


def _confirm(question: str, *, yes: bool) -> None:
    if not yes:
        click.confirm(question, abort=True, err=True)


def _done(invocation: Invocation, what: str, change: Callable[[AgentAdminAsyncStub], Awaitable[pb.Agent]]) -> None:
    agent = _ask(invocation, change)
    if invocation.form is Form.JSON:
        print_json(to_plain(agent))
    else:
        echo(f"{what} {agent.spiffe_id}")


def _print_agent(invocation: Invocation, agent: pb.Agent) -> None:
    now = invocation.clock.now()
    print_fields(
        (
            ("SPIFFE ID", agent.spiffe_id),
            ("state", _state(agent)),
            ("banned because", agent.ban_reason),
            ("version", agent.version),
            ("joined", moment_and_distance(_time(agent.joined_at), now)),
            ("joined by", agent.joined_by),
            ("connected since", moment_and_distance(_time(agent.connected_at), now)),
            ("last seen", moment_and_distance(_time(agent.last_seen), now)),
            ("own SVID", agent.svid_serial),
            ("own SVID until", moment_and_distance(_time(agent.svid_not_after), now)),
            ("acknowledged revision", agent.acknowledged_revision),
            ("selectors", list(agent.selectors)),
        )
    )


def _time(message: Timestamp) -> datetime | None:
    # A time that was not sent reads as 1970, which nothing here happened in.
    return from_timestamp(message) if message.ByteSize() else None


def _state(agent: pb.Agent) -> str:
    connected = "connected" if agent.connected else "away"
    return f"banned, {connected}" if agent.banned else connected


def _name_cell(agent: pb.Agent) -> Abridged:
    return Abridged(agent.spiffe_id, agent.spiffe_id.partition(_PREFIX)[2] or agent.spiffe_id)
