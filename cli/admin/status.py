"""`citadel-cli status`: the server, its authorities, its agents, and what each proxy has acknowledged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from citadel._wire import admin_pb2, types_pb2
from citadel.wire import from_duration, from_timestamp
from cli.admin.cluster_view import print_clusters
from cli.admin.invocation import CALL_SECONDS, Invocation, admin_command
from cli.admin.plain import to_plain
from cli.admin.tables import (
    Abridged,
    about,
    moment,
    moment_cell,
    print_fields,
    print_heading,
    print_table,
    serial_cell,
)
from cli.output import Form, echo, print_json, printable


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
            ("bundle sequence", _sequence(status)),
            ("entries", status.entries),
            ("issued", status.issued),
            *((("upstream", _upstream(status.upstream, now)),) if status.HasField("upstream") else ()),
            *(("upstream note", printable(note)) for note in status.upstream.notes),
            *((("vault", _vault(status.vault, now)),) if status.HasField("vault") else ()),
            *(("kubernetes", _kubernetes(each, now)) for each in status.kubernetes),
            *(("pod", printable(line)) for each in status.kubernetes for line in each.workloads.shown),
            *(("kubernetes note", printable(note)) for each in status.kubernetes for note in each.notes),
            *((("rotation", _rotation(status.rotation, now)),) if status.HasField("rotation") else ()),
            *((("clock", _jump(status)),) if status.HasField("clock_jump") else ()),
            *((("revocation", _without_lists(status)),) if status.revocation_trouble else ()),
            *((("revocation", printable(status.revocation_behind)),) if status.revocation_behind else ()),
            *(("ledger gap", f"{_gap_end(gap.begin)} to {_gap_end(gap.end)}") for gap in status.ledger_gaps),
        )
    )
    print_heading("authorities")
    print_table(
        ("KIND", "STATE", "ID", "SERIAL OR KID", "NOT AFTER", "TOKENS UNTIL"),
        (
            (
                item.kind,
                item.state,
                item.id,
                serial_cell(item.serial or item.kid),
                _when(item.not_after, now),
                _when(item.signed_until, now),
            )
            for item in status.authorities
        ),
        none="none",
    )
    print_clusters(status.clusters, now)
    print_heading("agents")
    print_table(
        ("AGENT", "STATE", "SINCE", "VERSION", "REVISION"),
        (
            (
                _path_cell(agent.spiffe_id),
                _state(agent),
                _when(agent.since, now),
                agent.version,
                agent.acknowledged_revision,
            )
            for agent in status.agents
        ),
        none="none",
    )
    _print_streams([agent for agent in status.agents if agent.streams], now)
    _print_federations(status, now)
    print_heading("refused, by reason")
    print_table(("REASON", "COUNT"), sorted(status.refused.items()), none="none")


def _print_federations(status: admin_pb2.Status, now: datetime) -> None:
    if not status.federations:
        return
    print_heading("federations")
    print_table(
        ("TRUST DOMAIN", "STATE", "FETCHED", "WHY"),
        (
            (
                each.trust_domain,
                "good" if each.good else each.reason,
                _when(each.refreshed_at, now),
                printable(each.message),
            )
            for each in status.federations
        ),
        none="none",
    )


def _print_streams(agents: Sequence[admin_pb2.AgentStatus], now: datetime) -> None:
    if not agents:
        print_heading("streams")
        echo("none")
    for agent in agents:
        print_heading(f"streams of {agent.spiffe_id}")
        print_table(
            ("STREAM", "PID", "UID", "NODE", "NAME", "STATE", "HOLDS", "SERIAL", "UNTIL", "WHY"),
            (row for stream in agent.streams for row in _rows(stream, now)),
            none="none",
        )


def _when(message: Timestamp, now: datetime) -> Abridged:
    # A time that was not sent reads as 1970, which nothing here happened in.
    return moment_cell(from_timestamp(message) if message.ByteSize() else None, now)


def _gap_end(message: Timestamp) -> str:
    return moment(from_timestamp(message))


def _sequence(status: admin_pb2.Status) -> str:
    x509 = status.bundle_x509_sequence
    is_older = 0 < x509 < status.bundle_sequence  # of an older server it is not known
    return (
        f"{status.bundle_sequence}, that of the X.509 authorities {x509}" if is_older else str(status.bundle_sequence)
    )


def _rotation(rotation: admin_pb2.RotationStatus, now: datetime) -> str:
    kind = f"{rotation.kind}, emergency" if rotation.emergency else rotation.kind
    phase = f"{rotation.phase}, paused" if rotation.paused else rotation.phase
    since = about(max(now - from_timestamp(rotation.phase_since), timedelta(0)))
    alarm = f"; alarm: {rotation.alarm}" if rotation.alarm else ""
    if rotation.failing:
        return f"{kind}: {phase} for {since}, cannot go on: {rotation.failing}{alarm}"
    return f"{kind}: {phase} for {since}, waits for {rotation.holders or 'nobody'}{alarm}"


def _upstream(upstream: admin_pb2.UpstreamStatus, now: datetime) -> str:
    what = " ".join(filter(None, (upstream.kind, upstream.source)))
    if upstream.good:
        return what
    text = f"{what}: {upstream.message} ({upstream.reason})"
    if upstream.HasField("since"):
        text += f", for {about(max(now - from_timestamp(upstream.since), timedelta(0)))}"
    if not upstream.HasField("lasts_until"):
        return text
    end = from_timestamp(upstream.lasts_until)
    return f"{text}; nothing is issued " + (f"from {moment(end)}, in {about(end - now)}" if end > now else "now")


def _vault(vault: admin_pb2.VaultStatus, now: datetime) -> str:
    keys = {"made": ", holds the keys", "sealed": ", seals the keys"}.get(vault.keys, "")
    return f"{vault.address} by {vault.login}{keys}{_trouble(vault, now)}"


def _kubernetes(cluster: admin_pb2.KubernetesStatus, now: datetime) -> str:
    pods = ""
    if cluster.HasField("pods"):
        pods = f", {cluster.pods} pods" if cluster.pods_known else ", its pods are not known yet"
    workloads = ""
    if cluster.HasField("workloads"):
        of = cluster.workloads
        workloads = f", {of.admitted} admitted, {of.entries} entries"
        workloads += f", {of.problems} with problems" if of.problems else ""
    return f"{cluster.cluster}{pods}{workloads}{_credentials(cluster)}{_trouble(cluster, now)}"


def _credentials(cluster: admin_pb2.KubernetesStatus) -> str:
    """Of the credentials of its gateways, how many there are, and how many are not as their secrets say."""
    of = cluster.gateways
    others = {"behind": of.behind, "bad": of.bad, "missing": of.missing}
    if not cluster.HasField("gateways") or not (of.good or any(others.values())):
        return ""
    return f", {of.good} credentials" + "".join(f", {number} {state}" for state, number in others.items() if number)


def _trouble(part: admin_pb2.VaultStatus | admin_pb2.KubernetesStatus, now: datetime) -> str:
    if part.good:
        return ""
    text = f": {printable(part.message)} ({part.reason})"
    if part.HasField("since"):
        text += f", for {about(max(now - from_timestamp(part.since), timedelta(0)))}"
    return text


def _jump(status: admin_pb2.Status) -> str:
    seconds = round(from_duration(status.clock_jump).total_seconds())
    return f"has jumped by {seconds:+d} s since the server's start: see that it is right, then restart the server"


def _without_lists(status: admin_pb2.Status) -> str:
    why = status.revocation_trouble.partition(". ")[0]  # the rest is in JSON, and said by `revoke`
    return f"no lists are pushed, so what is revoked is not refused: {printable(why)}"


def _state(agent: admin_pb2.AgentStatus) -> str:
    connected = "connected" if agent.connected else "away"
    return f"banned, {connected}" if agent.banned else connected


def _rows(stream: types_pb2.StreamReport, now: datetime) -> Iterator[tuple[object, ...]]:
    who = (stream.stream_id, stream.pid, stream.uid, stream.node_id)
    if not stream.resources:
        yield (*who, "", "nothing asked", "", "", "", "")
    for resource in stream.resources:
        state = types_pb2.ResourceReport.State.Name(resource.state).lower()
        what = (_holds(resource), serial_cell(resource.serial), _when(resource.not_after, now))
        name = _path_cell(resource.name) if resource.name == resource.spiffe_id else resource.name
        yield (*who, name, state, *what, _why(stream, resource))


def _holds(resource: types_pb2.ResourceReport) -> Abridged | str:
    if resource.spiffe_id:
        return _path_cell(resource.spiffe_id)
    return f"bundle {resource.bundle_sequence} of {resource.trust_domain}" if resource.trust_domain else ""


def _why(stream: types_pb2.StreamReport, resource: types_pb2.ResourceReport) -> str:
    if (
        resource.state == types_pb2.ResourceReport.WAITING and not resource.refusal
    ):  # in words from which a person can write a selector
        return f"no entry matches uid {stream.uid}, {stream.executable or 'executable unknown'}"
    return resource.refusal


def _path_cell(text: str) -> Abridged:
    """An identity that the server gave: its trust domain stands above the tables."""
    path = text.removeprefix("spiffe://").partition("/")[2]
    return Abridged(text, f"/{path}")
