"""Authorities across restarts, crashes and renewals: the same root, an issuer at all times, an honest sequence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca.authority.certificates import build_root
from ca.authority.manager import AuthorityManager
from ca.authority.model import Authority, AuthorityKind, AuthorityState
from ca.authority.ports import AuthorityStore, KeyManager
from ca.authority.self_signed import SelfSignedUpstream
from ca.keys.disk import DiskKeys
from ca.keys.manager import SealedKeyManager
from ca.keys.sealing import KeyPurpose, Sealer
from ca.store.authorities import SqlAuthorityStore
from ca.store.database import Database
from citadel.bundle import TrustBundle
from citadel.errors import FailedPrecondition, Reason, Unavailable
from citadel.spiffe import TrustDomain
from tests.clock import FakeClock
from tests.csrs import new_key
from tests.unit.ca.values import A_TEST, NOW

DAY = timedelta(days=1)
HALF_OF_AN_ISSUER = (7 * DAY + timedelta(seconds=10)).total_seconds() / 2  # its life begins ten seconds back


class Crash(BaseException):
    """The process dies here: nothing catches it."""


class CrashingKeys:
    """A real key manager whose process dies right after the `crash_after`th key was made."""

    def __init__(self, keys: KeyManager, *, crash_after: int) -> None:
        self._keys = keys
        self._left = crash_after

    async def create(self, purpose: KeyPurpose) -> str:
        key_id = await self._keys.create(purpose)
        self._left -= 1
        if self._left == 0:
            raise Crash
        return key_id

    async def signer(self, key_id: str, purpose: KeyPurpose) -> ec.EllipticCurvePrivateKey:
        return await self._keys.signer(key_id, purpose)

    async def delete(self, key_id: str) -> None:
        await self._keys.delete(key_id)


class CrashingStore:
    """A real store whose process dies right after the `crash_after`th authority was recorded."""

    def __init__(self, store: AuthorityStore, *, crash_after: int) -> None:
        self._store = store
        self._left = crash_after

    async def load(self) -> Sequence[Authority]:
        return await self._store.load()

    async def record(self, authority: Authority, *, replaces: Sequence[str] = ()) -> None:
        await self._store.record(authority, replaces=replaces)
        self._left -= 1
        if self._left == 0:
            raise Crash

    async def set_states(self, states: Mapping[str, AuthorityState]) -> None:
        await self._store.set_states(states)

    async def bundle_sequence(self, digest: str) -> int:
        return await self._store.bundle_sequence(digest)


@dataclass
class Machine:
    """What survives a crash: the disk. Each `manager()` is another process on it."""

    database: Database
    folder: Path
    clock: FakeClock

    @property
    def store(self) -> SqlAuthorityStore:
        return SqlAuthorityStore(database=self.database, trust_domain=A_TEST)

    @property
    def keys(self) -> SealedKeyManager:
        return SealedKeyManager(keys=DiskKeys(self.folder), trust_domain=A_TEST, sealer=Sealer(bytes(32)))

    def key_ids(self) -> set[str]:
        return {file.stem for file in self.folder.iterdir()}

    def manager(self, *, keys: KeyManager | None = None, store: AuthorityStore | None = None) -> AuthorityManager:
        common: dict[str, Any] = {
            "trust_domain": A_TEST,
            "keys": keys or self.keys,
            "store": store or self.store,
            "clock": self.clock,
            "backdate": timedelta(seconds=10),
        }
        upstream = SelfSignedUpstream(root_lifetime=365 * DAY, **common)
        return AuthorityManager(upstream=upstream, issuer_lifetime=7 * DAY, **common)

    async def started(self) -> AuthorityManager:
        manager = self.manager()
        await manager.start()
        return manager


@pytest.fixture
def machine(database: Database, tmp_path: Path, clock: FakeClock) -> Machine:
    return Machine(database, tmp_path / "keys", clock)


@asynccontextmanager
async def renewing(manager: AuthorityManager) -> AsyncIterator[None]:
    task = asyncio.create_task(manager.run())
    try:
        yield
        assert not task.done(), "the renewal goes on for ever"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    """Real work (disk, SQL) goes on in threads that the fake clock does not wait for."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def is_signed_by(child: x509.Certificate, parent: x509.Certificate) -> bool:
    child.verify_directly_issued_by(parent)
    return True


