"""Whole rotations of the keys for tokens over a real store: what is published and what signs in each phase."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ca.authority.jwt_model import LEEWAY, JwtAuthority
from ca.authority.model import AuthorityState
from ca.rotation.model import Phase, Rotation, RotationKind
from ca.rotation.rotator import Rotator
from ca.rotation.steering import Wish
from citadel.errors import InvalidArgument, Reason, Unavailable
from tests.stores import MigratedStores
from tests.unit.ca.rotating import DAY, HOUR, Crash, Disk, Fate, Server, nodes
from tests.unit.ca.values import ADMINISTRATOR

JWT, ROOT, ISSUER = RotationKind.JWT, RotationKind.ROOT, RotationKind.ISSUER
MINUTE = timedelta(minutes=1)


@pytest.fixture
def store_url(tmp_path: Path, migrated_stores: MigratedStores) -> str:
    return migrated_stores.sqlite(tmp_path / "store.db")


@pytest.fixture
async def server(disk: Disk) -> AsyncIterator[Server]:
    """With a mesh of two nodes, each with a program that has the keys for tokens, and a token that lives."""
    async with disk.server() as server:
        for node in nodes():
            node.has_keys_for_tokens = True
            await server.join(node)
        await server.turn()
        await sign(server)
        yield server


async def sign(server: Server, lives: timedelta = 5 * MINUTE) -> JwtAuthority:
    """Hand out a token; who signed it."""
    signer = server.tokens.signing()
    await server.tokens.reserve(signer, server.clock.now() + lives)
    return signer.authority


async def over(server: Server) -> Rotation:
    """Until no rotation runs. Where nothing but the end of tokens is waited for, time passes at once."""
    for _ in range(1000):
        if server.rotator.running is None:
            break
        ends = [each.until for each, _ in server.rotator.view().holders if each.name.startswith("jwt/")]
        if ends and ends[0] is not None and not server.rotator.running.is_emergency:
            server.clock.leap(max(0.0, (ends[0] - server.clock.now()).total_seconds() - 0.1))
        await server.turn()
    assert server.rotator.running is None, server.rotator.current
    assert server.rotator.current is not None
    return server.rotator.current


def stand(server: Server, old: str) -> tuple[str, str]:
    """What is published, and who signs."""
    names = {each.id: "old" if each.id == old else "new" for each in server.tokens.authorities()}
    published = {each.kid: names[each.id] for each in server.tokens.authorities()}
    in_the_bundle = sorted(published[kid] for kid in server.authorities.bundle().jwt_authorities)
    return "+".join(in_the_bundle), names[server.tokens.signing().authority.id]


class Recorder:
    """A real store of rotations that notes how the server stands whenever a phase is recorded."""

    def __init__(self, server: Server) -> None:
        self.seen: list[tuple[str, str, str]] = []
        self._server, self._real = server, server.store
        self._old = server.tokens.signing().authority.id
        server.rotator._store = self

    async def save(self, rotation: Rotation, *args: Any, **more: Any) -> None:
        self.seen.append((rotation.phase.value, *stand(self._server, self._old)))
        await self._real.save(rotation, *args, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.mark.invariant(3, 4)
@pytest.mark.spec("JWT-30")
async def test_a_rotation_from_its_start_to_its_end(server: Server, disk: Disk) -> None:
    roots, issuing = server.authorities.bundle().x509_authorities, server.authorities.issuing()
    recorder, begun = Recorder(server), server.clock.now()
    (old,) = server.tokens.authorities()
    await server.begin(JWT)
    words = "signed tokens that have not ended"
    await server.until(lambda: server.holders() == {f"jwt/{old.kid}": words})
    assert old.signed_until is not None
    ((holder, _),) = server.rotator.view().holders
    assert holder.until == old.signed_until + LEEWAY
    done = await over(server)
    assert recorder.seen == [
        ("prepare", "old", "old"),
        ("observe", "new+old", "old"),
        ("activate", "new+old", "old"),
        ("drain", "new+old", "new"),
        ("retire", "new+old", "new"),
        ("done", "new", "new"),
    ]
    assert done.alarm == ""
    assert server.clock.now() - begun >= 5 * MINUTE + LEEWAY, "until no token of the old key is believed any more"
    (new,) = server.tokens.authorities()
    assert (new.id, new.state) == (done.new_id, AuthorityState.ACTIVE)
    assert (server.authorities.bundle().x509_authorities, server.authorities.issuing()) == (roots, issuing)
    assert server.board._terms is None, "no certificate is renewed for it"
    acts = await disk.acts()
    assert acts[-6:] == ["rotation.start jwt", *(f"rotation.phase {phase}" for phase, *_ in recorder.seen[1:])]


@pytest.mark.invariant(3)
@pytest.mark.spec("JWT-30")
async def test_a_program_that_has_not_been_sent_the_new_key_holds_it_up(server: Server) -> None:
    first, _ = server.nodes
    first.is_silent = True
    await server.begin(JWT)
    await server.until(lambda: bool(server.holders()))
    signs = server.tokens.signing().authority
    for _ in range(100):
        await server.turn()
    assert server.holders().keys() == {"node-1/2"}
    assert server.tokens.signing().authority.id == signs.id
    census = server.rotator.view().census
    assert (census.proxies, census.proxies_acknowledged) == (2, 1), "they are counted by the keys for tokens"
    first.is_silent = False
    begun = server.clock.monotonic()
    await server.phase(Phase.ACTIVATE)
    assert server.clock.monotonic() - begun >= 2.0


@pytest.mark.invariant(3)
async def test_an_envoy_that_is_silent_holds_up_a_root_and_no_key_for_tokens(server: Server) -> None:
    first, _ = server.nodes
    first.has_keys_for_tokens = False
    first.is_silent = True
    await server.begin(JWT)
    done = await over(server)
    assert (done.phase, done.alarm) == (Phase.DONE, "")


@pytest.mark.invariant(3)
async def test_who_polls_for_the_keys_is_given_the_time_that_it_may_keep_them(disk: Disk) -> None:
    disk.jwt_margin = 5 * MINUTE
    async with disk.server() as server:
        for node in nodes():
            await server.join(node)
        begun = server.clock.monotonic()
        plan = await server.steering.plan(Wish(kind=JWT))
        assert plan.takes == 5 * MINUTE
        await server.begin(JWT)
        await server.phase(Phase.OBSERVE)
        await server.until(lambda: _all_have_acknowledged(server.rotator))
        server.clock.jump(HOUR)
        server.clock.leap(290)
        await server.turn()
        assert server.rotator.current is not None
        assert server.rotator.current.phase is Phase.OBSERVE
        await server.phase(Phase.ACTIVATE)
        assert 300 <= server.clock.monotonic() - begun < 310


def _all_have_acknowledged(rotator: Rotator) -> bool:
    """In the phase as it is; from then on the margin counts."""
    current = rotator.current
    return current is not None and rotator._acted_in == (current.id, current.phase) and rotator._clear_since is not None


async def test_agents_that_are_away_count_as_for_roots(server: Server) -> None:
    first, _ = server.nodes
    first.leave()
    await server.begin(JWT)
    words = "away, and certificates issued through it are valid"
    await server.until(lambda: server.holders() == {"node-1": words})
    await server.steering.skip("node-1", why="it was scrapped", by=ADMINISTRATOR)
    await over(server)


async def test_a_plan_says_whose_tokens_will_be_waited_for(server: Server) -> None:
    (old,) = server.tokens.authorities()
    plan = await server.steering.plan(Wish(kind=JWT))
    assert [(each.name, each.until) for each in plan.holders] == [(f"jwt/{old.kid}", old.needed_until)]
    assert old.needed_until is not None
    assert plan.takes == old.needed_until - server.clock.now()
    assert (plan.census.proxies, plan.census.proxies_acknowledged) == (2, 2)


@pytest.mark.invariant(4)
async def test_no_jump_of_the_clock_ends_a_drain_too_early(server: Server) -> None:
    await server.begin(JWT)
    await server.phase(Phase.DRAIN)
    server.clock.jump(DAY)
    for _ in range(50):
        await server.turn()
    assert len(server.authorities.bundle().jwt_authorities) == 2
    server.clock.jump(-2 * DAY)
    server.clock.leap(400)
    for _ in range(50):
        await server.turn()
    assert len(server.authorities.bundle().jwt_authorities) == 2, "late rather than early"
    server.clock.jump(DAY)
    await over(server)


class TestAnEmergency:
    async def test_signs_by_the_new_key_at_once_and_drops_the_old_at_the_deadline_whatever_lives(
        self, server: Server
    ) -> None:
        for node in server.nodes:
            node.is_silent = True
        old = await sign(server, HOUR)
        begun = server.clock.monotonic()
        await server.begin(JWT, deadline=timedelta(seconds=30))
        await server.phase(Phase.DRAIN)
        await server.turn()
        assert server.clock.monotonic() - begun < 2, "nobody is waited for"
        states = {each.id: each.state for each in server.tokens.authorities()}
        assert states.pop(server.tokens.signing().authority.id) is AuthorityState.ACTIVE
        assert states == {old.id: AuthorityState.TAINTED}
        with pytest.raises(Unavailable):
            await server.tokens.reserve(_signer_of(server, old), server.clock.now())
        assert old.kid in server.authorities.bundle().jwt_authorities
        done = await over(server)
        assert 30 <= server.clock.monotonic() - begun < 33
        assert old.kid not in server.authorities.bundle().jwt_authorities
        observed, drained = done.alarm.split("; ")
        assert observed.startswith("emergency: went on from observe without node-1")
        assert drained == f"emergency: went on from drain without jwt/{old.kid}"

    async def test_ends_whatever_rotation_runs(self, server: Server) -> None:
        server.nodes[0].is_silent = True
        running = await server.begin(JWT)
        await server.until(lambda: bool(server.holders()))
        await server.begin(JWT, deadline=timedelta(0))
        await over(server)
        assert len(server.tokens.authorities()) == 1, "also what the other one had prepared is gone"
        ended = next(each for each in await server.store.newest(5) if each.id == running.id)
        assert ended.phase is Phase.SUPERSEDED

    async def test_is_for_roots_and_keys_for_tokens_alone(self, server: Server) -> None:
        with pytest.raises(InvalidArgument) as refused:
            await server.begin(ISSUER, deadline=timedelta(0))
        assert refused.value.reason is Reason.REQUEST_MALFORMED


def _signer_of(server: Server, authority: JwtAuthority) -> Any:
    signer = server.tokens.signing()
    return type(signer)(authority=authority, key=signer.key)


async def test_it_can_be_undone_until_the_new_key_signs(server: Server) -> None:
    (old,) = server.tokens.authorities()
    server.nodes[0].is_silent = True
    await server.begin(JWT)
    await server.until(lambda: bool(server.holders()))
    await server.steering.abort(why="the wrong day", by=ADMINISTRATOR)
    done = await over(server)
    assert done.phase is Phase.ABORTED
    assert [each.id for each in server.tokens.authorities()] == [old.id]
    assert server.authorities.bundle().jwt_authorities.keys() == {old.kid}


class TestTime:
    async def test_renews_a_key_at_its_share_of_life_by_itself(self, disk: Disk) -> None:
        disk.jwt_at = 0.5
        async with disk.server() as server:
            old = await sign(server)
            server.clock.leap((3.5 * DAY).total_seconds() - 1)
            await server.turn()
            assert server.rotator.running is None
            server.clock.leap(1)
            await server.until(lambda: server.rotator.running is not None)
            assert server.rotator.running is not None
            assert server.rotator.running.kind is JWT
            await over(server)
            (new,) = server.tokens.authorities()
            assert new.id != old.id

    @pytest.mark.invariant(5)
    async def test_replaces_it_at_the_last_moment_whatever_hangs(self, disk: Disk) -> None:
        async with disk.server() as server:
            for node in nodes():
                node.has_keys_for_tokens = node.is_silent = True
                await server.join(node)
            old = server.tokens.signing().authority
            await server.begin(JWT)
            await server.phase(Phase.OBSERVE)
            await server.steering.pause(why="", by=ADMINISTRATOR)
            server.clock.leap((old.not_after - server.clock.now() - timedelta(minutes=31)).total_seconds())
            for _ in range(30):
                await server.turn()
            assert server.tokens.signing().authority.id == old.id
            server.clock.leap(60)
            await server.until(lambda: server.tokens.signing().authority.id != old.id)
            assert (await disk.acts())[-1] == "jwt.replace"
            assert server.tokens.signing().authority.kid in server.authorities.bundle().jwt_authorities
            server.clock.leap(HOUR.total_seconds())
            await server.until(lambda: old.id not in {each.id for each in server.tokens.authorities()})
            await server.steering.resume(why="", by=ADMINISTRATOR)
            for node in server.nodes:
                node.is_silent = False
                await node.join(server)
            done = await over(server)
            assert done.phase is Phase.DONE
            assert server.tokens.signing().authority.not_after > server.clock.now() + 3 * DAY

    @pytest.mark.invariant(3)
    async def test_goes_on_without_everybody_near_the_end_of_what_signs_with_an_alarm(self, disk: Disk) -> None:
        async with disk.server() as server:
            node, _ = [await server.join(node) for node in nodes()]
            node.has_keys_for_tokens = True
            await server.turn()
            node.is_silent = True
            old = server.tokens.signing().authority
            await server.begin(JWT)
            await server.until(lambda: bool(server.holders()))
            server.clock.leap((old.not_after - server.clock.now() - HOUR).total_seconds())
            for each in server.nodes:
                await each.join(server)
            await server.phase(Phase.ACTIVATE)
            done = await over(server)
            assert "went on from observe without node-1/2" in done.alarm

    async def test_an_issuing_authority_that_was_just_renewed_by_itself_delays_no_key_for_tokens(
        self, disk: Disk
    ) -> None:
        disk.issuer_at, disk.jwt_at = 0.5, 0.5
        async with disk.server() as server:
            server.clock.leap((3.5 * DAY).total_seconds())
            await server.until(lambda: server.rotator.running is not None)
            kinds: list[RotationKind] = []
            for _ in range(2):
                kinds.append((await over(server)).kind)
                if len(kinds) == 1:
                    await server.until(lambda: server.rotator.running is not None)
            assert kinds == [ISSUER, JWT]


@pytest.mark.invariant(12)
async def test_a_crash_after_any_write_is_gone_on_from_by_the_next_start(disk: Disk) -> None:
    crashes = 0
    for crash_after in range(1, 60):
        fate = Fate()
        has_died = await died(disk, fate, crash_after)
        async with disk.server() as server:
            for node in nodes():
                await server.join(node)
            done = await over(server) if server.rotator.current is not None else None
            ended_well(server, done)
        if not has_died:
            break
        crashes += 1
    else:
        pytest.fail("it never came through")
    assert crashes > 8
    assert len(list(disk.folder.iterdir())) <= 3 + crashes, "at most the key that was just made stays behind"


async def died(disk: Disk, fate: Fate, crash_after: int) -> bool:
    """Whether a server died in the middle of a rotation, right after this write of it."""
    try:
        async with disk.server(fate) as server:
            for node in nodes():
                node.has_keys_for_tokens = True
                await server.join(node)
            await sign(server, MINUTE)
            fate.crash_after = fate.writes + crash_after
            await server.begin(JWT)
            await over(server)
    except Crash:
        return True
    return False


def ended_well(server: Server, done: Rotation | None) -> None:
    """One key, which signs and is published, and it is that of the rotation."""
    (key,) = server.tokens.authorities()
    assert key.state is AuthorityState.ACTIVE
    assert server.tokens.signing().authority.id == key.id
    assert server.authorities.bundle().jwt_authorities.keys() == {key.kid}
    if done is not None:
        assert (done.phase, done.new_id) == (Phase.DONE, key.id)


@pytest.mark.invariant(4, 12)
@pytest.mark.parametrize("phase", [Phase.PREPARE, Phase.OBSERVE, Phase.ACTIVATE, Phase.DRAIN, Phase.RETIRE])
async def test_a_restart_in_each_phase_goes_on_in_it(disk: Disk, phase: Phase) -> None:
    async with disk.server() as server:
        for node in nodes():
            await server.join(node)
        token_ends = server.clock.now() + 5 * MINUTE
        await sign(server)
        server.rotator._store = DyingIn(phase, server.store)
        with pytest.raises(Crash):
            await rotate(server)
    async with disk.server() as server:
        assert server.rotator.running is not None
        assert server.rotator.running.phase is phase
        begun = server.rotator.running
        for node in nodes():
            await server.join(node)
        assert (await over(server)).id == begun.id
        ended_well(server, server.rotator.current)
        assert server.clock.now() >= token_ends


@pytest.mark.invariant(5, 12)
async def test_a_key_that_ended_before_it_was_activated_is_made_anew(disk: Disk) -> None:
    async with disk.server() as server:
        for node in nodes():
            await server.join(node)
        server.rotator._store = DyingIn(Phase.ACTIVATE, server.store)
        with pytest.raises(Crash):
            await rotate(server)
        before = server.authorities.bundle().jwt_authorities.keys()
    disk.clock.leap((8 * DAY).total_seconds())
    async with disk.server() as server:
        server.tokens.signing()
        done = await over(server)
        assert server.tokens.signing().authority.id == done.new_id
        await server.until(lambda: not before & server.authorities.bundle().jwt_authorities.keys())


async def rotate(server: Server) -> None:
    await server.begin(JWT)
    await over(server)


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


@pytest.mark.invariant(5)
async def test_a_store_that_fails_for_a_while_stops_nothing_for_good(disk: Disk) -> None:
    fate = Fate()
    async with disk.server(fate) as server:
        for node in nodes():
            await server.join(node)
        await sign(server)
        await server.begin(JWT)
        for phase in (Phase.OBSERVE, Phase.DRAIN):
            await server.phase(phase)
            fate.failure = Unavailable(Reason.STORE_UNAVAILABLE, "the disk is full")
            for _ in range(100):
                await server.turn()
            assert server.rotator.current is not None
            assert server.rotator.current.phase is phase
            fate.failure = None
        await over(server)
        ended_well(server, server.rotator.current)
