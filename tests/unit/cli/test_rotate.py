"""`citadel-cli rotate` over a real socket."""

# ruff: noqa: N802, ARG002 - names and parameters are those of the generated servicer

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from grpc import aio

from citadel._wire import rotation_pb2 as pb
from citadel._wire import rotation_pb2_grpc
from citadel.errors import CitadelError, FailedPrecondition, Reason
from citadel.rpc import ErrorBorder
from citadel.wire import to_duration, to_timestamp
from tests.clock import FakeClock
from tests.unit.cli.fake_admin import Program

STEER = {"pause": pb.PauseRotationRequest, "resume": pb.ResumeRotationRequest, "abort": pb.AbortRotationRequest}


class FakeRotations(rotation_pb2_grpc.RotationsServicer):
    """Plays the views of one rotation; a watcher that comes back is given those that it has not had."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.asked: list[Any] = []
        self.refusal: CitadelError | None = None
        self.views = [self.view("prepare"), self.view("done", ended_after=4.5)]
        self.watched: asyncio.Queue[str] = asyncio.Queue()
        self.plan = pb.RotationPlan(
            steps=["prepare", "observe", "done"],
            agents=3,
            agents_away=1,
            proxies=12,
            svids=11,
            takes=to_duration(timedelta(minutes=5, seconds=3, milliseconds=369)),
            holders=[self.holder("node-1/4", "pid 7 refused ROOTCA")],
            without_bundle=["node-2/9"],
        )

    def view(self, phase: str, *holders: pb.Holder, ended_after: float | None = None, **more: Any) -> pb.RotationView:
        begun = self.clock.now()
        return pb.RotationView(
            rotation=pb.Rotation(
                id="r1",
                kind=more.pop("kind", "root"),
                phase=phase,
                started_at=to_timestamp(begun),
                phase_since=to_timestamp(begun - timedelta(seconds=90)),
                ended_at=to_timestamp(begun + timedelta(seconds=ended_after)) if ended_after is not None else None,
                started_by="local:uid:0",
                **more,
            ),
            agents=3,
            agents_away=1,
            proxies=12,
            proxies_acknowledged=10,
            svids=11,
            svids_renewed=7,
            holders=holders,
            holder_count=len(holders),
        )

    def holder(self, name: str, words: str, until: timedelta | None = None) -> pb.Holder:
        now = self.clock.now()
        return pb.Holder(
            name=name,
            words=words,
            since=to_timestamp(now - timedelta(seconds=40)),
            until=to_timestamp(now + until) if until is not None else None,
        )

    async def StartRotation(self, request: Any, context: Any) -> pb.Rotation:
        return self._change(request)

    async def PlanRotation(self, request: Any, context: Any) -> pb.RotationPlan:
        return self.plan

    async def WatchRotation(self, request: Any, context: Any) -> AsyncIterator[pb.RotationView]:
        while self.views:
            view = self.views.pop(0)
            yield view
            self.watched.put_nowait(view.rotation.phase)
            if not view.rotation.HasField("ended_at") and not self.views:
                await asyncio.Event().wait()  # nothing more changes

    async def GetRotation(self, request: Any, context: Any) -> pb.RotationView:
        return self.views[0] if self.views else pb.RotationView()

    async def ListRotations(self, request: Any, context: Any) -> pb.ListRotationsResponse:
        self.asked.append(request)
        return pb.ListRotationsResponse(rotations=[view.rotation for view in self.views])

    async def PauseRotation(self, request: Any, context: Any) -> pb.Rotation:
        return self._change(request)

    async def ResumeRotation(self, request: Any, context: Any) -> pb.Rotation:
        return self._change(request)

    async def AbortRotation(self, request: Any, context: Any) -> pb.Rotation:
        return self._change(request)

    async def SkipHolder(self, request: Any, context: Any) -> pb.Rotation:
        return self._change(request)

    def _change(self, request: Any) -> pb.Rotation:
        if self.refusal is not None:
            raise self.refusal
        self.asked.append(request)
        return self.views[0].rotation


@asynccontextmanager
async def serving(rotations: FakeRotations, socket: Path) -> AsyncIterator[None]:
    server = aio.server(interceptors=[ErrorBorder()])
    rotation_pb2_grpc.add_RotationsServicer_to_server(rotations, server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(grace=None)


@pytest.fixture
def rotations(clock: FakeClock) -> FakeRotations:
    return FakeRotations(clock)


@pytest.fixture
async def server(rotations: FakeRotations, tmp_path: Path) -> AsyncIterator[FakeRotations]:
    async with serving(rotations, tmp_path / "admin.sock"):
        yield rotations


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        ("root", pb.StartRotationRequest(kind="root")),
        (
            "root --reason yearly --window 90s --skip node-7 --skip node-8/2",
            pb.StartRotationRequest(
                kind="root",
                why="yearly",
                window=to_duration(timedelta(seconds=90)),
                skip=["node-7", "node-8/2"],
            ),
        ),
        ("root --window 0s", pb.StartRotationRequest(kind="root", window=to_duration(timedelta()))),
        ("issuer", pb.StartRotationRequest(kind="issuer")),
        ("svid --all", pb.StartRotationRequest(kind="svid")),
        ("svid --agent node-1", pb.StartRotationRequest(kind="svid", agent="node-1")),
        (
            "svid --spiffe-id spiffe://a.test/web",
            pb.StartRotationRequest(kind="svid", spiffe_id="spiffe://a.test/web"),
        ),
    ],
)
async def test_a_rotation_is_asked_for_as_it_was_written(
    server: FakeRotations, program: Program, command: str, asked: pb.StartRotationRequest
) -> None:
    result = await program("rotate", *command.split(), "--detach")
    assert (result.exit_code, result.stdout) == (0, "rotation r1 begins: see `citadel-cli rotate watch`\n")
    assert server.asked == [asked]


@pytest.mark.parametrize(
    ("options", "deadline"),
    [
        (["--emergency"], timedelta(seconds=30)),
        (["--emergency=now"], timedelta(0)),
        (["--emergency=5m"], timedelta(minutes=5)),
        (["--emergency", "--reason", "stolen"], timedelta(seconds=30)),
    ],
)
async def test_an_emergency_drops_the_root_after_30_seconds_if_nothing_else_is_said(
    server: FakeRotations, program: Program, options: list[str], deadline: timedelta
) -> None:
    result = await program("rotate", "root", *options, "--yes", "--detach")
    assert result.exit_code == 0, result.stderr
    (request,) = server.asked
    assert (request.emergency, request.deadline.ToTimedelta()) == (True, deadline)


@pytest.mark.parametrize(("answer", "begins"), [(b"y\n", True), (b"n\n", False), (b"", False)])
@pytest.mark.parametrize(("option", "when"), [("--emergency", "30s after it begins"), ("--emergency=now", "at once")])
async def test_an_emergency_says_what_it_costs_in_numbers_and_asks(
    server: FakeRotations, program: Program, answer: bytes, begins: bool, option: str, when: str
) -> None:
    result = await program("rotate", "root", option, "--detach", stdin=answer)
    assert (len(server.asked), result.exit_code) == ((1, 0) if begins else (0, 1))
    for expected in (
        f"dropped {when}, whoever depends on it",
        "12 need the new root and 11 new SVIDs",
        "3 connected",
        "1 agents, cut off",
        "1: node-1/4",
        "1 never asked for a bundle: node-2/9",
        "[y/N]",
    ):
        assert expected in result.stderr, expected


@pytest.mark.parametrize(("answer", "begins"), [(b"y\n", True), (b"n\n", False)])
async def test_an_emergency_of_keys_says_what_becomes_of_tokens_and_asks(
    server: FakeRotations, program: Program, answer: bytes, begins: bool
) -> None:
    server.plan.holders.append(server.holder("jwt/k1", "signed tokens that have not ended", until=timedelta(minutes=5)))
    result = await program("rotate", "jwt", "--emergency", "--detach", stdin=answer)
    assert (len(server.asked), result.exit_code) == ((1, 0) if begins else (0, 1))
    for expected in (
        "dropped 30s after it begins, whatever tokens live",
        "live until 2026-01-01T00:05:00Z at most: refused from then on",
        "12 of programs that check tokens",
        "1 agents, whose workloads believe the old keys",
        "until oidc.max_age has passed",
        "1: node-1/4",
        "Rotate the keys for JWT-SVIDs in an emergency? [y/N]",
    ):
        assert expected in result.stderr, expected
    if begins:
        (request,) = server.asked
        assert (request.kind, request.emergency, request.deadline.ToTimedelta()) == ("jwt", True, timedelta(seconds=30))


async def test_status_of_a_rotation_of_keys_counts_programs_that_were_sent_them(
    server: FakeRotations, program: Program, clock: FakeClock
) -> None:
    until = to_timestamp(clock.now() + timedelta(seconds=20))
    server.views = [server.view("drain", kind="jwt", emergency=True, deadline=until)]
    lines = (await program("rotate", "status")).stdout.splitlines()
    assert lines[:4] == [
        "rotation r1 of keys for JWT-SVIDs, emergency: drain for 1m30s",
        "  programs that were sent the new key         10 of 12",
        "  agents                                      3 connected, 1 away",
        "  the old keys are dropped at                 2026-01-01T00:00:20Z (in 20s)",
    ]
    server.views = [server.view("done", kind="jwt", ended_after=4.5)]
    text = (await program("rotate", "status")).stdout
    assert ("keys for JWT-SVIDs" in text, "proxies" in text, "SVIDs  " in text) == (True, False, False)


async def test_a_plan_for_keys_says_nothing_of_certificates(server: FakeRotations, program: Program) -> None:
    text = (await program("rotate", "jwt", "--plan")).stdout
    assert ("streams of keys" in text, "proxies" in text, "node-2/9" in text) == (True, False, False)
    assert "takes at least" in text
    dropped = (await program("rotate", "jwt", "--plan", "--emergency=now")).stdout
    assert any(line.startswith("old keys are dropped") and line.endswith("at once") for line in dropped.splitlines())
    assert server.asked == []


@pytest.mark.parametrize(
    "command",
    [
        "root --reason=",
        "jwt --window 5m",
        "root --skip=",
        "root --emergency=soon",
        "root --emergency=",
        "root --window 90",
        "issuer --emergency",
        "svid",
        "svid --all --agent node-1",
        "svid --agent=",
        "pause --reason=",
        "skip",
    ],
)
async def test_wrong_usage_asks_the_server_nothing(server: FakeRotations, program: Program, command: str) -> None:
    result = await program("rotate", *command.split())
    assert (result.exit_code, result.stdout, server.asked) == (2, "", [])


@pytest.mark.parametrize("command", ["root", "root --emergency", "issuer", "svid --all"])
async def test_a_plan_changes_nothing_and_names_who_is_in_the_way(
    server: FakeRotations, program: Program, command: str
) -> None:
    result = await program("rotate", *command.split(), "--plan")
    assert (result.exit_code, server.asked) == (0, [])
    text = result.stdout
    for expected in ("prepare → observe → done", "3 connected, 1 away", "node-1/4", "refused ROOTCA", "node-2/9"):
        assert expected in text, expected
    assert ("30s after it begins" if "--emergency" in command else "takes at least  5m4s") in text


@pytest.mark.usefixtures("server")
async def test_a_plan_for_programs(program: Program) -> None:
    plan = json.loads((await program("rotate", "root", "--plan", "-o", "json")).stdout)
    assert (plan["takes"], plan["proxies"], plan["without_bundle"]) == ("303.369s", 12, ["node-2/9"])
    assert plan["holders"][0]["until"] is None


async def test_a_rotation_is_watched_to_its_end_and_summed_up(server: FakeRotations, program: Program) -> None:
    late = server.holder("node-1/4", "pid 7 has not answered ROOTCA")
    server.views[1:1] = [
        server.view("observe", late),
        server.view("observe", late, server.holder("node-3", "away", until=timedelta(minutes=9))),
        server.view("renew", server.holder("node-1", "9 SVIDs not renewed"), alarm="went on without node-3"),
        server.view("renew", server.holder("node-1", "8 SVIDs not renewed"), alarm="went on without node-3"),
    ]
    server.views[-1].rotation.skipped.extend(["node-7", "node-8"])
    server.views[-1].rotation.alarm = "went on without node-3"
    result = await program("rotate", "root")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "prepare",
        "observe",
        "  waits for node-1/4: pid 7 has not answered ROOTCA",
        "  waits for node-3: away (until 2026-01-01T00:09:00Z at most)",
        "renew",
        "  alarm: went on without node-3",
        "  waits for node-1: 9 SVIDs not renewed",  # each number is not told
        "done",
    ]
    assert result.stdout.splitlines() == [
        "rotation         r1",
        "of               root",
        "ended            done, after 4.5 s",
        "proxies          10 of 12 have acknowledged the bundle",
        "SVIDs            7 of 11 renewed",
        "agents           3 connected, 1 away",
        "went on without  node-7, node-8",
        "alarm            went on without node-3",
    ]


async def test_watching_for_programs_ends_with_the_last_view_alone(server: FakeRotations, program: Program) -> None:
    result = await program("-o", "json", "rotate", "watch")
    view = json.loads(result.stdout)
    assert (view["rotation"]["phase"], view["rotation"]["ended_at"]) == ("done", "2026-01-01T00:00:04.500Z")
    assert server.asked == []  # nothing was started


async def test_a_rotation_that_was_aborted_ends_with_an_exit_code_of_its_own(
    server: FakeRotations, program: Program
) -> None:
    server.views = [server.view("undo"), server.view("aborted", ended_after=1)]
    result = await program("rotate", "watch")
    assert (result.exit_code, "aborted, everything is as it was" in result.stdout) == (8, True)


@pytest.mark.parametrize("command", ["status", "watch", "history"])
async def test_without_any_rotation_that_is_said(server: FakeRotations, program: Program, command: str) -> None:
    server.views = []
    result = await program("rotate", command)
    assert (result.exit_code, result.stdout) == (0, "no rotation yet\n")


async def test_status_names_everybody_who_is_waited_for(
    server: FakeRotations, program: Program, clock: FakeClock
) -> None:
    late = server.holder("node-1/4", "pid 7 refused ROOTCA: no", until=timedelta(minutes=1))
    server.views = [
        server.view(
            "observe",
            late,
            paused=True,
            emergency=True,
            alarm="went on",
            skipped=["node-9"],
            deadline=to_timestamp(clock.now() + timedelta(seconds=20)),
        )
    ]
    server.views[0].holder_count = 51
    result = await program("rotate", "status")
    assert result.stdout.splitlines() == [
        "rotation r1 of root, emergency: observe, paused for 1m30s",
        "  proxies that have acknowledged the bundle   10 of 12",
        "  SVIDs renewed                               7 of 11",
        "  agents                                      3 connected, 1 away",
        "  the old root is dropped at                  2026-01-01T00:00:20Z (in 20s)",
        "  goes on without                             node-9",
        "  alarm: went on",
        "",
        "waits for",
        "NAME      SINCE                           UNTIL                         WHY",
        "node-1/4  2025-12-31T23:59:20Z (40s ago)  2026-01-01T00:01:00Z (in 1m)  pid 7 refused ROOTCA: no",
        "and 50 more",
    ]


async def test_status_for_programs(server: FakeRotations, program: Program) -> None:
    server.views = [server.view("observe", server.holder("node-1/4", "no"), paused=True)]
    view = json.loads((await program("rotate", "status", "-o", "json")).stdout)
    assert (view["rotation"]["paused"], view["rotation"]["deadline"]) == (True, None)
    assert view["holders"] == [{"name": "node-1/4", "words": "no", "since": "2025-12-31T23:59:20Z", "until": None}]


async def test_history_is_asked_for_with_its_limit(server: FakeRotations, program: Program) -> None:
    server.views = [
        server.view("renew", kind="svid", scope="spiffe://a.test/web"),
        server.view("done", ended_after=2, emergency=True, why="stolen"),
    ]
    result = await program("rotate", "history", "--limit", "2")
    _, running, ended = result.stdout.splitlines()
    assert [word in running for word in ("SVIDs (spiffe://a.test/web)", "runs: renew")] == [True, True]
    assert [word in ended for word in ("root, emergency", "done after 2.0 s", "stolen", "local:uid:0")] == [True] * 4
    assert server.asked == [pb.ListRotationsRequest(limit=2)]
    plain = json.loads((await program("rotate", "history", "-o", "json")).stdout)
    assert [each["phase"] for each in plain["rotations"]] == ["renew", "done"]


@pytest.mark.parametrize(
    ("verb", "said"),
    [("pause", "paused in prepare"), ("resume", "goes on in prepare"), ("abort", "is undone: prepare")],
)
@pytest.mark.parametrize(("options", "why"), [([], ""), (["--reason", "an incident"], "an incident")])
async def test_steering_is_sent_with_its_reason(
    server: FakeRotations, program: Program, verb: str, said: str, options: list[str], why: str
) -> None:
    result = await program("rotate", verb, *options)
    assert (result.exit_code, result.stdout) == (0, f"rotation r1 {said}\n")
    assert server.asked == [STEER[verb](why=why)]
    plain = json.loads((await program("rotate", verb, "-o", "json")).stdout)
    assert (plain["id"], plain["phase"]) == ("r1", "prepare")


@pytest.mark.parametrize(
    ("name", "is_known"), [("node-1/4", True), ("node-1", True), ("node-2", False), ("node", False)]
)
async def test_whoever_is_skipped_in_vain_is_warned_about(
    server: FakeRotations, program: Program, name: str, is_known: bool
) -> None:
    server.views = [server.view("observe", server.holder("node-1/4", "refused"))]
    result = await program("rotate", "skip", name, "--reason", "it burned")
    assert (result.exit_code, result.stdout) == (0, f"rotation r1 goes on without {name} in observe\n")
    assert server.asked == [pb.SkipHolderRequest(name=name, why="it burned")]
    assert ("warning" not in result.stderr) == is_known


@pytest.mark.parametrize("command", ["root", "pause", "resume", "abort", "skip node-1"])
async def test_what_the_server_refuses_is_told_with_its_code(
    server: FakeRotations, program: Program, command: str
) -> None:
    server.refusal = FailedPrecondition(Reason.ROTATION_RUNNING, "the rotation r0 (issuer) runs", fix="wait")
    result = await program("rotate", *command.split(), "-o", "json")
    assert (result.exit_code, result.stdout) == (8, "")
    assert json.loads(result.stderr)["error"]["reason"] == "rotation_running"


@pytest.mark.parametrize("command", ["watch", "status", "history", "root --plan"])
async def test_what_a_proxy_says_cannot_steer_the_terminal(
    server: FakeRotations, program: Program, command: str
) -> None:
    hostile = "Failed\x1b]0;owned\x07\x1b[2J\r\u202eto load"
    holder = server.holder("node-1/\x1b[31m4", hostile)
    server.views = [server.view("observe", holder, alarm=hostile, why=hostile, scope=hostile, skipped=[hostile])]
    if command == "watch":
        server.views.append(server.view("done", ended_after=1, alarm=hostile, skipped=[hostile]))
    server.plan.holders[0].words = hostile
    result = await program("rotate", *command.split())
    assert r"Failed\x1b]0;owned" in result.output
    assert [line for line in result.output.splitlines() if not line.isprintable()] == []


@asynccontextmanager
async def watching(program: Program, clock: FakeClock) -> AsyncIterator[asyncio.Task[Result]]:
    """`rotate watch`, which has given up at the end of the block where it has not ended before."""
    task = asyncio.create_task(program("rotate", "watch"))
    try:
        yield task
    finally:
        while not task.done():  # it counts from what it last heard
            await clock.advance(61)
            await asyncio.sleep(0.05)


async def test_a_server_that_restarts_is_watched_on(
    rotations: FakeRotations, program: Program, tmp_path: Path, clock: FakeClock
) -> None:
    rotations.views = [rotations.view("observe")]
    async with watching(program, clock) as task:
        async with serving(rotations, tmp_path / "admin.sock"):
            assert await asyncio.wait_for(rotations.watched.get(), 20) == "observe"
            await clock.advance(50)
        rotations.views = [rotations.view("renew"), rotations.view("done", ended_after=9)]
        async with serving(rotations, tmp_path / "admin.sock"):
            result = await asyncio.wait_for(task, 20)
    assert (result.exit_code, "done, after 9.0 s" in result.stdout) == (0, True)
    assert result.stderr.splitlines()[-3:] == [
        "the server does not answer; the rotation goes on when it is back",
        "renew",
        "done",
    ]


async def test_a_server_that_stays_away_for_a_minute_is_given_up(
    rotations: FakeRotations, program: Program, tmp_path: Path, clock: FakeClock
) -> None:
    rotations.views = [rotations.view("observe")]
    async with watching(program, clock) as task, serving(rotations, tmp_path / "admin.sock"):
        assert await asyncio.wait_for(rotations.watched.get(), 20) == "observe"
    result = task.result()
    assert (result.exit_code, result.stdout) == (7, "")
    assert "the server is not running" in result.stderr


async def _read_until(seen: Callable[[bytes], bool], terminal: int) -> bytes:
    loop, text = asyncio.get_running_loop(), b""
    async with asyncio.timeout(30):
        while not seen(text):
            text += await loop.run_in_executor(None, os.read, terminal, 65536)
    return text


async def test_ctrl_c_ends_the_watching_on_a_terminal_and_not_the_rotation(
    server: FakeRotations, tmp_path: Path
) -> None:
    server.views = [server.view("observe", server.holder("node-1/4", "pid 7 refused \x1b[2JROOTCA"))]
    ours, theirs = pty.openpty()
    try:
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cli.citadel_cli", "--socket", str(tmp_path / "admin.sock"), "rotate", "watch",
            stdout=asyncio.subprocess.PIPE, stderr=theirs, env=os.environ | {"COLUMNS": "200", "TERM": "xterm"},
        )  # fmt: skip
        text = await _read_until(lambda text: b"waits for node-1/4" in text, ours)
        program.send_signal(signal.SIGINT)
        text += await _read_until(lambda text: b"rotate watch` shows it again" in text, ours)
        out, _ = await program.communicate()
    finally:
        os.close(ours)
        os.close(theirs)
    assert (program.returncode, out) == (130, b"")
    assert b"10 of 12" in text
    assert rb"refused \x1b[2JROOTCA" in text  # as text: the terminal is not cleared by it
    assert b"refused \x1b[2J" not in text
    assert server.asked == []


async def test_the_help_names_everybody_who_can_be_skipped(program: Program) -> None:
    """As `rotate status` names them."""
    said = " ".join((await program("rotate", "skip", "--help")).stdout.split())
    kubernetes = ("`kubernetes`", "`kubernetes/CLUSTER/bundles`", "`kubernetes/CLUSTER/bundles/NAMESPACE`")
    assert all(name in said for name in ("NODE|STREAM|NAME", "`parent`", "`federation`", *kubernetes)), said
