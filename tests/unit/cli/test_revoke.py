"""`citadel-cli revoke` and `citadel-cli revocation` over a real socket."""

# ruff: noqa: N802, ARG002 - names and parameters are those of the generated servicer

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from citadel._wire import agents_pb2, agents_pb2_grpc, revocation_pb2_grpc
from citadel._wire import revocation_pb2 as pb
from citadel.errors import CitadelError, FailedPrecondition, NotFound, PermissionDenied, Reason
from citadel.rpc import ErrorBorder
from citadel.wire import to_timestamp
from tests.clock import FakeClock
from tests.unit.cli.fake_admin import Program
from tests.unit.cli.test_agent import PREFIX, FakeAgents

SERIAL = "0123456789abcdef" * 2
WEB = "spiffe://a.test/web"
AGENT = f"{PREFIX}node-1"
CODES = (
    "unspecified",
    "keyCompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "privilegeWithdrawn",
)


class DoubtfulAgents(FakeAgents):
    """Agents of a server that may refuse to say which there are."""

    doubt: CitadelError | None = None

    async def GetAgent(self, request: Any, context: Any) -> agents_pb2.AgentDetails:
        if self.doubt is not None:
            raise self.doubt
        return await super().GetAgent(request, context)


class FakeRevocations(revocation_pb2_grpc.RevocationsServicer):
    """One answer for every target, and the agents beside it."""

    def __init__(self, clock: FakeClock) -> None:
        self.asked: list[Any] = []
        self.refusal: CitadelError | None = None
        self.agents = DoubtfulAgents(clock)
        self.answer = pb.RevokeResponse(
            revocation=pb.Revocation(
                id="v1",
                kind=pb.Revocation.IDENTITY,
                target=WEB,
                reason="stolen",
                code="keyCompromise",
                revoked_at=to_timestamp(clock.now() - timedelta(minutes=5)),
                revoked_by="local:uid:0",
                certificates=3,
                bars=f"every entry of {WEB}",
            ),
            is_published=True,
            proxies=13,
            proxies_in_force=13,
        )

    async def Revoke(self, request: Any, context: Any) -> pb.RevokeResponse:
        self._note(request)
        return self.answer

    async def ListRevocations(self, request: Any, context: Any) -> pb.ListRevocationsResponse:
        self._note(request)
        return pb.ListRevocationsResponse(revocations=[self.answer.revocation] if self.answer.proxies else [])

    async def LiftRevocation(self, request: Any, context: Any) -> pb.Revocation:
        self._note(request)
        return self.answer.revocation

    def _note(self, request: Any) -> None:
        self.asked.append(request)
        if self.refusal is not None:
            raise self.refusal


@pytest.fixture
async def server(clock: FakeClock, tmp_path: Path) -> AsyncIterator[FakeRevocations]:
    revocations, grpc_server = FakeRevocations(clock), aio.server(interceptors=[ErrorBorder()])
    revocation_pb2_grpc.add_RevocationsServicer_to_server(revocations, grpc_server)
    agents_pb2_grpc.add_AgentAdminServicer_to_server(revocations.agents, grpc_server)
    grpc_server.add_insecure_port(f"unix:{tmp_path / 'admin.sock'}")
    await grpc_server.start()
    yield revocations
    await grpc_server.stop(None)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("target", [SERIAL, WEB, AGENT, "node-1"])
async def test_a_revocation_is_asked_for_as_it_was_written(
    server: FakeRevocations, program: Program, target: str, code: str
) -> None:
    result = await program("revoke", target, "--reason", "stolen", "--code", code, "--yes")
    assert result.exit_code == 0, result.stderr
    assert server.asked == [pb.RevokeRequest(target=target, reason="stolen", code=code)]


async def test_without_a_code_none_is_claimed(server: FakeRevocations, program: Program) -> None:
    await program("revoke", SERIAL, "--reason", "stolen")
    assert [request.code for request in server.asked] == ["unspecified"]


