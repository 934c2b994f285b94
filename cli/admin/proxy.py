"""`citadel-cli proxy`: each connected stream, which secrets it has, and what its proxy said to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

import click
from google.protobuf.timestamp_pb2 import Timestamp

from citadel._wire import insight_pb2 as pb
from citadel._wire import types_pb2
from citadel._wire.insight_pb2_grpc import InsightStub
from citadel.errors import NotFound, Reason
from citadel.spiffe import SpiffeId
from citadel.wire import from_timestamp
from cli.admin.invocation import CALL_SECONDS, Invocation, admin_command
from cli.admin.parameters import SpiffeIdType, TextType
from cli.admin.plain import to_plain
from cli.admin.tables import Abridged, moment_cell, print_fields, print_heading, print_table, serial_cell
from cli.output import Form, print_json

_PAGE = 500


@click.group("proxy")
def proxy_group() -> None:
    """The streams of proxies and programs, over all agents."""


@admin_command("list", group=proxy_group, example="citadel-cli proxy list --refused")
@click.option("--agent", type=TextType(), help="Only streams of this agent: its name or its SPIFFE ID.")
@click.option("--spiffe-id", type=SpiffeIdType(), help="Only streams with a secret of this identity.")
@click.option("--refused", is_flag=True, help="Only streams with a secret that the proxy refused.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
def list_command(
    invocation: Invocation, agent: str | None, spiffe_id: SpiffeId | None, refused: bool, limit: int | None
) -> None:
    """List the streams with each secret: serial, end, version sent, and whether the proxy took or refused it."""
    request = pb.ListProxiesRequest(
        agent_id=agent or "", spiffe_id=str(spiffe_id) if spiffe_id else "", refused=refused, page_size=_PAGE
    )
    found = _all_pages(invocation, request, limit)
    if invocation.form is Form.JSON:
        print_json([to_plain(proxy) for proxy in found])
        return
    print_proxies(found, invocation.clock.now())


@admin_command("show", group=proxy_group, example="citadel-cli proxy show node-1/17")
@click.argument("stream", type=TextType())
def show(invocation: Invocation, stream: str) -> None:
    """Show one stream; STREAM is its name as `proxy list` prints it."""
    found = _all_pages(invocation, pb.ListProxiesRequest(stream=stream), 1)
    if not found:
        raise NotFound(Reason.CALLER_UNKNOWN, f"there is no open stream {stream!r}", fix="see `citadel-cli proxy list`")
    (proxy,) = found
    if invocation.form is Form.JSON:
        print_json(to_plain(proxy))
        return
    report = proxy.stream
    print_fields(
        (
            ("stream", proxy.name),
            ("agent", proxy.agent_id),
            ("protocol", report.protocol),
            ("pid", report.pid),
            ("uid", report.uid),
            ("gid", report.gid),
            ("executable", report.executable),
            ("node", report.node_id),
        )
    )
    print_heading("secrets")
    now = invocation.clock.now()
    print_table(
        ("NAME", "STATE", "HOLDS", "SERIAL", "UNTIL", "VERSION", "STILL HELD", "WHY"),
        ((*_secret(resource, now), resource.refusal) for resource in report.resources),
        none="it has asked for nothing",
    )


def print_proxies(proxies: Iterable[pb.Proxy], now: datetime) -> None:
    """A table with a line for each secret of each stream."""
    print_table(
        (
            *("STREAM", "PROTOCOL", "PID", "EXECUTABLE", "NODE"),
            *("NAME", "STATE", "HOLDS", "SERIAL", "UNTIL", "VERSION", "STILL HELD", "WHY"),
        ),
        (row for proxy in proxies for row in _rows(proxy, now)),
        none="no streams",
    )


def _all_pages(invocation: Invocation, request: pb.ListProxiesRequest, limit: int | None) -> list[pb.Proxy]:
    found: list[pb.Proxy] = []
    while True:
        page = invocation.ask_service(lambda channel: InsightStub(channel).ListProxies(request, timeout=CALL_SECONDS))
        found.extend(page.proxies)
        if not page.next_page_token or (limit is not None and len(found) >= limit):
            return found[:limit]
        request.page_token = page.next_page_token


def _rows(proxy: pb.Proxy, now: datetime) -> Iterator[tuple[object, ...]]:
    report = proxy.stream
    executable = Abridged(report.executable, report.executable.rpartition("/")[2])
    who = (proxy.name, report.protocol, report.pid, executable, report.node_id)
    if not report.resources:
        yield (*who, "", "nothing asked", "", "", "", "", "", "")
    for resource in report.resources:
        yield (*who, *_secret(resource, now), resource.refusal)


def _secret(resource: types_pb2.ResourceReport, now: datetime) -> tuple[object, ...]:
    return (
        resource.name,
        types_pb2.ResourceReport.State.Name(resource.state).lower(),
        _holds(resource),
        serial_cell(resource.serial),
        _when(resource.not_after, now),
        resource.version,
        _still_held(resource),
    )


def _holds(resource: types_pb2.ResourceReport) -> Abridged | str:
    if resource.spiffe_id:
        return Abridged(resource.spiffe_id, f"/{resource.spiffe_id.removeprefix('spiffe://').partition('/')[2]}")
    return f"bundle {resource.bundle_sequence} of {resource.trust_domain}" if resource.trust_domain else ""


def _still_held(resource: types_pb2.ResourceReport) -> str:
    """What the proxy has instead of what it was sent last; empty where that is the same."""
    if not resource.held_version or resource.held_version == resource.version:
        return ""
    return resource.held_serial or f"bundle {resource.held_bundle_sequence}"


def _when(message: Timestamp, now: datetime) -> Abridged:
    return moment_cell(from_timestamp(message) if message.ByteSize() else None, now)
