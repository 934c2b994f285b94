"""The list of proxies: order, pages and filters over the sessions of several agents."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ca.agents.model import Agent
from ca.api.sessions import AgentSession
from ca.insight.proxies import ProxyFilter, agent_name, list_proxies
from citadel._wire import agent_api_pb2, types_pb2
from citadel.reserved import agent_id
from citadel.spiffe import SpiffeId, TrustDomain
from tests.unit.ca.values import agent as make_agent

REPORT = types_pb2.ResourceReport


def agent_of(name: str) -> Agent:
    return make_agent(agent_id(TrustDomain("a.test"), name))


def session(name: str, *streams: types_pb2.StreamReport) -> AgentSession:
    made = AgentSession(agent=agent_of(name), connected_at=datetime(2026, 1, 1, tzinfo=UTC))
    made.take(agent_api_pb2.AgentMessage(streams=agent_api_pb2.Streams(snapshot=True, reports=streams)))
    return made


def stream(number: int, *resources: types_pb2.ResourceReport) -> types_pb2.StreamReport:
    return types_pb2.StreamReport(stream_id=str(number), protocol="sds", resources=resources)


GOOD = REPORT(name="default", state=REPORT.ACKNOWLEDGED, spiffe_id="spiffe://a.test/web")
BAD = REPORT(name="ROOTCA", state=REPORT.REFUSED, refusal="no")


@pytest.fixture
def sessions() -> dict[SpiffeId, AgentSession]:
    made = [session("n-b", stream(10, GOOD), stream(9, BAD), stream(2)), session("n-a", stream(1, GOOD, BAD))]
    return {each.agent.spiffe_id: each for each in made}


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (ProxyFilter(), ["n-a/1", "n-b/2", "n-b/9", "n-b/10"]),
        (ProxyFilter(agent="n-b"), ["n-b/2", "n-b/9", "n-b/10"]),
        (ProxyFilter(agent="spiffe://a.test/citadel/agent/n-b"), ["n-b/2", "n-b/9", "n-b/10"]),
        (ProxyFilter(agent="n"), []),
        (ProxyFilter(refused=True), ["n-a/1", "n-b/9"]),
        (ProxyFilter(spiffe_id="spiffe://a.test/web"), ["n-a/1", "n-b/10"]),
        (ProxyFilter(spiffe_id="spiffe://a.test/web", refused=True), ["n-a/1"]),
        (ProxyFilter(name="n-b/9"), ["n-b/9"]),
    ],
)
def test_what_is_wanted_is_listed_by_agent_and_number(
    sessions: dict[SpiffeId, AgentSession], wanted: ProxyFilter, names: list[str]
) -> None:
    assert [proxy.name for proxy in list_proxies(sessions, wanted, after=("", ""), limit=10)] == names


def test_pages_go_on_where_the_last_one_ended(sessions: dict[SpiffeId, AgentSession]) -> None:
    names, after = [], ("", "")
    while page := list_proxies(sessions, ProxyFilter(), after=after, limit=1):
        names.append(page[0].name)
        after = page[0].cursor
    assert names == ["n-a/1", "n-b/2", "n-b/9", "n-b/10"]


def test_the_name_of_an_agent_can_have_several_segments() -> None:
    assert agent_name(SpiffeId.parse("spiffe://a.test/citadel/agent/x509pop/00ff")) == "x509pop/00ff"
