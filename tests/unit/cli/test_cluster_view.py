"""Child clusters on the command line, one by one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from citadel._wire import rotation_pb2 as pb
from citadel.wire import to_timestamp
from cli.admin import rotation_view
from cli.admin.cluster_view import print_clusters

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _cluster(name: str, **fields: Any) -> pb.ClusterView:
    return pb.ClusterView(name=name, since=to_timestamp(NOW - timedelta(seconds=90)), **fields)


EAST = _cluster(
    "spiffe://a.test/east",
    connected=True,
    agents=2,
    agents_away=1,
    proxies=12,
    proxies_acknowledged=9,
    svids=8,
    svids_renewed=5,
    phase="observe",
    holders=[pb.Holder(name="node-7/4", words="pid 7 refused\x1b[2J ROOTCA")],
    holder_count=3,
)
BELOW = _cluster("spiffe://a.test/east/lab", below=1, proxies=1, proxies_acknowledged=1)
WEST = _cluster("spiffe://a.test/west")
EAST_FACTS = "9 of 12 proxies have acknowledged, 5 of 8 SVIDs renewed, agents away: 1, observe there"
CLUSTERS = [EAST, BELOW, WEST]


def _view() -> pb.RotationView:
    moment = to_timestamp(NOW)
    rotation = pb.Rotation(id="r1", kind="root", phase="drain", started_at=moment, phase_since=moment)
    return pb.RotationView(rotation=rotation, clusters=CLUSTERS)


def test_a_rotation_shows_how_far_each_is() -> None:
    lines = rotation_view.status_lines(_view(), NOW)
    assert [line for line in lines if "cluster" in line or "node-7" in line] == [
        f"  cluster spiffe://a.test/east: {EAST_FACTS}",
        "    waits for node-7/4 (pid 7 refused\\x1b[2J ROOTCA) and 2 more",
        "    cluster spiffe://a.test/east/lab: 1 of 1 proxies have acknowledged",
        "  cluster spiffe://a.test/west: away for 1m30s",
    ]


def test_where_lines_stay_what_each_does_is_told_once() -> None:
    events = rotation_view.events(_view())
    assert [line for line in events.values() if "cluster" in line] == [
        "  cluster spiffe://a.test/east: observe there",
        "  cluster spiffe://a.test/east/lab: connected",
        "  cluster spiffe://a.test/west: away",
    ]
    assert rotation_view.events(_view()).keys() == events.keys()


def test_status_has_a_table_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    print_clusters(CLUSTERS, NOW)
    rows = [[cell.strip() for cell in line.split("  ") if cell] for line in capsys.readouterr().out.splitlines()]
    assert rows[1:] == [
        ["child clusters"],
        ["CLUSTER", "STATE", "SINCE", "AGENTS", "PROXIES UP TO DATE", "ROTATION THERE"],
        ["spiffe://a.test/east", "connected", "2025-12-31T23:58:30Z (1m30s ago)", "2, 1 away", "9 of 12", "observe"],
        ["spiffe://a.test/east/lab", "below", "2025-12-31T23:58:30Z (1m30s ago)", "0, 0 away", "1 of 1", "-"],
        ["spiffe://a.test/west", "away", "2025-12-31T23:58:30Z (1m30s ago)", "0, 0 away", "0 of 0", "-"],
    ]
    print_clusters([], NOW)
    assert capsys.readouterr().out == ""
