"""How people and time start and change rotations, and what happens when nobody does anything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ca.authority.model import AuthorityKind, AuthorityState
from ca.rotation.lost_keys import LostKeys
from ca.rotation.model import Phase, RotationKind
from ca.rotation.steering import Wish
from ca.store.rotations import SqlRotations
from citadel.errors import FailedPrecondition, InvalidArgument, Reason, Unavailable
from tests.clock import FakeClock
from tests.stores import MigratedStores
from tests.unit.ca.records import row
from tests.unit.ca.rotating import DAY, HOUR, Disk, Fate, PlainLedger, Server, nodes
from tests.unit.ca.values import ADMINISTRATOR

ROOT, ISSUER, SVID = RotationKind.ROOT, RotationKind.ISSUER, RotationKind.SVID
SECOND = timedelta(seconds=1)


@pytest.fixture
def store_url(tmp_path: Path, migrated_stores: MigratedStores) -> str:
    return migrated_stores.sqlite(tmp_path / "store.db")


@pytest.fixture
async def server(disk: Disk) -> AsyncIterator[Server]:
    """With a mesh of two nodes that has settled, of which the first one's proxy answers nothing."""
    async with disk.server() as server:
        for node in nodes():
            await server.join(node)
        await server.turn()
        server.nodes[0].is_silent = True
        yield server


async def test_a_second_rotation_is_refused_and_told_which_one_runs(server: Server) -> None:
    first = await server.begin(ROOT)
    await server.phase(Phase.OBSERVE)
    for kind in RotationKind:
        with pytest.raises(FailedPrecondition) as refused:
            await server.begin(kind)
        assert refused.value.reason is Reason.ROTATION_RUNNING
        assert f"{first.id} (root) is in its phase observe" in refused.value.message


@pytest.mark.invariant(10)
async def test_each_act_of_a_person_is_audited_with_its_reason(server: Server, disk: Disk) -> None:
    steering = server.steering
    await server.begin(ISSUER)
    await server.phase(Phase.OBSERVE)
    await steering.pause(why="lunch", by=ADMINISTRATOR)
    server.nodes[0].is_silent = False
    for _ in range(200):
        await server.turn()
    assert server.rotator.running is not None
    assert (server.rotator.running.phase, server.rotator.running.paused) == (Phase.OBSERVE, True)
    await steering.resume(why="back", by=ADMINISTRATOR)
    await server.over()
    server.nodes[0].is_silent = True
    await server.begin(ROOT)
    await server.until(lambda: "node-1/1" in server.holders())
    await steering.skip("node-1/1", why="scrapped", by=ADMINISTRATOR)
    await server.phase(Phase.ACTIVATE)
    acts = [act for act in await disk.acts() if not act.startswith("rotation.phase")]
    assert acts == [
        "rotation.start issuer",
        "rotation.pause",
        "rotation.resume",
        "rotation.start root",
        "rotation.skip node-1/1",
    ]


async def test_aborted_it_leaves_no_trace_but_its_record(server: Server) -> None:
    before = server.authorities.authorities()
    trusted = server.authorities.bundle().x509_authorities
    await server.begin(ROOT)
    await server.until(lambda: len(server.authorities.bundle().x509_authorities) == 2)
    await server.steering.pause(why="", by=ADMINISTRATOR)
    await server.steering.abort(why="not today", by=ADMINISTRATOR)
    aborted = await server.over()
    assert aborted.phase is Phase.ABORTED
    assert server.authorities.authorities() == before
    assert server.authorities.bundle().x509_authorities == trusted
    assert len(server.lists.current.lists) == 2


async def test_it_cannot_be_aborted_once_the_new_root_signs(server: Server) -> None:
    server.nodes[0].is_silent = False
    await server.begin(ROOT)
    await server.phase(Phase.RENEW)
    with pytest.raises(FailedPrecondition) as refused:
        await server.steering.abort(why="", by=ADMINISTRATOR)
    assert refused.value.reason is Reason.ROTATION_TOO_FAR
    await server.over()
    for steer in (server.steering.pause, server.steering.resume, server.steering.abort):
        with pytest.raises(FailedPrecondition) as refused:
            await steer(why="", by=ADMINISTRATOR)
        assert refused.value.reason is Reason.ROTATION_NOT_RUNNING