@pytest.mark.parametrize(
    "command",
    [
        f"revoke {SERIAL}",
        f"revoke {SERIAL} --reason=",
        "revoke --reason stolen",
        f"revoke {SERIAL} --reason stolen --code cACompromise",
        f"revoke {SERIAL} --reason stolen --code stolen",
        f"revoke {SERIAL} {SERIAL} --reason stolen",
        "revocation lift v1",
        "revocation lift --reason found",
        "revocation list --limit 0",
    ],
)
async def test_wrong_usage_asks_the_server_nothing(server: FakeRevocations, program: Program, command: str) -> None:
    result = await program(*command.split())
    assert (result.exit_code, result.stdout, server.asked) == (2, "", [])


@pytest.mark.parametrize(
    ("target", "asks"),
    [
        (WEB, f"every certificate of {WEB}?"),
        (AGENT, f"agent {AGENT}, and every certificate that was issued through it?"),
        ("node-1", "agent node-1, and every certificate"),
        ("x509pop/00ff", "agent x509pop/00ff, and"),
        ("ab" * 16, "agent abab"),  # machines have such names too
        (SERIAL, None),
        (SERIAL.upper(), None),
        ("ab:" * 15 + "ab", None),  # no agent is called so
    ],
)
@pytest.mark.parametrize(("answer", "revokes"), [(b"y\n", True), (b"n\n", False), (b"", False)])
async def test_whatever_is_more_than_one_certificate_is_asked_about_first(
    server: FakeRevocations, program: Program, target: str, asks: str | None, answer: bytes, revokes: bool
) -> None:
    server.agents.agents.append(agents_pb2.Agent(spiffe_id=f"{PREFIX}{'ab' * 16}"))
    result = await program("revoke", target, "--reason", "stolen", stdin=answer)
    if asks is None:
        assert (len(server.asked), result.exit_code, "[y/N]" in result.stderr) == (1, 0, False)
    else:
        assert (len(server.asked), result.exit_code) == ((1, 0) if revokes else (0, 1))
        assert asks in result.stderr


@pytest.mark.usefixtures("server")
async def test_the_answer_says_what_it_did_and_what_goes_on(program: Program) -> None:
    result = await program("revoke", WEB, "--reason", "stolen", "--yes")
    assert (result.exit_code, result.stderr) == (0, "")
    *facts, empty, live, asking, how = result.stdout.splitlines()
    assert facts == [
        f"revoked          identity {WEB}",
        "certificates     3",
        "revocation       v1",
        "in force on      13 of 13 proxies",
        f"gets no new one  every entry of {WEB}",
    ]
    assert empty == ""
    assert live.startswith("Connections that are open go on until they end")
    assert "refuse the next request" in asking
    assert "max_connection_duration" in how


async def test_what_was_revoked_already_is_said_to_be(server: FakeRevocations, program: Program) -> None:
    server.answer.was_revoked = True
    result = await program("revoke", WEB, "--reason", "again", "--yes")
    assert "was revoked already  2025-12-31T23:55:00Z (5m ago) by local:uid:0: stolen" in result.stdout
    assert result.exit_code == 0


async def test_proxies_where_it_is_not_in_force_are_named_and_are_no_failure(
    server: FakeRevocations, program: Program
) -> None:
    server.answer.proxies_in_force = 10
    server.answer.agents_away = 2
    server.answer.not_in_force.extend(["node-1/4 (pid 7): refused ROOTCA: no\x1b[2J", "node-2/1 (pid 8): has not"])
    result = await program("revoke", WEB, "--reason", "stolen", "--yes")
    assert (result.exit_code, result.stderr) == (
        0,
        "warning: on 3 of 13 proxies it is not in force; it is as soon as they take the lists\n",
    )
    for expected in (
        "10 of 13 proxies",
        "2: they hear of it when they are back",
        r"node-1/4 (pid 7): refused ROOTCA: no\x1b[2J",
        "node-2/1 (pid 8): has not",
        "and 1 more",
    ):
        assert expected in result.stdout, expected


@pytest.mark.parametrize("form", ["table", "json"])
async def test_lists_that_are_not_pushed_are_a_failure_that_says_why(
    server: FakeRevocations, program: Program, form: str
) -> None:
    server.answer.is_published = False
    server.answer.proxies_in_force = 0
    server.answer.trouble = "the key of the issuing authority 7 is gone\x1b[2J"
    result = await program("revoke", WEB, "--reason", "stolen", "--yes", "-o", form)
    assert (result.exit_code, result.stderr) == (
        8,
        "not in force: the key of the issuing authority 7 is gone\\x1b[2J\n",
    )
    if form == "table":
        assert "no proxy: no list that is pushed says it" in result.stdout
    else:
        assert json.loads(result.stdout)["is_published"] is False


