"""Whole rotations over a real store: what is trusted and what signs in each phase, and that a crash changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ca.authority.model import AuthorityKind, AuthorityState
from ca.rotation.model import Phase, Rotation, RotationKind
from ca.rotation.steering import Wish
from citadel.errors import CitadelError, FailedPrecondition, Reason, Unavailable
from tests.stores import MigratedStores
from tests.unit.ca.rotating import DAY, HOUR, Crash, Disk, Fate, Node, Server, nodes
from tests.unit.ca.values import ADMINISTRATOR, NODE_1

ROOT, ISSUER, SVID = RotationKind.ROOT, RotationKind.ISSUER, RotationKind.SVID
SECOND = timedelta(seconds=1)


@pytest.fixture
def store_url(tmp_path: Path, migrated_stores: MigratedStores) -> str:
    return migrated_stores.sqlite(tmp_path / "store.db")


@pytest.fixture
async def server(disk: Disk) -> AsyncIterator[Server]:
    """With a mesh of two nodes that has settled."""
    async with disk.server() as server:
        for node in nodes():
            await server.join(node)
        await server.turn()
        yield server


def _stand(server: Server, names: dict[str, str]) -> tuple[str, str, int]:
    roots = [each for each in server.authorities.authorities() if each.kind is AuthorityKind.ROOT]
    trusted = "+".join(names.get(each.id, "new") for each in roots)
    signs = names.get(server.authorities.issuing().authority.id, "new")
    return trusted, signs, len(server.lists.current.lists)


class Recorder:
    """A real store of rotations that notes how the server stands whenever a phase is recorded."""

    def __init__(self, server: Server) -> None:
        self.seen: list[tuple[str, str, str, int]] = []
        self._server, self._real = server, server.store
        self._names = {each.id: "old" for each in server.authorities.authorities()}
        server.rotator._store = self

    async def save(self, rotation: Rotation, *args: Any, **more: Any) -> None:
        self.seen.append((rotation.phase.value, *_stand(self._server, self._names)))
        await self._real.save(rotation, *args, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.mark.invariant(3, 4)
async def test_a_root_rotation_from_its_start_to_its_end(server: Server, disk: Disk) -> None:
    recorder = Recorder(server)
    old = server.active(AuthorityKind.ROOT)
    await server.begin(ROOT, why="it is time")
    done = await server.over()
    assert recorder.seen == [
        # Phase, the roots in the bundle, who signs, and how many authorities have a list, as it is entered.
        ("prepare", "old", "old", 2),
        ("observe", "old+new", "old", 4),
        ("activate", "old+new", "old", 4),
        ("renew", "old+new", "new", 4),
        ("drain", "old+new", "new", 4),
        ("retire", "old+new", "new", 4),
        ("settle", "new", "new", 2),
        ("done", "new", "new", 2),
    ]
    assert (done.phase, done.alarm) == (Phase.DONE, "")
    assert done.ended_at is not None
    assert done.old_ids == (old.id,)
    assert server.active(AuthorityKind.ROOT).id == done.new_id
    assert [(order.own, order.svids) for node in server.nodes for order in node.orders] == [
        (True, False),
        (False, True),
    ] * 2
    issuer = server.authorities.issuing().authority.subject_key_id
    assert {node.svid.issuer_key_id for node in server.nodes if node.svid} == {issuer}
    assert await disk.acts() == ["rotation.start root"] + [
        f"rotation.phase {phase}" for phase in ["observe", "activate", "renew", "drain", "retire", "settle", "done"]
    ]


@pytest.mark.invariant(3)
async def test_the_rotation_of_an_issuing_authority_leaves_the_bundle_as_it_is(server: Server) -> None:
    recorder, before = Recorder(server), server.authorities.bundle()
    await server.begin(ISSUER)
    done = await server.over()
    assert recorder.seen == [
        ("prepare", "old", "old", 2),
        ("observe", "old", "old", 3),  # what signs next has a list before it signs
        ("activate", "old", "old", 3),
        ("renew", "old", "new", 3),
        ("drain", "old", "new", 3),
        ("retire", "old", "new", 3),
        ("done", "old", "new", 2),
    ]
    assert server.authorities.bundle() == before
    assert server.authorities.issuing().authority.id == done.new_id


async def test_a_rotation_of_svids_renews_what_was_signed_before_and_no_authority(server: Server) -> None:
    before = server.authorities.authorities()
    serials = [node.svid.serial for node in server.nodes if node.svid]
    server.clock.leap(2)
    await server.begin(SVID)
    await server.over()
    assert server.authorities.authorities() == before
    assert all(node.svid and node.svid.serial not in serials for node in server.nodes)


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (Unavailable(Reason.STORE_UNAVAILABLE, "the disk is full"), "the disk is full (store_unavailable)"),
        (
            FailedPrecondition(Reason.KEY_UNSEALABLE, "cannot be opened", fix="restore it"),
            "cannot be opened (key_unsealable); restore it",
        ),
    ],
)
async def test_what_keeps_a_rotation_from_going_on_is_what_it_waits_for_until_it_goes_on(
    disk: Disk, failure: CitadelError, words: str
) -> None:
    fate = Fate()
    async with disk.server(fate) as server:
        begun = await server.begin(ROOT)
        fate.failure = failure
        await server.until(lambda: server.holders() == {"this server": words})
        ((_, since),) = server.rotator.view().holders
        for _ in range(50):
            await server.turn()
        assert [each for _, each in server.rotator.view().holders] == [since], "it is the same trouble still"
        fate.failure = None
        await server.until(lambda: "this server" not in server.holders())
        assert (await server.over()).id == begun.id


@pytest.mark.invariant(3)
async def test_one_proxy_that_keeps_silent_is_named_and_holds_a_new_root_up(server: Server) -> None:
    first, _ = server.nodes
    first.is_silent = True
    await server.begin(ROOT)
    await server.until(lambda: bool(server.holders()))
    signs = server.authorities.issuing()
    for _ in range(200):
        await server.turn()
    assert server.holders() == {"node-1/1": "pid 7 has not answered ROOTCA"}
    assert server.authorities.issuing() is signs
    first.is_silent = False
    begun = server.clock.monotonic()
    await server.phase(Phase.ACTIVATE)
    assert server.clock.monotonic() - begun >= 2.0, "an ACK alone opens no gate: then comes the margin"


@pytest.mark.invariant(3, 11)
async def test_a_change_of_the_keys_for_tokens_which_no_envoy_is_sent_holds_no_root_up(server: Server) -> None:
    before = server.authorities.sequences()
    async with server.authorities.changing_jwt() as jwt:
        await jwt.prepare("1" * 32)
    await server.turn()
    after = server.authorities.sequences()
    assert (after.bundle, after.x509, after.jwt) == (before.bundle + 1, before.x509, before.bundle + 1)
    census = server.mesh.counting.census(trust=server.rotator.waiting.trust(RotationKind.ROOT), order_id="")
    assert (census.proxies, census.proxies_acknowledged) == (2, 2)
    assert (await server.steering.plan(Wish(kind=ROOT))).holders == []
    await server.begin(ROOT)
    await server.phase(Phase.OBSERVE)
    async with server.authorities.changing_jwt() as jwt:
        await jwt.drop(["1" * 32])
    begun = server.clock.monotonic()
    done = await server.over()
    assert (done.phase, done.alarm) == (Phase.DONE, "")
    assert server.clock.monotonic() - begun < 10


@pytest.mark.invariant(4)
async def test_a_proxy_that_does_not_take_its_new_certificate_keeps_the_old_root_until_that_ends(
    server: Server,
) -> None:
    first, _ = server.nodes
    assert first.svid is not None
    ends = first.svid.not_after
    await server.begin(ROOT)
    await server.phase(Phase.ACTIVATE)
    first.is_silent = True
    await server.phase(Phase.DRAIN)
    await server.until(lambda: "node-1/1" in server.holders())
    server.clock.leap((ends - server.clock.now()).total_seconds() - 1)
    await server.turn()
    assert len(server.authorities.bundle().x509_authorities) == 2
    await server.over()
    assert server.clock.now() >= ends
    assert len(server.authorities.bundle().x509_authorities) == 1


@pytest.mark.invariant(3, 4)
async def test_a_program_that_closed_its_stream_holds_up_the_drain_to_the_end_of_its_certificate_and_nothing_else(
    server: Server,
) -> None:
    first, _ = server.nodes
    assert first.svid is not None
    serial, ends = first.svid.serial, first.svid.not_after
    first.fetch_and_close()
    await server.turn()
    words = f"pid 8 closed its stream and may hold {serial}"
    plan = await server.steering.plan(Wish(kind=ROOT))
    assert [(each.name, each.words, each.until) for each in plan.holders] == [("node-1/left-0", words, ends)]
    begun = server.clock.monotonic()
    await server.begin(ROOT)
    a_moment_ago = "pid 8 closed its stream a moment ago, and may come back with an older bundle"
    await server.until(lambda: server.holders() == {"node-1/left-0": a_moment_ago})
    await server.phase(Phase.ACTIVATE)
    assert 35 <= server.clock.monotonic() - begun < 40, "an Envoy would be back by then"
    await server.until(lambda: server.holders() == {"node-1/left-0": words})
    assert server.mesh.counting.census(trust=server.rotator.waiting.trust(RotationKind.ROOT), order_id="").proxies == 2
    server.clock.leap((ends - server.clock.now()).total_seconds() - 1)
    server.clock.jump(HOUR)
    await server.turn()
    assert len(server.authorities.bundle().x509_authorities) == 2
    done = await server.over()
    assert server.clock.now() - HOUR >= ends
    assert done.alarm == ""


@pytest.mark.invariant(4)
async def test_a_program_that_fetches_while_the_root_changes_delays_nothing(server: Server) -> None:
    first, _ = server.nodes
    await server.begin(ROOT)
    await server.phase(Phase.DRAIN)
    await server.turn()
    first.fetch_and_close()
    begun = server.clock.monotonic()
    await server.over()
    assert server.clock.monotonic() - begun < 5


@pytest.mark.invariant(4)
async def test_an_agent_that_hangs_delays_until_whatever_it_holds_has_ended(server: Server) -> None:
    first, _ = server.nodes
    await server.begin(ISSUER)
    await server.phase(Phase.ACTIVATE)
    first.ignores_orders = True
    await server.until(lambda: "node-1" in server.holders())
    renewing = server.rotator.running
    assert renewing is not None
    first.own = await first._signed_own()  # as any agent does at half of its life, also one that knows no orders
    first.connect()
    await server.until(lambda: "has not said" in server.holders().get("node-1", ""))
    server.clock.leap(DAY.total_seconds() - 60)
    await server.turn()
    assert server.rotator.running is not None
    assert server.rotator.running.phase is Phase.RENEW
    server.clock.leap(60)
    await server.phase(Phase.DRAIN)


async def test_who_is_away_is_waited_for_until_its_last_certificate_has_ended_or_it_is_skipped(server: Server) -> None:
    first, second = server.nodes
    first.leave()
    await server.begin(ROOT)
    words = "away, and certificates issued through it are valid"
    await server.until(lambda: server.holders() == {"node-1": words})
    await server.steering.skip("node-1", why="it was scrapped", by=ADMINISTRATOR)
    await server.over()
    assert len(server.authorities.bundle().x509_authorities) == 1
    second.leave()
    await server.begin(ROOT)
    await server.until(lambda: "node-2" in server.holders())
    server.clock.leap(3600)
    done = await server.over()
    assert done.alarm == ""


@pytest.mark.invariant(12)
@pytest.mark.parametrize("kind", [ROOT, ISSUER])
async def test_a_crash_after_any_write_is_gone_on_from_by_the_next_start(disk: Disk, kind: RotationKind) -> None:
    async with disk.server() as server:
        begun = server.authorities.authorities()
    crashes = 0
    for crash_after in range(1, 100):
        fate = Fate()
        has_died = await died(disk, fate, kind, crash_after)
        async with disk.server() as server:
            for node in nodes():
                await server.join(node)
            done = await server.over() if server.rotator.current is not None else None
            assert server.rotator.running is None
            ended_well(server, done)
        if not has_died:
            break
        crashes += 1
    else:
        pytest.fail("it never came through")
    assert crashes > 15
    assert not {each.id for each in begun} & {each.id for each in server.authorities.issuers()}
    assert disk.folder.is_dir()
    assert len(list(disk.folder.iterdir())) <= 2 + crashes, "at most the key that was just made stays behind"


async def died(disk: Disk, fate: Fate, kind: RotationKind, crash_after: int) -> bool:
    """Whether a server died in the middle of a rotation, right after this write of it."""
    try:
        async with disk.server(fate) as server:
            for node in nodes():
                await server.join(node)
            fate.crash_after = fate.writes + crash_after
            await server.begin(kind)
            await server.over()
    except Crash:
        return True
    return False


def ended_well(server: Server, done: Rotation | None) -> None:
    """One root and one issuing authority, which signs; a list of each; and they are those of the rotation."""
    root, issuer = server.authorities.authorities()
    assert (root.kind, issuer.kind) == (AuthorityKind.ROOT, AuthorityKind.ISSUER)
    assert root.state is issuer.state is AuthorityState.ACTIVE
    assert server.authorities.issuing().authority == issuer
    assert len(server.lists.current.lists) == 2
    if done is not None:
        assert done.phase is Phase.DONE
        assert done.new_id == (root.id if done.kind is ROOT else issuer.id)


@pytest.mark.invariant(12)
@pytest.mark.parametrize(
    "phase", [Phase.PREPARE, Phase.OBSERVE, Phase.ACTIVATE, Phase.RENEW, Phase.DRAIN, Phase.RETIRE, Phase.SETTLE]
)
async def test_a_restart_in_each_phase_goes_on_in_it(disk: Disk, phase: Phase) -> None:
    with pytest.raises(Crash):
        await die_in(phase, disk)
    async with disk.server() as server:
        assert server.rotator.running is not None
        assert server.rotator.running.phase is phase
        begun = server.rotator.running
        for node in nodes():
            await server.join(node)
        assert (await server.over()).id == begun.id
        ended_well(server, server.rotator.current)


async def die_in(phase: Phase, disk: Disk) -> None:
    async with disk.server() as server:
        for node in nodes():
            await server.join(node)
        server.rotator._store = DyingIn(phase, server.store)
        await server.begin(ROOT)
        await server.over()


class DyingIn:
    """A store of rotations whose process dies once this phase is recorded."""

    def __init__(self, phase: Phase, real: Any) -> None:
        self._phase, self._real = phase, real

    async def save(self, rotation: Rotation, *args: Any, **more: Any) -> None:
        await self._real.save(rotation, *args, **more)
        if rotation.phase is self._phase:
            raise Crash

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.mark.invariant(12)
async def test_after_a_restart_a_rotation_of_svids_waits_until_agents_are_back_but_not_for_ever(disk: Disk) -> None:
    first, second = nodes()
    async with disk.server() as server:
        for node in (first, second):
            node.ignores_orders = True
            await server.join(node)
        await server.clock.advance(60)
        await server.begin(SVID)
        await server.until(lambda: len(server.holders()) == 2)
    async with disk.server() as server:
        await server.until(lambda: len(server.holders()) == 2)
        assert server.holders() == dict.fromkeys(("node-1", "node-2"), "has not come back since the server was started")
        begun, first.ignores_orders = server.clock.monotonic(), False
        server.nodes.append(first)
        first._server = server
        first.session = None
        first.connect()
        before = first.svid
        done = await server.over()
        assert (done.phase, done.alarm) == (Phase.DONE, "")
        assert first.svid is not before, "who came back has renewed"
        assert 25 < server.clock.monotonic() - begun < 31, "the other one finds the order when it comes"


@pytest.mark.invariant(5)
async def test_a_store_that_fails_for_a_while_stops_nothing_for_good(disk: Disk) -> None:
    fate = Fate()
    async with disk.server(fate) as server:
        for node in nodes():
            await server.join(node)
        await server.begin(ROOT)
        for phase in (Phase.OBSERVE, Phase.RENEW, Phase.DRAIN):
            await server.phase(phase)
            fate.failure = Unavailable(Reason.STORE_UNAVAILABLE, "the disk is full")
            for _ in range(100):
                await server.turn()
            assert server.rotator.current is not None
            assert server.rotator.current.phase is phase
            fate.failure = None
        await server.over()
        ended_well(server, server.rotator.current)


async def test_after_a_commit_that_only_seemed_to_fail_there_is_still_one_rotation(server: Server) -> None:
    real, server.rotator._store = server.rotator._store, Forgetful(server.store)
    with pytest.raises(Unavailable):
        await server.begin(ROOT)
    server.rotator._store = real
    with pytest.raises(FailedPrecondition) as refused:
        await server.begin(ISSUER)
    assert refused.value.reason is Reason.ROTATION_RUNNING
    done = await server.over()
    assert done.kind is ROOT
    assert await server.store.unfinished() is None


class Forgetful:
    """A store whose answer is lost after the commit."""

    def __init__(self, real: Any) -> None:
        self._real = real

    async def save(self, *args: Any, **more: Any) -> None:
        await self._real.save(*args, **more)
        raise Unavailable(Reason.STORE_UNAVAILABLE, "the connection was lost")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


async def test_nothing_is_ordered_once_what_goes_has_ended(disk: Disk) -> None:
    disk.issuer_lifetime = 2 * HOUR
    async with disk.server() as server:
        for node in nodes():
            await server.join(node)
        await server.begin(ISSUER)
        await server.phase(Phase.RENEW)
        await server.steering.pause(why="", by=ADMINISTRATOR)
    disk.clock.leap((2 * HOUR).total_seconds())
    async with disk.server() as server:
        node = await server.join(Node(NODE_1, 0))
        server.clock.leap(600)  # until then the clock might still be set right
        await server.until(lambda: len(server.authorities.issuers()) == 1)
        await server.steering.resume(why="", by=ADMINISTRATOR)
        await server.over()
        await server.turn()
        assert node.orders == [], "an order that names no authority would be about all of them"


@pytest.mark.invariant(3)
async def test_what_was_prepared_and_ended_during_a_pause_is_prepared_and_observed_anew(disk: Disk) -> None:
    disk.issuer_lifetime = 4 * HOUR
    async with disk.server() as server:
        first, _ = [await server.join(node) for node in nodes()]
        first.is_silent = True
        begun = await server.begin(ISSUER)
        await server.phase(Phase.OBSERVE)
        await server.steering.pause(why="", by=ADMINISTRATOR)
        old = server.authorities.issuing().authority.id
        server.clock.leap((3.6 * HOUR).total_seconds())
        await server.until(lambda: server.authorities.issuing().authority.id != old)
        server.clock.leap(HOUR.total_seconds())
        await server.until(lambda: all(each.id != begun.new_id for each in server.authorities.issuers()))
        signs = server.authorities.issuing().authority.id
        for node in server.nodes:
            await node.join(server)
        await server.steering.resume(why="", by=ADMINISTRATOR)
        await server.until(lambda: "node-1/1" in server.holders())
        assert server.authorities.issuing().authority.id == signs, "the new one is observed first"
        first.is_silent = False
        done = await server.over()
        assert server.authorities.issuing().authority.id == done.new_id == begun.new_id
