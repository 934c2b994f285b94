"""`citadel-cli agent` over a real socket."""

# ruff: noqa: N802, ARG002 - names and parameters are those of the generated servicer

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from citadel._wire import agents_pb2 as pb
from citadel._wire import agents_pb2_grpc, types_pb2
from citadel.errors import NotFound, Reason
from citadel.rpc import ErrorBorder
from citadel.wire import to_timestamp
from tests.clock import FakeClock
from tests.unit.cli.fake_admin import Program

PREFIX = "spiffe://a.test/citadel/agent/"


class FakeAgents(agents_pb2_grpc.AgentAdminServicer):
    """Two agents a page, and every change as it was asked for."""

    def __init__(self, clock: FakeClock) -> None:
        now = clock.now()
        here = pb.Agent(
            spiffe_id=f"{PREFIX}node-1",
            connected=True,
            version="1.2.3",
            joined_by="token",
            joined_at=to_timestamp(now - timedelta(days=1)),
            last_seen=to_timestamp(now),
            svid_serial="0f",
            svid_not_after=to_timestamp(now + timedelta(hours=1)),
            streams=3,
            selectors=["node:rack:a"],
        )
        away = pb.Agent(spiffe_id=f"{PREFIX}node-2", joined_by="token")
        banned = pb.Agent(spiffe_id=f"{PREFIX}x509pop/00", banned=True, ban_reason="disk \x1b[31m stolen")
        self.agents = [here, away, banned]
        self.asked: list[Any] = []

    async def ListAgents(self, request: Any, context: Any) -> pb.ListAgentsResponse:
        self.asked.append(request.state)
        start = int(request.page_token or 0)
        token = str(start + 2) if start + 2 < len(self.agents) else ""
        return pb.ListAgentsResponse(agents=self.agents[start : start + 2], next_page_token=token)

    async def GetAgent(self, request: Any, context: Any) -> pb.AgentDetails:
        stream = types_pb2.StreamReport(stream_id="7", protocol="sds", pid=42, executable="/usr/bin/envoy")
        stream.resources.add(name="default")
        entry = types_pb2.Entry(
            id="e1", spiffe_id="spiffe://a.test/web", parent_id=f"{PREFIX}node-1", selectors=["unix:uid:1000"]
        )
        return pb.AgentDetails(agent=self._find(request.agent), entries=[entry], streams=[stream])

    async def BanAgent(self, request: Any, context: Any) -> pb.Agent:
        return self._changed(request)

    async def UnbanAgent(self, request: Any, context: Any) -> pb.Agent:
        return self._changed(request)

    async def EvictAgent(self, request: Any, context: Any) -> pb.Agent:
        return self._changed(request)

    def _changed(self, request: Any) -> pb.Agent:
        self.asked.append(request)
        return self._find(request.agent)

    def _find(self, name: str) -> pb.Agent:
        for agent in self.agents:
            if agent.spiffe_id in (name, PREFIX + name):
                return agent
        raise NotFound(Reason.AGENT_UNKNOWN, f"{name} is not a joined agent")


@pytest.fixture
async def server(clock: FakeClock, tmp_path: Path) -> AsyncIterator[FakeAgents]:
    agents, grpc_server = FakeAgents(clock), aio.server(interceptors=[ErrorBorder()])
    agents_pb2_grpc.add_AgentAdminServicer_to_server(agents, grpc_server)
    grpc_server.add_insecure_port(f"unix:{tmp_path / 'admin.sock'}")
    await grpc_server.start()
    yield agents
    await grpc_server.stop(None)


@pytest.mark.usefixtures("server")
async def test_list_shows_every_page(program: Program) -> None:
    head, *lines = (await program("agent", "list")).stdout.splitlines()
    assert head.split()[:3] == ["AGENT", "STATE", "LAST"]
    assert [line.split("  ")[0] for line in lines] == [
        f"{PREFIX}node-1",
        f"{PREFIX}node-2",
        f"{PREFIX}x509pop/00",
    ]
    assert "banned, away" in lines[2]
    assert "1970" not in "".join(lines)


@pytest.mark.usefixtures("server")
async def test_list_for_programs(program: Program) -> None:
    listed = json.loads((await program("agent", "list", "-o", "json")).stdout)
    first, second, third = listed["agents"]
    assert (first["svid_serial"], first["svid_not_after"], first["streams"]) == ("0f", "2026-01-01T01:00:00Z", 3)
    assert (second["last_seen"], second["connected"], third["banned"]) == (None, False, True)


@pytest.mark.parametrize(("state", "wanted"), [("connected", 1), ("away", 2), ("banned", 3)])
async def test_list_asks_for_a_state(server: FakeAgents, program: Program, state: str, wanted: int) -> None:
    await program("agent", "list", "--state", state)
    assert set(server.asked) == {wanted}


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("name", ["node-1", f"{PREFIX}node-1"])
async def test_show_has_facts_entries_and_streams(program: Program, name: str) -> None:
    text = (await program("agent", "show", name)).stdout
    for expected in ("connected", "1.2.3", "node:rack:a", "spiffe://a.test/web", "/usr/bin/envoy", "default"):
        assert expected in text, expected


@pytest.mark.usefixtures("server")
async def test_what_somebody_wrote_cannot_steer_the_terminal(program: Program) -> None:
    text = (await program("agent", "show", "x509pop/00")).stdout
    assert "\x1b" not in text
    assert r"disk \x1b[31m stolen" in text


@pytest.mark.parametrize(
    ("command", "reason", "said"),
    [
        (("ban", "--reason", "stolen", "--yes"), "stolen", "banned"),
        (("unban",), "", "unbanned"),
        (("unban", "--reason", "found"), "found", "unbanned"),
        (("evict", "--yes"), "", "evicted"),
        (("evict", "--yes", "--reason", "gone"), "gone", "evicted"),
    ],
)
async def test_a_change_is_sent_with_its_reason(
    server: FakeAgents, program: Program, command: tuple[str, ...], reason: str, said: str
) -> None:
    verb, *options = command
    result = await program("agent", verb, "node-1", *options)
    assert (result.exit_code, result.stdout) == (0, f"{said} {PREFIX}node-1\n")
    assert [(request.agent, request.reason) for request in server.asked] == [("node-1", reason)]


@pytest.mark.parametrize("command", [("ban", "--reason", "stolen"), ("evict",)])
@pytest.mark.parametrize(("answer", "changes"), [(b"y\n", 1), (b"n\n", 0), (b"", 0)])
async def test_a_change_that_hurts_is_asked_about_first(
    server: FakeAgents, program: Program, command: tuple[str, ...], answer: bytes, changes: int
) -> None:
    verb, *options = command
    result = await program("agent", verb, "node-1", *options, stdin=answer)
    assert (len(server.asked), result.exit_code) == (changes, 0 if changes else 1)
    assert "node-1?" in result.stderr


@pytest.mark.parametrize("options", [("--yes",), ("--yes", "--reason", "")])
async def test_a_ban_needs_a_reason(server: FakeAgents, program: Program, options: tuple[str, ...]) -> None:
    result = await program("agent", "ban", "node-1", *options)
    assert (result.exit_code, server.asked) == (2, [])


@pytest.mark.usefixtures("server")
async def test_an_agent_that_is_not_there_is_not_found(program: Program) -> None:
    result = await program("agent", "show", "node-9", "-o", "json")
    assert (result.exit_code, json.loads(result.stderr)["error"]["reason"]) == (4, "agent_unknown")