async def test_the_first_start_makes_a_root_and_an_issuer_under_it(machine: Machine) -> None:
    manager = await machine.started()
    root, issuer = manager.authorities()
    assert (root.kind, issuer.kind) == (AuthorityKind.ROOT, AuthorityKind.ISSUER)
    assert root.state is issuer.state is AuthorityState.ACTIVE
    assert issuer.parent_id == root.id
    assert is_signed_by(issuer.certificate, root.certificate)
    assert manager.issuing().key.public_key() == issuer.certificate.public_key()
    assert manager.bundle().x509_authorities == (root.certificate,)
    assert manager.bundle().sequence == 1
    assert (root.not_after, issuer.not_after) == (NOW + 365 * DAY, NOW + 7 * DAY)


@pytest.mark.invariant(11, 12)
@pytest.mark.spec("BUNDLE-05")
async def test_a_restart_goes_on_with_the_same_root_issuer_and_sequence(machine: Machine) -> None:
    first = await machine.started()
    for _ in range(3):
        again = await machine.started()
        assert again.authorities() == first.authorities()
        assert again.bundle() == first.bundle()
        assert again.bundle().to_json() == first.bundle().to_json()
        assert again.issuing().key.public_key() == first.issuing().key.public_key()


@pytest.mark.invariant(12)
@pytest.mark.parametrize(
    ("dying_in", "crash_after", "makes_a_new_root"),
    [
        pytest.param("keys", 1, True, id="the root's key is made, its row is not"),
        pytest.param("store", 1, False, id="the root is recorded, no issuer exists"),
        pytest.param("keys", 2, False, id="the issuer's key is made, its row is not"),
        pytest.param("store", 2, False, id="the issuer is recorded, the bundle is not settled"),
    ],
)
async def test_a_crash_at_any_point_of_the_first_start_is_gone_on_from(
    machine: Machine, dying_in: str, crash_after: int, *, makes_a_new_root: bool
) -> None:
    keys: KeyManager = machine.keys
    store: AuthorityStore = machine.store
    if dying_in == "keys":
        keys = CrashingKeys(keys, crash_after=crash_after)
    else:
        store = CrashingStore(store, crash_after=crash_after)
    with pytest.raises(Crash):
        await machine.manager(keys=keys, store=store).start()
    recorded = await machine.store.load()
    manager = await machine.started()
    root, issuer = manager.authorities()
    assert (root not in recorded) == makes_a_new_root
    assert len([a for a in await machine.store.load() if a.kind is AuthorityKind.ROOT]) == 1
    assert is_signed_by(issuer.certificate, root.certificate)
    assert manager.issuing().key.public_key() == issuer.certificate.public_key()
    assert manager.bundle().sequence == 1
    assert (await machine.started()).authorities() == manager.authorities()


@pytest.mark.invariant(12)
@pytest.mark.parametrize("dying_in", ["keys", "store"])
async def test_a_crash_during_a_renewal_is_gone_on_from(machine: Machine, dying_in: str) -> None:
    first = await machine.started()
    keys: KeyManager = machine.keys
    store: AuthorityStore = machine.store
    if dying_in == "keys":
        keys = CrashingKeys(keys, crash_after=1)
    else:
        store = CrashingStore(store, crash_after=1)
    dying = machine.manager(keys=keys, store=store)
    await dying.start()
    task = asyncio.create_task(dying.run())
    await machine.clock.advance(HALF_OF_AN_ISSUER)
    with pytest.raises(Crash):
        await task
    after = await machine.started()
    was_recorded = dying_in == "store"
    assert (after.issuing().authority != first.issuing().authority) == was_recorded
    active = [a for a in await machine.store.load() if a.kind is AuthorityKind.ISSUER and _is_active(a)]
    assert active == [after.issuing().authority]


