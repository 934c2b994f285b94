"""`citadel-cli explain`: why a process or an identity gets what it gets, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

import click
from google.protobuf.timestamp_pb2 import Timestamp

from citadel._wire import agent_local_pb2, insight_pb2
from citadel._wire.agent_local_pb2_grpc import AgentLocalStub
from citadel._wire.insight_pb2_grpc import InsightStub
from citadel.errors import CitadelError, Reason, Unavailable
from citadel.spiffe import SpiffeId
from citadel.wire import from_timestamp
from cli.admin.invocation import CALL_SECONDS, Invocation, admin_command
from cli.admin.parameters import SocketType, SpiffeIdType
from cli.admin.plain import to_plain
from cli.admin.proxy import print_proxies
from cli.admin.tables import moment_and_distance, moment_cell, print_fields, print_heading, print_table, serial_cell
from cli.output import Form, echo, print_json

AGENT_SOCKET: Final = Path("/run/citadel/agent-admin.sock")
AGENT_SOCKET_VARIABLE: Final = "CITADEL_AGENT_ADMIN_SOCKET"
_NAME_THE_SOCKET: Final = (
    f"start `citadel agent run`, or name its admin_socket with --agent-socket or {AGENT_SOCKET_VARIABLE}"
)


@admin_command("explain", example="citadel-cli explain --pid $(pidof envoy)")
@click.argument("spiffe_id", type=SpiffeIdType(), required=False)
@click.option("--pid", type=click.IntRange(min=1), help="A process on this node: its agent is asked.")
@click.option(
    "--agent-socket",
    type=SocketType(),
    default=AGENT_SOCKET,
    envvar=AGENT_SOCKET_VARIABLE,
    show_default=True,
    show_envvar=True,
    help="The admin socket of the agent, for --pid.",
)
def explain_command(invocation: Invocation, spiffe_id: SpiffeId | None, pid: int | None, agent_socket: Path) -> None:
    """Say why a process (--pid, asks the agent) or an identity (SPIFFE_ID, asks the server) gets nothing.

    Ends with one sentence: the first thing that stands in the way, and what to do about it.
    """
    if (spiffe_id is None) == (pid is None):
        raise click.UsageError("give either a SPIFFE ID or --pid")
    if pid is not None:
        _explain_process(invocation, pid, agent_socket)
    else:
        _explain_identity(invocation, str(spiffe_id))


def _explain_process(invocation: Invocation, pid: int, agent_socket: Path) -> None:
    request = agent_local_pb2.ExplainProcessRequest(pid=pid)
    try:
        found = replace(invocation, socket=agent_socket).ask_service(
            lambda channel: AgentLocalStub(channel).ExplainProcess(request, timeout=CALL_SECONDS)
        )
    except CitadelError as error:
        if error.reason is Reason.SERVER_UNREACHABLE:
            raise Unavailable(error.reason, f"no agent answers: {error.message}", fix=_NAME_THE_SOCKET) from error
        raise
    if invocation.form is Form.JSON:
        print_json(to_plain(found))
        return
    now = invocation.clock.now()
    unseen = "" if found.complete else " (something could not be seen now)"
    print_fields(
        (
            ("pid", found.pid),
            ("executable", found.executable or "the agent may not read it"),
            *([("runs in", found.place)] if found.place else []),
            ("selectors seen", f"{' '.join(found.selectors)}{unseen}"),
            *([("not seen", found.trouble)] if found.trouble else []),
            ("SDS names", found.sds_names),
            *_agent_fields(found.agent, now),
        )
    )
    print_heading(f"entries of this agent ({len(found.entries)} of {found.entries_in_all})")
    print_table(
        ("SPIFFE ID", "MATCHES", "SVID", "SERIAL", "UNTIL", "REFUSED", "NEXT TRY"),
        (_entry_row(entry, now) for entry in found.entries),
        none="none",
    )
    print_heading("open streams of this process")
    print_proxies([insight_pb2.Proxy(name=stream.stream_id, stream=stream) for stream in found.streams], now)
    _print_verdict(found.verdict)


def _agent_fields(agent: agent_local_pb2.AgentCondition, now: datetime) -> Iterator[tuple[str, object]]:
    yield ("agent", agent.spiffe_id)
    yield ("its identity until", _when(agent.not_after, now))
    heard = _when(agent.heard_at, now) if agent.heard_at.ByteSize() else "never since the start"
    yield ("server", "connected" if agent.connected else f"away; last heard: {heard}")
    if agent.trouble:
        yield ("nothing is signed", agent.trouble)


def _entry_row(entry: agent_local_pb2.EntryExplanation, now: datetime) -> tuple[object, ...]:
    misses = [f"wants {miss.wanted}, seen {miss.seen or 'nothing of the kind'}" for miss in entry.misses]
    if entry.for_no_pod:
        misses.append("not for pods: it has no k8s: selector")
    matches = "expired" if entry.expired and not misses else "; ".join(misses) or "yes"
    refused = f"{entry.refusal} ({entry.refusal_reason})" if entry.refusal_reason else ""
    next_try = moment_cell(_moment(entry.next_try), now) if entry.state != "held" else ""
    until = moment_cell(_moment(entry.not_after), now)
    return (entry.spiffe_id, matches, entry.state, serial_cell(entry.serial), until, refused, next_try)


def _explain_identity(invocation: Invocation, spiffe_id: str) -> None:
    request = insight_pb2.ExplainIdentityRequest(spiffe_id=spiffe_id)
    found = invocation.ask_service(lambda channel: InsightStub(channel).ExplainIdentity(request, timeout=CALL_SECONDS))
    if invocation.form is Form.JSON:
        print_json(to_plain(found))
        return
    now = invocation.clock.now()
    print_fields((("SPIFFE ID", found.spiffe_id), *_record_fields(found, now)))
    print_heading("entries that grant it")
    print_table(
        ("ENTRY", "PARENT", "SELECTORS", "FEDERATES WITH", "EXPIRED"),
        (
            (
                grant.entry.id,
                grant.entry.parent_id,
                " ".join(grant.entry.selectors),
                " ".join(grant.entry.federates_with),
                "yes" if grant.expired else "no",
            )
            for grant in found.grants
        ),
        none="none",
    )
    print_heading("through these agents")
    print_table(
        ("AGENT", "STATE", "REVISION", "NEEDED"),
        (
            (agent.spiffe_id, _state(agent), agent.acknowledged_revision, agent.needed_revision)
            for grant in found.grants
            for agent in grant.agents
        ),
        none="none",
    )
    print_heading("streams that have it")
    print_proxies(found.proxies, now)
    _print_verdict(found.verdict)


def _record_fields(found: insight_pb2.IdentityExplanation, now: datetime) -> Iterator[tuple[str, object]]:
    if found.HasField("last_issued"):
        issued = found.last_issued
        yield ("last issued", f"{_when(issued.issued_at, now)}, serial {issued.serial}")
        yield ("that one until", _when(issued.not_after, now))
        yield ("asked for by", issued.requested_by)
    else:
        yield ("last issued", "never")
    if found.HasField("last_refusal"):
        refusal = found.last_refusal
        text = f"{_when(refusal.at, now)}: {refusal.detail or refusal.what} ({refusal.reason}), to {refusal.who}"
        yield ("last refusal", text)
    if found.near_misses:
        yield ("looks like", found.near_misses)


def _print_verdict(verdict: insight_pb2.Verdict) -> None:
    print_heading(f"{'Fine' if verdict.good else 'Most likely'}: {_printable(verdict.answer)}.")
    if verdict.fix:
        echo(f"  try: {_printable(verdict.fix)}")


def _state(agent: insight_pb2.GrantingAgent) -> str:
    if not agent.joined:
        return "not joined"
    connected = "connected" if agent.connected else "away"
    return f"banned, {connected}" if agent.banned else connected


def _printable(text: str) -> str:
    # A proxy's own words can stand in it: they must not steer the terminal of an administrator.
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _moment(message: Timestamp) -> datetime | None:
    return from_timestamp(message) if message.ByteSize() else None


def _when(message: Timestamp, now: datetime) -> str:
    return moment_and_distance(_moment(message), now)
