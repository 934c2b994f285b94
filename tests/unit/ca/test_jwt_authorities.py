"""Keys that sign tokens: their states, what of them survives a crash, and what the bundle and its numbers say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ca.authority.jwt import AHEAD, JwtAuthorities
from ca.authority.jwt_model import LEEWAY, JwtAuthority, JwtSigner
from ca.authority.jwt_ports import JwtAuthorityStore, JwtKeyManager
from ca.authority.model import AuthorityState
from ca.keys.disk import DiskKeys
from ca.keys.kinds import JwtPrivateKey, KeyKind
from ca.keys.manager import SealedKeyManager
from ca.keys.sealing import KekSealer, KeyPurpose
from ca.store.authorities import SqlAuthorityStore
from ca.store.database import Database
from ca.store.jwt_authorities import SqlJwtAuthorityStore
from citadel.errors import FailedPrecondition, Reason, Unavailable
from tests.clock import FakeClock
from tests.unit.ca.values import A_TEST, NOW

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
LIFETIME = 7 * DAY
NEXT = "1" * 32


class Crash(BaseException):
    """The process dies here: nothing catches it."""


class CrashingKeys:
    """A real key manager whose process dies right after the `crash_after`th key was made."""

    def __init__(self, keys: JwtKeyManager, *, crash_after: int) -> None:
        self._keys = keys
        self._left = crash_after

    async def create_jwt(self, kind: KeyKind) -> str:
        key_id = await self._keys.create_jwt(kind)
        self._left -= 1
        if self._left == 0:
            raise Crash
        return key_id

    async def jwt_signer(self, key_id: str) -> JwtPrivateKey:
        return await self._keys.jwt_signer(key_id)

    async def delete(self, key_id: str) -> None:
        await self._keys.delete(key_id)


class WatchedStore:
    """A real store that counts commits, and whose process dies right after the `crash_after`th."""

    def __init__(self, store: JwtAuthorityStore, *, crash_after: int = 0) -> None:
        self._store = store
        self._left = crash_after
        self.extended: list[datetime] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def load(self) -> Sequence[JwtAuthority]:
        return await self._store.load()

    async def withdrawn(self) -> Collection[str]:
        return await self._store.withdrawn()

    async def record(self, authority: JwtAuthority) -> None:
        await self._store.record(authority)
        self._written()

    async def set_states(self, states: Mapping[str, AuthorityState]) -> None:
        await self._store.set_states(states)
        self._written()

    async def extend(self, authority_id: str, signed_until: datetime) -> None:
        await self.gate.wait()
        await self._store.extend(authority_id, signed_until)
        self.extended.append(signed_until)
        self._written()

    def _written(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise Crash


@dataclass
class Machine:
    """What survives a crash: the disk."""

    database: Database
    folder: Path
    clock: FakeClock

    @property
    def store(self) -> SqlJwtAuthorityStore:
        return SqlJwtAuthorityStore(database=self.database)

    @property
    def keys(self) -> SealedKeyManager:
        return SealedKeyManager(keys=DiskKeys(self.folder), trust_domain=A_TEST, sealer=KekSealer(bytes(32)))

    def key_ids(self) -> set[str]:
        return {file.stem for file in self.folder.iterdir()}

    def authorities(self, **change: Any) -> JwtAuthorities:
        parts: dict[str, Any] = {"keys": self.keys, "store": self.store, "kind": KeyKind.EC_P256}
        return JwtAuthorities(clock=self.clock, lifetime=LIFETIME, **(parts | change))

    async def started(self, **change: Any) -> JwtAuthorities:
        authorities = self.authorities(**change)
        await authorities.start()
        return authorities


@pytest.fixture
def machine(database: Database, tmp_path: Path, clock: FakeClock) -> Machine:
    return Machine(database, tmp_path / "keys", clock)


def states(authorities: JwtAuthorities) -> dict[str, AuthorityState]:
    return {each.id: each.state for each in authorities.authorities()}


@pytest.mark.invariant(12)
@pytest.mark.spec("JWT-26")
async def test_the_first_start_makes_a_key_and_every_later_one_goes_on_with_it(machine: Machine) -> None:
    first = await machine.started()
    (made,) = first.authorities()
    assert (made.state, made.not_before, made.not_after) == (AuthorityState.ACTIVE, NOW, NOW + LIFETIME)
    assert isinstance(made.public_key, ec.EllipticCurvePublicKey)
    assert first.published() == {made.kid: first.signing().key.public_key()}
    again = await machine.started()
    assert again.authorities() == (made,)
    assert again.signing().key.public_key() == made.public_key


async def test_a_key_can_be_rsa_for_validators_that_know_no_other(machine: Machine) -> None:
    tokens = await machine.started(kind=KeyKind.RSA_2048)
    key = tokens.signing().key
    assert isinstance(key, rsa.RSAPrivateKey)
    assert key.key_size == 2048
    (again,) = (await machine.started()).authorities()
    assert again.public_key == key.public_key(), "the setting is for keys that are made from now on"
    with pytest.raises(FailedPrecondition) as refused:
        await machine.keys.signer(again.key_id, KeyPurpose.ISSUER)
    assert refused.value.reason is Reason.KEY_UNSEALABLE, "a key for tokens signs no certificate"


@pytest.mark.invariant(3)
@pytest.mark.spec("JWT-30")
async def test_a_prepared_key_is_published_and_signs_nothing_until_it_is_activated(machine: Machine) -> None:
    tokens = await machine.started()
    (old,) = tokens.authorities()
    await tokens.prepare(NEXT)
    new = tokens.authorities()[-1]
    assert tokens.published().keys() == {old.kid, new.kid}
    for each in (tokens, await machine.started()):
        assert each.signing().authority.id == old.id
    await tokens.activate(NEXT, taints=False)
    for each in (tokens, await machine.started()):
        assert each.signing().authority.id == NEXT
        assert states(each) == {old.id: AuthorityState.OLD, NEXT: AuthorityState.ACTIVE}
        assert each.published().keys() == {old.kid, new.kid}, "tokens of the old key live"
    await tokens.drop([old.id, NEXT])
    for each in (tokens, await machine.started()):
        assert states(each) == {NEXT: AuthorityState.ACTIVE}, "what signs is never dropped"
        assert each.published().keys() == {new.kid}
    assert machine.key_ids() == {new.key_id}


async def test_in_an_emergency_all_others_are_tainted(machine: Machine) -> None:
    tokens = await machine.started()
    (first,) = tokens.authorities()
    await tokens.prepare("2" * 32)
    await tokens.activate("2" * 32, taints=False)
    await tokens.prepare(NEXT)
    await tokens.activate(NEXT, taints=True)
    wanted = {first.id: AuthorityState.TAINTED, "2" * 32: AuthorityState.TAINTED, NEXT: AuthorityState.ACTIVE}
    assert states(tokens) == wanted
    await tokens.activate(NEXT, taints=True)
    assert states(await machine.started()) == wanted


async def test_a_prepared_key_that_waited_for_half_of_its_life_is_made_anew_under_another_kid(machine: Machine) -> None:
    tokens = await machine.started()
    await tokens.prepare(NEXT)
    before = tokens.authorities()[-1]
    machine.clock.leap((LIFETIME / 2).total_seconds() - 1)
    await tokens.prepare(NEXT)
    assert tokens.authorities()[-1] == before
    machine.clock.leap(1)
    await tokens.prepare(NEXT)
    after = tokens.authorities()[-1]
    assert (after.id, after.not_after) == (NEXT, machine.clock.now() + LIFETIME)
    assert before.kid not in tokens.published()
    assert [each.kid for each in (await machine.started()).authorities()] == list(tokens.published())


@pytest.mark.invariant(12)
@pytest.mark.parametrize("is_prepared", [True, False])
async def test_a_key_that_ended_while_the_server_was_away_is_no_outage(machine: Machine, *, is_prepared: bool) -> None:
    tokens = await machine.started()
    (old,) = tokens.authorities()
    machine.clock.leap((LIFETIME - MINUTE).total_seconds())
    if is_prepared:
        await tokens.prepare(NEXT)
    machine.clock.leap(MINUTE.total_seconds())
    with pytest.raises(Unavailable) as refused:
        tokens.signing()
    assert refused.value.reason is Reason.ISSUER_UNAVAILABLE
    again = await machine.started()
    assert again.signing().authority.id != old.id
    assert (again.signing().authority.id == NEXT) == is_prepared
    assert not again.has_ended(machine.clock.now()), "validators whose clocks are behind still take its last token"
    machine.clock.leap(LEEWAY.total_seconds())
    assert again.has_ended(machine.clock.now())
    await again.drop_ended(machine.clock.now())
    assert old.id not in states(again)


@pytest.mark.invariant(12)
@pytest.mark.parametrize("dying_in", ["keys", "store"])
async def test_a_start_and_a_change_that_die_at_any_write_can_be_done_again(machine: Machine, dying_in: str) -> None:
    async def change(tokens: JwtAuthorities) -> None:
        await tokens.start()
        old = tokens.signing().authority.id
        await tokens.prepare(NEXT)
        await tokens.activate(NEXT, taints=False)
        if old != NEXT:
            await tokens.drop([old])

    for crash_after in range(1, 10):
        keys, store = machine.keys, machine.store
        dying = (
            {"keys": CrashingKeys(keys, crash_after=crash_after)}
            if dying_in == "keys"
            else {"store": WatchedStore(store, crash_after=crash_after)}
        )
        try:
            await change(machine.authorities(**dying))
        except Crash:
            continue
        break
    else:
        pytest.fail("it never came through")
    assert crash_after > 1
    again = await machine.started()
    assert again.signing().authority.id == NEXT


class TestTheLatestEndIsDurableBeforeATokenIsHandedOut:
    async def test_also_when_the_process_dies_right_after(self, machine: Machine) -> None:
        tokens = await machine.started(store=WatchedStore(machine.store))
        until = NOW + 5 * MINUTE
        await tokens.reserve(tokens.signing(), until)
        (known,) = await machine.store.load()
        assert known.signed_until is not None
        assert known.signed_until >= until
        (again,) = (await machine.started()).authorities()
        assert again.signed_until == known.signed_until
        assert again.needed_until == known.signed_until + LEEWAY

    async def test_and_one_that_dies_in_the_commit_has_handed_out_nothing(self, machine: Machine) -> None:
        await machine.started()
        tokens = await machine.started(store=WatchedStore(machine.store, crash_after=1))
        with pytest.raises(Crash):
            await tokens.reserve(tokens.signing(), NOW + 5 * MINUTE)
        (known,) = await machine.store.load()
        assert known.signed_until is not None, "written, and nobody has the token: the drain is longer than needed"

    async def test_most_need_no_commit_and_those_of_one_moment_share_one(self, machine: Machine) -> None:
        store = WatchedStore(machine.store)
        tokens = await machine.started(store=store)
        store.gate.clear()
        waiting = [
            asyncio.create_task(tokens.reserve(tokens.signing(), NOW + timedelta(seconds=300 + each)))
            for each in range(100)
        ]
        await asyncio.sleep(0)
        assert not any(each.done() for each in waiting), "none is handed out before"
        store.gate.set()
        await asyncio.gather(*waiting)
        first, last = NOW + timedelta(seconds=300), NOW + timedelta(seconds=399)
        assert store.extended == [first + AHEAD, last + AHEAD], "whoever came during the first commit shares the second"
        for second in range(400, 430):
            await tokens.reserve(tokens.signing(), NOW + timedelta(seconds=second))
        assert len(store.extended) == 2
        await tokens.reserve(tokens.signing(), NOW + timedelta(seconds=430))
        assert len(store.extended) == 3
        await tokens.reserve(tokens.signing(), NOW + LIFETIME)
        assert store.extended[-1] == NOW + LIFETIME, "no token outlives its key, so nothing is written beyond its end"

    @pytest.mark.parametrize("asks_again", [True, False])
    async def test_a_jump_of_the_clock_ahead_makes_no_later_drain_long(
        self, machine: Machine, *, asks_again: bool
    ) -> None:
        store = WatchedStore(machine.store)
        tokens = await machine.started(store=store)
        store.gate.clear()
        jumped = NOW + 2 * DAY
        waiting = [asyncio.create_task(tokens.reserve(tokens.signing(), jumped))]
        await asyncio.sleep(0)  # and one that comes during the commit, and finds itself reserved after it
        waiting.append(asyncio.create_task(tokens.reserve(tokens.signing(), jumped)))
        await asyncio.sleep(0)
        store.gate.set()
        await asyncio.gather(*waiting)
        if asks_again:
            await tokens.reserve(tokens.signing(), jumped)
        await tokens.prepare(NEXT)
        await tokens.activate(NEXT, taints=False)
        await tokens.reserve(tokens.signing(), NOW + MINUTE)
        assert store.extended == [jumped + AHEAD, NOW + MINUTE + AHEAD]

    async def test_a_store_that_fails_refuses_and_is_asked_again(self, machine: Machine) -> None:
        class Failing(WatchedStore):
            async def extend(self, authority_id: str, signed_until: datetime) -> None:
                if not self.gate.is_set():
                    raise Unavailable(Reason.STORE_UNAVAILABLE, "the disk is full")
                await super().extend(authority_id, signed_until)

        store = Failing(machine.store)
        tokens = await machine.started(store=store)
        store.gate.clear()
        for _ in range(2):
            with pytest.raises(Unavailable) as refused:
                await tokens.reserve(tokens.signing(), NOW + MINUTE)
            assert refused.value.reason is Reason.STORE_UNAVAILABLE
        store.gate.set()
        await tokens.reserve(tokens.signing(), NOW + MINUTE)

    @pytest.mark.parametrize("is_known", [True, False])
    async def test_a_key_that_was_replaced_while_it_signed_hands_out_nothing_more(
        self, machine: Machine, *, is_known: bool
    ) -> None:
        """Else a token of a key that was waited for could come after nobody waited for it any more."""
        store = WatchedStore(machine.store)
        tokens = await machine.started(store=store)
        signer, until = tokens.signing(), NOW + MINUTE
        if is_known:
            await tokens.reserve(signer, until)
        store.gate.clear()
        reserving = asyncio.create_task(tokens.reserve(signer, until if is_known else until + DAY))
        if not is_known:
            await asyncio.sleep(0)
        await tokens.prepare(NEXT)
        await tokens.activate(NEXT, taints=False)
        store.gate.set()
        if is_known:
            await reserving  # it needed no commit and was handed out before
            reserving = asyncio.create_task(tokens.reserve(signer, until))
        with pytest.raises(Unavailable) as refused:
            await reserving
        assert refused.value.reason is Reason.ISSUER_UNAVAILABLE

    async def test_what_is_recorded_never_falls(self, machine: Machine) -> None:
        tokens = await machine.started()
        (known,) = tokens.authorities()
        await machine.store.extend(known.id, NOW + 2 * MINUTE)
        await machine.store.extend(known.id, NOW + MINUTE)
        assert (await machine.store.load())[0].signed_until == NOW + 2 * MINUTE


def test_a_signer_does_not_show_its_key() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    authority = JwtAuthority(
        id="i",
        state=AuthorityState.ACTIVE,
        key_id="k",
        public_key=key.public_key(),
        not_before=NOW,
        not_after=NOW + DAY,
    )
    assert "PrivateKey" not in repr(JwtSigner(authority=authority, key=key))


@pytest.mark.invariant(11)
@pytest.mark.spec("BUNDLE-05")
async def test_the_sequence_rises_with_either_half_and_each_half_has_its_own(machine: Machine) -> None:
    store = SqlAuthorityStore(database=machine.database, trust_domain=A_TEST)

    async def numbers(x509: str, jwt: str) -> tuple[int, int, int]:
        found = await store.bundle_sequences(x509=x509, jwt=jwt)
        return found.bundle, found.x509, found.jwt

    asked: list[tuple[Callable[[], Awaitable[tuple[int, int, int]]], tuple[int, int, int]]] = [
        (lambda: numbers("a", "k"), (1, 1, 1)),
        (lambda: numbers("a", "k"), (1, 1, 1)),
        (lambda: numbers("a", "kl"), (2, 1, 2)),
        (lambda: numbers("ab", "kl"), (3, 3, 2)),
        (lambda: numbers("b", "l"), (4, 4, 4)),
        (lambda: numbers("b", "kl"), (5, 4, 5)),
        (lambda: numbers("b", "kl"), (5, 4, 5)),
    ]
    for ask, expected in asked:
        assert await ask() == expected