def _is_active(authority: Authority) -> bool:
    return authority.state is AuthorityState.ACTIVE


@pytest.mark.invariant(6)
async def test_the_issuer_is_renewed_at_half_of_its_life_and_its_old_key_forgotten(machine: Machine) -> None:
    manager = await machine.started()
    root, first = manager.authorities()
    async with renewing(manager):
        await machine.clock.advance(HALF_OF_AN_ISSUER - 1)
        assert manager.issuing().authority == first
        await machine.clock.advance(1)
        await until(lambda: manager.issuing().authority != first)
        await until(lambda: first.key_id not in machine.key_ids())
    second = manager.issuing().authority
    assert is_signed_by(second.certificate, root.certificate)
    assert second.certificate.subject != first.certificate.subject
    assert machine.key_ids() == {root.key_id, second.key_id}
    states = {a.id: a.state for a in await machine.store.load()}
    assert states == {
        root.id: AuthorityState.ACTIVE,
        first.id: AuthorityState.OLD,
        second.id: AuthorityState.ACTIVE,
    }
    assert (await machine.started()).issuing().authority == second


@pytest.mark.invariant(5)
async def test_while_renewal_fails_the_old_issuer_serves_and_it_is_tried_again(machine: Machine) -> None:
    class FailingKeys(CrashingKeys):
        fails = False

        async def create(self, purpose: KeyPurpose) -> str:
            if self.fails:
                raise Unavailable(Reason.STORE_UNAVAILABLE, "the disk is full")
            return await super().create(purpose)

    keys = FailingKeys(machine.keys, crash_after=100)
    manager = machine.manager(keys=keys)
    await manager.start()
    first = manager.issuing().authority
    keys.fails = True
    async with renewing(manager):
        await machine.clock.advance(HALF_OF_AN_ISSUER + 60)
        assert manager.issuing().authority == first
        keys.fails = False
        await machine.clock.advance(10)
        await until(lambda: manager.issuing().authority != first)


@pytest.mark.invariant(5)
async def test_an_old_key_that_cannot_be_deleted_does_not_end_the_renewal(machine: Machine) -> None:
    manager = await machine.started()
    first = manager.issuing().authority
    file = machine.folder / f"{first.key_id}.sealed"
    file.unlink()
    file.mkdir()  # a disk that refuses
    async with renewing(manager):
        await machine.clock.advance(HALF_OF_AN_ISSUER)
        await until(lambda: manager.issuing().authority != first)
        second = manager.issuing().authority
        await until(lambda: machine.clock.is_awaited)  # the key that cannot be deleted was tried
        await machine.clock.advance(HALF_OF_AN_ISSUER + 60)
        await until(lambda: manager.issuing().authority != second)


async def test_an_issuer_that_ended_while_the_server_was_away_is_replaced_at_the_start(machine: Machine) -> None:
    first = await machine.started()
    await machine.clock.advance((8 * DAY).total_seconds())
    with pytest.raises(Unavailable) as refused:
        first.issuing()
    assert refused.value.reason is Reason.ISSUER_UNAVAILABLE
    again = await machine.started()
    assert again.issuing().authority.not_after == machine.clock.now() + 7 * DAY
    assert again.bundle() == first.bundle()


@pytest.mark.invariant(6)
async def test_an_issuer_never_outlives_its_root(machine: Machine) -> None:
    root = (await machine.started()).authorities()[0]
    await machine.clock.advance((363 * DAY).total_seconds())
    assert (await machine.started()).issuing().authority.not_after == root.not_after
    await machine.clock.advance((2 * DAY).total_seconds())
    with pytest.raises(Unavailable) as refused:
        await machine.started()
    assert refused.value.reason is Reason.ISSUER_UNAVAILABLE


async def test_before_the_start_there_is_nothing_to_sign_with_or_to_trust(machine: Machine) -> None:
    manager = machine.manager()
    for ask in (manager.issuing, manager.bundle):
        with pytest.raises(Unavailable):
            ask()


