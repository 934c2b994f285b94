"""On how many proxies the lists are in force, by what agents report of them. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ca.insight.words import what_it_said
from citadel._wire import types_pb2

# Programs on the Workload API are handed the lists; whether they look at them nobody knows.
_PROXY_PROTOCOLS = frozenset({"sds", "sds-delta"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Force:
    """How it stands. `without` names those where the lists are not in force yet, and what they said."""

    proxies: int
    in_force: int
    without: Sequence[str]


def force_of(reports: Mapping[str, Iterable[types_pb2.StreamReport]], *, version: str, trust_domain: str) -> Force:
    """Count proxies, by agent and process, that check against a bundle of this domain; `reports` are by agent."""
    words: dict[tuple[str, int], list[str]] = defaultdict(list)
    for agent, streams in reports.items():
        for stream in streams:
            if stream.protocol not in _PROXY_PROTOCOLS:
                continue
            for resource in stream.resources:
                if resource.trust_domain == trust_domain:
                    said = words[agent, stream.pid]
                    if resource.held_revocation_version != version:
                        said.append(f"{agent}/{stream.stream_id}: {what_it_said(stream, resource)}")
    without = [said[0] for said in words.values() if said]
    return Force(proxies=len(words), in_force=len(words) - len(without), without=without)