async def test_an_answer_for_programs(server: FakeRevocations, program: Program) -> None:
    server.answer.not_in_force.append("node-1/4 (pid 7): has not answered ROOTCA")
    server.answer.proxies_in_force = 12
    answer = json.loads((await program("revoke", SERIAL, "--reason", "stolen", "-o", "json")).stdout)
    assert answer["revocation"] == {
        "id": "v1",
        "kind": "identity",
        "target": WEB,
        "reason": "stolen",
        "code": "keyCompromise",
        "revoked_at": "2025-12-31T23:55:00Z",
        "revoked_by": "local:uid:0",
        "certificates": 3,
        "bars": f"every entry of {WEB}",
    }
    assert (answer["was_revoked"], answer["proxies"], answer["proxies_in_force"]) == (False, 13, 12)
    assert answer["not_in_force"] == ["node-1/4 (pid 7): has not answered ROOTCA"]


@pytest.mark.parametrize(
    ("refusal", "exit_code"),
    [
        (NotFound(Reason.NOTHING_TO_REVOKE, "there is no certificate with the serial 00", fix="look"), 4),
        (FailedPrecondition(Reason.NOTHING_TO_REVOKE, "the certificate 00 has ended"), 8),
    ],
)
@pytest.mark.parametrize("command", [f"revoke {SERIAL} --reason stolen", "revocation lift v9 --reason found"])
async def test_what_cannot_be_revoked_or_lifted_is_told_as_every_refusal_is(
    server: FakeRevocations, program: Program, refusal: CitadelError, exit_code: int, command: str
) -> None:
    server.refusal = refusal
    result = await program(*command.split())
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert f"error: {refusal.message} (nothing_to_revoke)" in result.stderr
    assert len(server.asked) == 1


async def test_in_doubt_about_what_it_is_nothing_is_revoked(server: FakeRevocations, program: Program) -> None:
    server.agents.doubt = PermissionDenied(Reason.CALLER_NOT_ALLOWED, "no")
    result = await program("revoke", SERIAL, "--reason", "stolen")
    assert (result.exit_code, server.asked) == (6, [])


async def test_revocations_are_listed_with_what_they_bar(server: FakeRevocations, program: Program) -> None:
    server.answer.revocation.reason = "copied\x1b[2J"
    result = await program("revocation", "list", "--limit", "7")
    head, row = result.stdout.splitlines()
    assert head.split() == ["ID", "KIND", "TARGET", "CERTIFICATES", "REVOKED", "BY", "CODE", "REASON", "BARS"]
    assert row.split("  ")[:4] == ["v1", "identity", WEB, "3"]
    assert row.endswith(rf"copied\x1b[2J  every entry of {WEB}")
    assert server.asked == [pb.ListRevocationsRequest(limit=7)]
    plain = json.loads((await program("revocation", "list", "-o", "json")).stdout)
    assert [each["id"] for each in plain["revocations"]] == ["v1"]


async def test_a_revocation_that_bars_nothing_any_more_says_so(server: FakeRevocations, program: Program) -> None:
    server.answer.revocation.bars = ""
    assert (await program("revocation", "list")).stdout.splitlines()[1].endswith("  nothing")
    server.answer.proxies = 0
    assert (await program("revocation", "list")).stdout == "nothing was revoked\n"


@pytest.mark.parametrize("name", ["v1", WEB, SERIAL])
async def test_lifting_says_that_what_was_revoked_stays_so(
    server: FakeRevocations, program: Program, name: str
) -> None:
    result = await program("revocation", "lift", name, "--reason", "found again")
    assert (result.exit_code, result.stdout) == (
        0,
        f"lifted the revocation v1 of {WEB}; what it revoked stays so (3 certificates)\n",
    )
    assert server.asked == [pb.LiftRevocationRequest(id=name, reason="found again")]
    plain = json.loads((await program("revocation", "lift", name, "--reason", "ok", "-o", "json")).stdout)
    assert plain["id"] == "v1"
