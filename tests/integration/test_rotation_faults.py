"""Rotations with real processes that die, go away and come back: nobody notices, and what must hold holds."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import grpc
import pytest

from ca.rotation.machine import COURSE
from ca.rotation.model import RotationKind
from citadel._wire import rotation_pb2
from citadel._wire.rotation_pb2_grpc import RotationsStub
from citadel.reserved import server_id
from citadel.wire import to_duration
from cli.demo.load import Tally
from cli.demo.plan import AGENT_NAME, TRUST_DOMAIN
from tests.integration.faulty import Assassin, Records
from tests.integration.meshes import LiveMesh, live_mesh, until

pytestmark = [pytest.mark.integration, pytest.mark.pairs]

LEAF_SECONDS = 20
AS_ROOT = os.geteuid() == 0


class RotatingMesh:
    """A live mesh, its server's records, and the rotations that are started there."""

    def __init__(self, live: LiveMesh) -> None:
        self.live = live
        self.records = Records(live.plan.folder / "server" / "data" / "citadel.db")

    async def start(self, kind: str, **wish: object) -> rotation_pb2.Rotation:
        request = rotation_pb2.StartRotationRequest(kind=kind, window=to_duration(timedelta(0)), why="a test", **wish)
        async with self.live.mesh.admin_channel() as channel:
            rotation: rotation_pb2.Rotation = await RotationsStub(channel).StartRotation(request)
            return rotation

    async def view(self) -> rotation_pb2.RotationView:
        async with self.live.mesh.admin_channel() as channel:
            view: rotation_pb2.RotationView = await RotationsStub(channel).GetRotation(
                rotation_pb2.GetRotationRequest()
            )
            return view

    async def is_over(self) -> bool:
        try:
            return (await self.view()).rotation.phase in ("done", "aborted")
        except grpc.aio.AioRpcError:
            return False

    async def names_the_agent_as_away(self) -> bool:
        holders = (await self.view()).holders
        return [each.name for each in holders] == [AGENT_NAME] and all(
            each.words.startswith("away") and each.HasField("until") for each in holders
        )

    async def all_hang_on_the_only_root(self) -> bool:
        plan, (root,) = self.live.plan, self.records.standing_roots()
        seen = [await self.live.envoy(sidecar).roots() for sidecar in (plan.productpage, plan.reviews)]
        return all(each.trusted == each.own == {root} for each in seen)

    async def rotate_and_kill(self, kind: str, victim: str, phases: Sequence[str]) -> list[str]:
        """One rotation; the victim dies at the beginning of each of these phases, and is started again each time."""
        left, struck, sequences = list(phases), list[str](), [self.records.sequence()]
        await self.start(kind)
        while left and not await self.is_over():
            async with Assassin(self.records.path, self.live.mesh.children[victim].pid, [*left, "done"]) as assassin:
                phase = await assassin.has_struck()
            await self.live.mesh.children[victim].kill()
            await self.live.mesh.launch(victim)
            left = left[left.index(phase) + 1 :] if phase in left else []
            struck.append(phase)
            sequences.append(self.records.sequence())
        await until("the rotation has ended by itself", self.is_over, seconds=60)
        assert sequences == sorted(sequences)
        return struck


@pytest.fixture
async def mesh() -> AsyncIterator[RotatingMesh]:
    async with live_mesh(leaf_seconds=LEAF_SECONDS, as_root=AS_ROOT) as running:
        yield RotatingMesh(running)


@pytest.mark.invariant(3, 4, 5, 6, 11, 12)
@pytest.mark.parametrize(
    ("victim", "kind"),
    [
        ("server", "root"),
        pytest.param("agent", "root", marks=pytest.mark.soak),
        pytest.param("server", "issuer", marks=pytest.mark.soak),
        pytest.param("agent", "issuer", marks=pytest.mark.soak),
    ],
)
async def test_killed_in_every_phase_it_goes_on_and_no_request_fails(
    mesh: RotatingMesh, victim: str, kind: str
) -> None:
    course = [phase.value for phase in COURSE[RotationKind(kind)]]
    before = mesh.records.sequence()
    async with mesh.live.under_load() as tally:
        struck = await mesh.rotate_and_kill(kind, victim, course[:-1])
    # What lasts for milliseconds may be over before the kill; a walk without processes dies at every write.
    assert {"observe", "drain"} <= set(struck)
    assert (await mesh.view()).rotation.alarm == "", "nobody was left behind"
    _went_by_the_book(mesh.records, course)
    assert mesh.records.sequence() == before + (2 if kind == "root" else 0)
    if kind == "root":
        # One that lost its agent in the last phases has the bundle of before until it finds the agent again.
        await until("all Envoys trust the new root alone", mesh.all_hang_on_the_only_root, seconds=40)
    assert tally.done > 200
    assert not tally.failures


