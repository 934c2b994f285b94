"""`citadel-cli status`: the server, its authorities, its agents, and what each proxy has acknowledged."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from citadel._wire import admin_pb2, types_pb2
from citadel.wire import from_timestamp
from cli.admin.invocation import CALL_SECONDS, Invocation, admin_command
from cli.admin.plain import to_plain
from cli.admin.tables import about, moment_and_distance, print_fields, print_heading, print_table
from cli.output import Form, print_json


@admin_command("status", example="citadel-cli status")
def status_command(invocation: Invocation) -> None:
    """Show how the server is, its authorities and agents, and what the proxies have acknowledged or refused."""
    request = admin_pb2.GetStatusRequest()
    status = invocation.ask(lambda admin: admin.GetStatus(request, timeout=CALL_SECONDS))
    if invocation.form is Form.JSON:
        print_json(to_plain(status))
    else:
        _print(status, invocation.clock.now())


def _print(status: admin_pb2.Status, now: datetime) -> None:
    print_fields(
        (
            ("version", status.version),
            ("trust domain", status.trust_domain),
            ("up for", about(now - from_timestamp(status.started_at))),
            ("revision", status.revision),
            ("bundle sequence", status.bundle_sequence),
            ("entries", status.entries),
            ("issued", status.issued),
        )
    )
    print_heading("authorities")
    print_table(
        ("KIND", "STATE", "ID", "SERIAL", "NOT AFTER"),
        ((item.kind, item.state, item.id, item.serial, _when(item.not_after, now)) for item in status.authorities),
        none="none",
    )
    print_heading("agents")
    print_table(
        ("AGENT", "STATE", "SINCE", "VERSION", "REVISION", "STREAMS"),
        (
            (
                agent.spiffe_id,
                _state(agent),
                _when(agent.since, now),
                agent.version,
                agent.acknowledged_revision,
                len(agent.streams),
            )
            for agent in status.agents
        ),
        none="none",
    )
    print_heading("streams")
    print_table(
        ("AGENT", "STREAM", "PID", "UID", "NODE", "NAME", "STATE", "HOLDS", "REFUSAL"),
        (row for agent in status.agents for stream in agent.streams for row in _rows(agent, stream, now)),
        none="none",
    )
    print_heading("refused, by reason")
    print_table(("REASON", "COUNT"), sorted(status.refused.items()), none="none")


def _when(message: Timestamp, now: datetime) -> str:
    # A time that was not sent reads as 1970, which nothing here happened in.
    return moment_and_distance(from_timestamp(message) if message.ByteSize() else None, now)


def _state(agent: admin_pb2.AgentStatus) -> str:
    connected = "connected" if agent.connected else "away"
    return f"banned, {connected}" if agent.banned else connected


def _rows(agent: admin_pb2.AgentStatus, stream: types_pb2.StreamReport, now: datetime) -> Iterator[tuple[object, ...]]:
    who = (agent.spiffe_id, stream.stream_id, stream.pid, stream.uid, stream.node_id)
    if not stream.resources:
        yield (*who, "", "nothing asked", "", "")
    for resource in stream.resources:
        state = types_pb2.ResourceReport.State.Name(resource.state).lower()
        yield (*who, resource.name, state, _holds(resource, now), resource.refusal)


def _holds(resource: types_pb2.ResourceReport, now: datetime) -> str:
    if resource.spiffe_id:
        return f"{resource.spiffe_id} serial {resource.serial} until {_when(resource.not_after, now)}"
    if resource.trust_domain:
        return f"bundle {resource.bundle_sequence} of {resource.trust_domain}"
    return ""