@pytest.mark.invariant(12)
async def test_another_key_encryption_key_stops_the_start_and_changes_nothing(machine: Machine) -> None:
    first = await machine.started()
    other = SealedKeyManager(keys=DiskKeys(machine.folder), trust_domain=A_TEST, sealer=Sealer(b"\1" * 32))
    with pytest.raises(FailedPrecondition) as refused:
        await machine.manager(keys=other).start()
    assert refused.value.reason is Reason.KEY_UNSEALABLE
    assert (await machine.started()).authorities() == first.authorities()


@pytest.mark.invariant(11)
@pytest.mark.spec("BUNDLE-05")
async def test_the_sequence_rises_exactly_when_the_content_changes(machine: Machine) -> None:
    roots = [
        build_root(trust_domain=A_TEST, key=new_key(), now=NOW, lifetime=365 * DAY, backdate=timedelta(seconds=10))
        for _ in range(2)
    ]

    async def sequence_of(*authorities: x509.Certificate) -> int:
        bundle = TrustBundle(trust_domain=A_TEST, x509_authorities=authorities)
        return await machine.store.bundle_sequence(bundle.x509_digest())

    assert await sequence_of(roots[0]) == 1
    assert await sequence_of(roots[0]) == 1
    assert await sequence_of(*roots) == 2
    assert await sequence_of(*reversed(roots)) == 2, "the order is no content"
    assert await sequence_of(roots[1]) == 3
    assert await sequence_of(roots[0]) == 4, "never back, though the content was there before"


@pytest.mark.invariant(11)
@pytest.mark.spec("BUNDLE-05", "BUNDLE-18")
async def test_a_second_root_shows_in_the_bundle_of_the_next_start(machine: Machine) -> None:
    first = await machine.started()
    key_id = await machine.keys.create(KeyPurpose.ROOT)
    key = await machine.keys.signer(key_id, KeyPurpose.ROOT)
    added = Authority(
        id="2" * 32,
        kind=AuthorityKind.ROOT,
        state=AuthorityState.PREPARED,
        key_id=key_id,
        certificate=build_root(
            trust_domain=A_TEST, key=key, now=NOW, lifetime=365 * DAY, backdate=timedelta(seconds=10)
        ),
        parent_id=None,
        created_at=NOW + timedelta(seconds=1),
    )
    await machine.store.record(added)
    again = await machine.started()
    assert set(again.bundle().x509_authorities) == {*first.bundle().x509_authorities, added.certificate}
    assert again.bundle().sequence == 2
    assert again.issuing().authority == first.issuing().authority


async def test_a_renewal_that_fails_leaves_no_key_behind(machine: Machine) -> None:
    manager = machine.manager()
    await manager.start()
    before = machine.key_ids()
    machine.clock.jump(366 * DAY)  # the root has ended: every try must fail
    with pytest.raises(Unavailable):
        await manager._renew()
    assert machine.key_ids() == before


async def test_a_clock_that_jumps_ahead_is_noticed_within_half_a_minute(machine: Machine) -> None:
    manager = machine.manager()
    await manager.start()
    first = manager.issuing().authority.id
    running = asyncio.create_task(manager.run())
    await machine.clock.advance(10)
    machine.clock.jump(4 * DAY)
    await machine.clock.advance(31)
    for _ in range(200):  # the renewal goes through worker threads
        if manager.issuing().authority.id != first:
            break
        await asyncio.sleep(0.01)
    running.cancel()
    assert manager.issuing().authority.id != first


async def test_the_data_of_another_trust_domain_is_named_and_left_alone(machine: Machine) -> None:
    await machine.manager().start()
    before = machine.key_ids()
    other = TrustDomain("other.test")
    foreign = SelfSignedUpstream(
        trust_domain=other,
        keys=machine.keys,
        store=SqlAuthorityStore(database=machine.database, trust_domain=other),
        clock=machine.clock,
        root_lifetime=365 * DAY,
        backdate=timedelta(seconds=10),
    )
    with pytest.raises(FailedPrecondition) as refused:
        await foreign.start()
    assert refused.value.reason is Reason.DATA_DIR_FOREIGN
    assert "spiffe://a.test" in refused.value.message
    assert machine.key_ids() == before
