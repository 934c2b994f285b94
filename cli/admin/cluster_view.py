"""How the clusters below this one are shown, one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final

from citadel._wire import rotation_pb2 as pb
from citadel.wire import from_timestamp
from cli.admin.tables import about, counted, moment_cell, print_heading, print_table
from cli.output import printable

_MOST_HOLDERS: Final = 3  # of each


def cluster_lines(clusters: Iterable[pb.ClusterView], now: datetime) -> Iterator[str]:
    """How far each is with a rotation, a line for each and one for those whom it waits for itself."""
    for each in clusters:
        indent = "  " * (each.below + 1)
        yield f"{indent}cluster {each.name}: {', '.join(_facts(each, now))}"
        named = [f"{holder.name} ({holder.words})" for holder in each.holders[:_MOST_HOLDERS]]
        if named:
            more = max(each.holder_count, len(each.holders)) - len(named)
            yield f"{indent}  waits for {'; '.join(named)}" + (f" and {more} more" if more > 0 else "")


def cluster_events(clusters: Iterable[pb.ClusterView]) -> Mapping[str, str]:
    """What of them is worth a line of its own where lines stay, by what tells it apart."""
    found: dict[str, str] = {}
    for each in clusters:
        if not each.connected and not each.below:
            line = f"  cluster {each.name}: away"
        elif each.phase:
            line = f"  cluster {each.name}: {each.phase} there"
        else:
            line = f"  cluster {each.name}: connected"
        found[line] = line
    return found


def print_clusters(clusters: Iterable[pb.ClusterView], now: datetime) -> None:
    """All of them as a table, with its heading; nothing where there are none."""
    rows = [
        (
            "  " * each.below + printable(each.name),
            _state(each),
            moment_cell(from_timestamp(each.since) if each.HasField("since") else None, now),
            f"{each.agents}, {each.agents_away} away",
            f"{each.proxies_acknowledged} of {each.proxies}",
            printable(each.phase) or "-",
        )
        for each in clusters
    ]
    if rows:
        print_heading("child clusters")
        print_table(("CLUSTER", "STATE", "SINCE", "AGENTS", "PROXIES UP TO DATE", "ROTATION THERE"), rows, none="none")


def _facts(view: pb.ClusterView, now: datetime) -> Iterator[str]:
    if not view.connected and not view.below:
        since = f" for {about(now - from_timestamp(view.since))}" if view.HasField("since") else ""
        yield f"away{since}"
        return
    yield f"{view.proxies_acknowledged} of {view.proxies} proxies have acknowledged"
    if view.svids:
        yield f"{view.svids_renewed} of {counted(view.svids, 'SVID')} renewed"
    if view.agents_away:
        yield f"agents away: {view.agents_away}"
    if view.phase:
        yield f"{view.phase} there"


def _state(view: pb.ClusterView) -> str:
    if view.below:
        return "below"
    return "connected" if view.connected else "away"
