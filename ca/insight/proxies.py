"""Every stream of every connected agent, filtered and in pages (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import nsmallest

from ca.api.sessions import AgentSession
from citadel._wire import types_pb2
from citadel.reserved import agent_id
from citadel.spiffe import SpiffeId


@dataclass(frozen=True, slots=True)
class Proxy:
    """One stream. Stream ids are of one run of one agent, so the name says which agent's."""

    agent: SpiffeId
    report: types_pb2.StreamReport

    @property
    def name(self) -> str:
        """`AGENT-NAME/STREAM-ID`."""
        return f"{agent_name(self.agent)}/{self.report.stream_id}"

    @property
    def cursor(self) -> tuple[str, str]:
        """Where it stands in the list: by agent, then by the number of its stream."""
        return (agent_name(self.agent), self.report.stream_id.zfill(20))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyFilter:
    """Which streams are wanted; an empty field wants all."""

    agent: str = ""
    spiffe_id: str = ""
    refused: bool = False
    name: str = ""

    def wants(self, proxy: Proxy) -> bool:
        """Whether this stream is one of them."""
        resources = proxy.report.resources
        if self.name and proxy.name != self.name:
            return False
        if self.spiffe_id and all(resource.spiffe_id != self.spiffe_id for resource in resources):
            return False
        return not self.refused or any(resource.state == types_pb2.ResourceReport.REFUSED for resource in resources)


def list_proxies(
    sessions: Mapping[SpiffeId, AgentSession], wanted: ProxyFilter, *, after: tuple[str, str], limit: int
) -> list[Proxy]:
    """The first `limit` wanted streams behind the cursor `after`, in the order of their cursors."""
    found = (proxy for proxy in _all(sessions, wanted.agent) if proxy.cursor > after and wanted.wants(proxy))
    return nsmallest(limit, found, key=lambda proxy: proxy.cursor)


def agent_name(spiffe_id: SpiffeId) -> str:
    """The agent's name, which may have several segments."""
    prefix = agent_id(spiffe_id.trust_domain, "x").path.removesuffix("x")
    return spiffe_id.path.removeprefix(prefix)


def _all(sessions: Mapping[SpiffeId, AgentSession], agent: str) -> Iterator[Proxy]:
    for spiffe_id, session in sessions.items():
        if agent in ("", str(spiffe_id), agent_name(spiffe_id)):
            for report in session.streams.values():
                yield Proxy(spiffe_id, report)