def _went_by_the_book(records: Records, course: list[str]) -> None:
    entered = {each.phase: each.at for each in records.phases()}
    assert list(entered) == course[1:], "each phase once, in order"
    assert len(records.phases()) == len(entered)
    old, new = records.issuers()
    first = [row for row in records.signed() if row.issuer_id == old]
    then = [row for row in records.signed() if row.issuer_id == new]
    assert first
    assert then
    assert min(row.issued_at for row in then) >= entered["activate"], "what is new signs once everybody knows it"
    assert max(row.issued_at for row in first) <= min(row.issued_at for row in then)
    assert all(row.not_after <= row.issuer_not_after for row in records.signed())


async def test_an_agent_that_was_skipped_comes_back_by_its_recorded_key_and_its_envoys_work_again(
    mesh: RotatingMesh,
) -> None:
    live = mesh.live
    (live.plan.folder / "agent" / "join").unlink()  # it must come back without a token
    await live.mesh.children["agent"].kill()
    await mesh.start("root")
    await until("it is named, with how long it is waited for", mesh.names_the_agent_as_away, seconds=10)
    async with live.mesh.admin_channel() as channel:
        await RotationsStub(channel).SkipHolder(rotation_pb2.SkipHolderRequest(name=AGENT_NAME, why="it is broken"))
    await until("the rotation has ended", mesh.is_over, seconds=10)
    who = f"uid:{os.geteuid()}"
    skips = "SELECT actor, detail, why FROM audit WHERE what = 'rotation.skip'"
    assert mesh.records.rows(skips) == [(who, AGENT_NAME, "it is broken")]

    await live.mesh.launch("agent")
    await until("all Envoys trust the new root alone", mesh.all_hang_on_the_only_root, seconds=20)
    async with live.under_load() as tally:
        await _done(tally, 100)
    assert not tally.failures


async def test_in_an_emergency_agents_are_renewed_before_their_workloads_and_nobody_is_locked_out(
    mesh: RotatingMesh,
) -> None:
    agent = mesh.live.mesh.children["agent"].pid
    workloads = (mesh.live.plan.productpage.spiffe_id, mesh.live.plan.reviews.spiffe_id)
    # With a deadline; at once, which lets go what is in flight; and at once while the agent does not run, which then
    # finds its stream as it was.
    for deadline, is_slow, most_failed in ((5, False, 0), (0, False, 5), (0, True, 5)):
        async with mesh.live.under_load() as tally:
            if is_slow:
                os.kill(agent, signal.SIGSTOP)
            await mesh.start("root", emergency=True, deadline=to_duration(timedelta(seconds=deadline)))
            await until("the rotation has ended", mesh.is_over, seconds=deadline + 5)
            if is_slow:
                os.kill(agent, signal.SIGCONT)
            await until("all Envoys trust the new root alone", mesh.all_hang_on_the_only_root, seconds=10)
            await _done(tally, 50)
        assert tally.failed <= most_failed, (deadline, is_slow, tally)
        newest = [row.spiffe_id for row in mesh.records.signed() if row.issuer_id == mesh.records.issuers()[-1]]
        assert {str(each) for each in (mesh.live.plan.agent_id, *workloads)} <= set(newest)
        if deadline:
            assert newest[:2] == [str(server_id(TRUST_DOMAIN)), str(mesh.live.plan.agent_id)], "its own comes first"


async def _done(tally: Tally, more: int) -> None:
    wanted = tally.done + more

    async def is_past() -> bool:
        return tally.done >= wanted

    await until(f"{more} more requests are answered", is_past, seconds=10)