@pytest.mark.parametrize(
    "wish",
    [
        {"kind": ISSUER, "deadline": SECOND},
        {"kind": SVID, "deadline": SECOND},
        {"kind": ROOT, "deadline": -SECOND},
        {"kind": ROOT, "window": -SECOND},
        {"kind": ROOT, "window": 366 * DAY},
        {"kind": ROOT, "deadline": timedelta.max},
    ],
)
async def test_a_wish_that_makes_no_sense_is_refused_and_begins_nothing(server: Server, wish: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        await server.steering.start(Wish(**wish), by=ADMINISTRATOR)
    assert server.rotator.running is None
    assert await server.store.unfinished() is None


async def test_nobody_is_skipped_by_an_empty_name(server: Server) -> None:
    rotation = await server.begin(ROOT, skip=frozenset({""}))
    assert rotation.skipped == frozenset()
    with pytest.raises(InvalidArgument):
        await server.steering.skip("", why="", by=ADMINISTRATOR)


async def test_a_plan_says_the_steps_the_time_and_who_would_hold_it_up_and_begins_nothing(server: Server) -> None:
    server.nodes[0].leave()
    plan = await server.steering.plan(Wish(kind=ROOT, window=timedelta(minutes=5)))
    assert [step.value for step in plan.steps][:3] == ["prepare", "observe", "activate"]
    assert plan.takes == timedelta(minutes=5, seconds=4)
    assert [holder.name for holder in plan.holders] == ["node-1"]
    assert server.rotator.current is None


async def test_an_emergency_waits_for_nobody_and_ends_at_its_deadline(server: Server) -> None:
    server.nodes[0].hangs = True
    old = server.active(AuthorityKind.ROOT)
    begun = server.clock.monotonic()
    await server.begin(ROOT, deadline=30 * SECOND)
    await server.phase(Phase.RENEW)
    assert server.clock.monotonic() - begun < 5
    tainted = next(each for each in server.authorities.authorities() if each.id == old.id)
    assert tainted.state is AuthorityState.TAINTED
    server.clock.jump(-HOUR)
    done = await server.over()
    assert 30 <= server.clock.monotonic() - begun < 32, "whatever the clock on the wall says"
    assert "emergency: went on from renew without node-1" in done.alarm
    assert len(server.authorities.bundle().x509_authorities) == 1


@pytest.mark.parametrize(
    ("kind", "phase"),
    [(ROOT, Phase.OBSERVE), (ROOT, Phase.RENEW), (ISSUER, Phase.OBSERVE), (ISSUER, Phase.RENEW), (SVID, Phase.RENEW)],
)
async def test_an_emergency_waits_for_no_rotation_either_and_takes_over_what_goes(
    server: Server, disk: Disk, kind: RotationKind, phase: Phase
) -> None:
    server.nodes[0].is_silent = phase is Phase.OBSERVE
    server.nodes[0].hangs = kind is SVID
    first = await server.begin(kind)
    if phase is Phase.RENEW and kind is not SVID:
        await server.phase(Phase.ACTIVATE)
        server.nodes[0].hangs = True
    await server.until(lambda: server.rotator.running is not None and server.rotator.running.phase is phase)
    before = {each.id for each in server.authorities.authorities()}
    second = await server.begin(ROOT, deadline=SECOND)
    done = await server.over()
    assert done.id == second.id
    assert not before & {each.id for each in server.authorities.authorities()}, "nothing of before is left"
    assert server.authorities.successions() == [], "and nothing leads there from what may have leaked"
    recorded = await SqlRotations(database=disk.database).newest(10)
    superseded = next(each for each in recorded if each.id == first.id)
    assert superseded.phase is Phase.SUPERSEDED
    assert superseded.alarm == f"superseded in {phase.value} by the emergency {second.id}"
    assert "rotation.supersede" in " ".join(await disk.acts())


async def test_what_is_old_enough_is_rotated_by_itself_and_a_root_brings_its_issuer_along(disk: Disk) -> None:
    disk.root_at, disk.issuer_at, disk.root_lifetime = 0.5, 0.5, 10 * DAY
    async with disk.server() as server:
        for node in nodes():
            await server.join(node)
        kinds = []
        for days in (3.4, 0.2, 1.3, 0.2):
            server.clock.leap((days * DAY).total_seconds())
            for node in server.nodes:
                await node.join(server)
            for _ in range(60):
                await server.turn()
            await server.over() if server.rotator.current is not None else None
            kinds.append(server.rotator.current.kind if server.rotator.current is not None else None)
        assert kinds == [None, ISSUER, ISSUER, ROOT]
        starts = [act for act in await disk.acts() if act.startswith("rotation.start")]
        assert starts == ["rotation.start issuer", "rotation.start root"], "and none twice"


@pytest.mark.invariant(3, 5)
@pytest.mark.parametrize("kind", [ROOT, ISSUER])
async def test_before_the_issuer_ends_it_is_replaced_although_the_rotation_is_paused(
    server: Server, disk: Disk, kind: RotationKind
) -> None:
    old = server.authorities.issuing().authority
    await server.begin(kind)
    await server.phase(Phase.OBSERVE)
    await server.steering.pause(why="", by=ADMINISTRATOR)
    server.clock.leap((old.not_after - server.clock.now() - 13 * HOUR).total_seconds())
    for _ in range(40):
        await server.turn()
    assert server.authorities.issuing().authority.id == old.id, "not before it must be"
    server.clock.leap((HOUR + SECOND).total_seconds())
    await server.until(lambda: server.authorities.issuing().authority.id != old.id)
    assert server.authorities.issuing().authority.parent_id == old.parent_id
    assert (await disk.acts()).count("issuer.replace") == 1
    for node in server.nodes:
        await node.join(server)
        node.is_silent = False
    await server.steering.resume(why="", by=ADMINISTRATOR)
    done = await server.over()
    assert (done.phase, done.alarm) == (Phase.DONE, "")
    active = AuthorityKind.ROOT if kind is ROOT else AuthorityKind.ISSUER
    assert server.active(active).id == done.new_id


@pytest.mark.invariant(5)
async def test_what_lost_its_key_is_replaced_at_once_whatever_rotation_hangs(server: Server, disk: Disk) -> None:
    issuer, tokens = server.authorities.issuing().authority, server.tokens.signing().authority
    await server.begin(ISSUER)
    await server.phase(Phase.OBSERVE)
    await server.steering.pause(why="", by=ADMINISTRATOR)
    server.lost_keys |= {issuer.key_id, tokens.key_id}
    await server.until(lambda: server.authorities.issuing().authority.id != issuer.id)
    await server.until(lambda: server.tokens.signing().authority.id != tokens.id)
    assert server.authorities.issuing().authority.parent_id == issuer.parent_id
    assert server.tokens.signing().authority.kid in server.authorities.bundle().jwt_authorities
    for _ in range(20):
        await server.turn()
    acts = await disk.acts()
    assert (acts.count("issuer.replace"), acts.count("jwt.replace")) == (1, 1)
    for node in server.nodes:
        await node.join(server)
        node.is_silent = False
    await server.steering.resume(why="", by=ADMINISTRATOR)
    assert (await server.over()).phase is Phase.DONE


def test_another_one_for_a_key_that_is_lost_is_not_tried_for_all_the_time() -> None:
    clock, lost = FakeClock(), {"k1"}
    keys = LostKeys(lost.__contains__, clock=clock)
    asked = []
    for _ in range(25):
        asked.append(keys.is_due("k1"))
        clock.leap(1)
    assert [second for second, is_due in enumerate(asked) if is_due] == [0, 10, 20]
    assert not keys.is_due("k2")
    lost.add("k2")
    assert keys.is_due("k2")
    lost.remove("k1")
    clock.leap(10)
    assert not keys.is_due("k1")


async def test_roots_that_are_rotated_by_hand_alone_are_rotated_at_the_last_moment(disk: Disk) -> None:
    disk.root_lifetime, disk.issuer_lifetime = 30 * DAY, 29 * DAY
    async with disk.server() as server:
        root = server.active(AuthorityKind.ROOT)
        server.clock.leap((root.not_after - server.clock.now() - 2 * DAY - HOUR).total_seconds())
        for _ in range(60):
            await server.turn()
        assert server.active(AuthorityKind.ROOT) == root
        server.clock.leap((HOUR - 2 * SECOND).total_seconds())
        await server.until(lambda: server.active(AuthorityKind.ROOT).id != root.id)


async def test_a_pause_ends_before_the_root_does(server: Server, disk: Disk) -> None:
    root = server.active(AuthorityKind.ROOT)
    await server.begin(ROOT)
    await server.phase(Phase.OBSERVE)
    await server.steering.pause(why="holidays", by=ADMINISTRATOR)
    server.clock.leap((root.not_after - server.clock.now() - DAY).total_seconds())
    await server.until(lambda: server.active(AuthorityKind.ROOT).id != root.id)
    assert "rotation.resume" in await disk.acts()


async def test_a_clock_that_was_set_back_far_does_not_have_an_issuer_made_every_second(disk: Disk) -> None:
    disk.issuer_lifetime = DAY
    async with disk.server() as server:
        for _ in range(3):
            server.clock.leap(0.9 * DAY.total_seconds())
            await server.authorities.replace_issuer()
        server.clock.jump(-1.1 * DAY)
        await server.authorities.replace_issuer()  # it has ended already, as the clock that never jumps has it
        made = {each.id for each in server.authorities.issuers()}
        for _ in range(200):  # ten seconds
            await server.turn()
            made |= {each.id for each in server.authorities.issuers()}
        assert len(made) <= 7, "five, and of each way to replace what looks old one"


@pytest.mark.invariant(4)
async def test_what_was_signed_while_lifetimes_were_longer_is_waited_for_until_its_own_end(
    server: Server, disk: Disk
) -> None:
    """The setting may have become less since; what the ledger knows counts."""
    issuer = server.authorities.issuing().authority
    end = server.clock.now() + 3 * DAY
    await PlainLedger(disk.database).append([row(issuer_id=issuer.id, issued_at=server.clock.now(), not_after=end)])
    for node in server.nodes:
        node.is_silent = False
    await server.begin(ISSUER)
    await server.phase(Phase.RENEW)
    rotation = server.rotator.running
    assert rotation is not None
    assert server.rotator.leaving.latest_end(rotation, None) < end
    await server.rotator.waiting.begin(rotation)
    assert server.rotator.waiting.latest_end(rotation) == end


@pytest.mark.invariant(3)
async def test_where_somebody_hangs_the_observation_goes_on_with_an_alarm_before_what_signs_ends(
    server: Server, disk: Disk
) -> None:
    old = server.authorities.issuing().authority
    await server.begin(ISSUER)
    await server.phase(Phase.OBSERVE)
    server.clock.leap((old.not_after - server.clock.now() - DAY - 10 * SECOND).total_seconds())
    for node in server.nodes:
        await node.join(server)
    for _ in range(40):
        await server.turn()
    assert server.rotator.running is not None
    assert server.rotator.running.phase is Phase.OBSERVE
    await server.phase(Phase.RENEW)
    assert "nears its end: went on from observe without node-1/1" in server.rotator.running.alarm
    assert "issuer.replace" not in await disk.acts()


@pytest.mark.invariant(10)
async def test_a_replacement_that_fails_again_and_again_is_noted_once(disk: Disk) -> None:
    fate = Fate()
    async with disk.server(fate) as server:
        old = server.authorities.issuing().authority
        server.clock.leap((old.not_after - server.clock.now() - HOUR).total_seconds())
        fate.failure = Unavailable(Reason.STORE_UNAVAILABLE, "the disk is full")
        for _ in range(100):
            await server.turn()
        assert server.authorities.issuing().authority.id == old.id
        fate.failure = None
        await server.until(lambda: server.authorities.issuing().authority.id != old.id)
        assert (await disk.acts()).count("issuer.replace") == 1


@pytest.mark.invariant(4)
@pytest.mark.parametrize("jump", [HOUR, -HOUR])
async def test_a_clock_that_jumps_retires_nothing_early(server: Server, jump: timedelta) -> None:
    first, second = server.nodes
    first.is_silent = False
    await server.begin(ROOT)
    await server.phase(Phase.ACTIVATE)
    first.is_silent = True
    await server.until(lambda: "node-1/1" in server.holders())
    assert first.svid is not None
    left = (first.svid.not_after - server.clock.now()).total_seconds()
    server.clock.jump(jump)
    server.clock.leap(left - 5)
    await server.turn()
    assert len(server.authorities.bundle().x509_authorities) == 2
    server.clock.jump(-jump)
    await server.turn()
    assert len(server.authorities.bundle().x509_authorities) == 2
    server.clock.leap(5)
    assert second.svid is not None
    await server.over()
    assert len(server.authorities.bundle().x509_authorities) == 1
