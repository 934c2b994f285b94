"""Authorities across restarts, crashes and renewals: the same root, an issuer at all times, an honest sequence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import text

from ca.authority.certificates import build_root
from ca.authority.manager import AuthorityManager
from ca.authority.model import Authority, AuthorityKind, AuthorityState
from ca.authority.ports import AuthorityStore, BundleSequences, KeyManager
from ca.authority.self_signed import SelfSignedUpstream
from ca.authority.vouching import Vouching
from ca.keys.disk import DiskKeys
from ca.keys.manager import SealedKeyManager
from ca.keys.sealing import KekSealer, KeyPurpose
from ca.revocation.lists import RevocationLists
from ca.store.audit import SqlAuditLog
from ca.store.authorities import SqlAuthorityStore
from ca.store.database import Database
from ca.store.revocations import SqlRevocations
from ca.store.successions import SqlSuccessions
from citadel.bundle import TrustBundle
from citadel.errors import FailedPrecondition, Reason, Unavailable
from citadel.spiffe import TrustDomain
from citadel.succession import heirs_of
from tests.clock import FakeClock
from tests.csrs import new_key
from tests.unit.ca.tokens import own_bundle
from tests.unit.ca.values import A_TEST, NOW

DAY = timedelta(days=1)
LASTS = 7 * DAY  # what a root says of its heirs


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
    """A real store whose process dies right after the `crash_after`th change."""

    def __init__(self, store: AuthorityStore, *, crash_after: int) -> None:
        self._store = store
        self._left = crash_after

    async def load(self) -> Sequence[Authority]:
        return await self._store.load()

    async def record(self, authority: Authority) -> None:
        await self._store.record(authority)
        self._written()

    async def set_states(self, states: Mapping[str, AuthorityState]) -> None:
        await self._store.set_states(states)
        self._written()

    async def tainted_roots(self) -> Sequence[x509.Certificate]:
        return await self._store.tainted_roots()

    def _written(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise Crash

    async def bundle_sequences(self, *, x509: str, jwt: str) -> BundleSequences:
        return await self._store.bundle_sequences(x509=x509, jwt=jwt)


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
        return SealedKeyManager(keys=DiskKeys(self.folder), trust_domain=A_TEST, sealer=KekSealer(bytes(32)))

    def key_ids(self) -> set[str]:
        return {file.stem for file in self.folder.iterdir()}

    def manager(self, *, keys: KeyManager | None = None, store: AuthorityStore | None = None) -> AuthorityManager:
        common: dict[str, Any] = {
            "keys": keys or self.keys,
            "store": store or self.store,
            "clock": self.clock,
            "backdate": timedelta(seconds=10),
        }
        vouching = Vouching(
            trust_domain=A_TEST,
            keys=common["keys"],
            store=SqlSuccessions(database=self.database, trust_domain=A_TEST),
            clock=self.clock,
            lasts=LASTS,
        )
        upstream = SelfSignedUpstream(trust_domain=A_TEST, vouching=vouching, root_lifetime=365 * DAY, **common)
        apart = SealedKeyManager(
            keys=DiskKeys(self.folder.with_name("keys of tokens")), trust_domain=A_TEST, sealer=KekSealer(bytes(32))
        )
        own = own_bundle(common["store"], database=self.database, keys=apart, clock=self.clock)
        lists = RevocationLists(keys=common["keys"], store=SqlRevocations(database=self.database))
        acts = SqlAuditLog(database=self.database)
        return AuthorityManager(own=own, upstream=upstream, lists=lists, acts=acts, issuer_lifetime=7 * DAY, **common)

    async def started(self) -> AuthorityManager:
        manager = self.manager()
        await manager.start()
        return manager


@pytest.fixture
def machine(database: Database, tmp_path: Path, clock: FakeClock) -> Machine:
    return Machine(database, tmp_path / "keys", clock)


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
        pytest.param("store", 2, False, id="the issuer is recorded, and does not sign yet"),
        pytest.param("store", 3, False, id="the issuer signs, the bundle is not settled"),
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


NEXT_ISSUER, NEXT_ROOT = "1" * 32, "2" * 32


async def rotate_issuer(manager: AuthorityManager, old: Authority) -> None:
    await manager.prepare_issuer(NEXT_ISSUER)
    await manager.activate_issuer(NEXT_ISSUER)
    await manager.drop_issuers([old.id])


async def rotate_root(manager: AuthorityManager, old: Authority) -> None:
    await manager.prepare_root(NEXT_ROOT)
    await manager.activate_root(NEXT_ROOT, taints=False)
    await manager.drop_roots([old.parent_id or ""])


@pytest.mark.invariant(3, 12)
async def test_a_prepared_issuer_signs_nothing_until_it_is_activated(machine: Machine) -> None:
    manager = await machine.started()
    root, first = manager.authorities()
    await manager.prepare_issuer(NEXT_ISSUER)
    assert manager.issuing().authority == first
    assert (await machine.started()).issuing().authority == first, "nor after a restart"
    await manager.activate_issuer(NEXT_ISSUER)
    second = manager.issuing().authority
    assert (second.id, second.parent_id, second.state) == (NEXT_ISSUER, root.id, AuthorityState.ACTIVE)
    assert is_signed_by(second.certificate, root.certificate)
    assert second.certificate.subject != first.certificate.subject
    states = {a.id: a.state for a in await machine.store.load()}
    assert states == {
        root.id: AuthorityState.ACTIVE,
        first.id: AuthorityState.OLD,
        second.id: AuthorityState.ACTIVE,
    }
    assert machine.key_ids() == {root.key_id, first.key_id, second.key_id}, "the old one signs its list still"
    await manager.drop_issuers([first.id, second.id])
    assert manager.authorities() == (root, second), "what signs is never dropped"
    assert machine.key_ids() == {root.key_id, second.key_id}
    assert (await machine.started()).authorities() == (root, second)


@pytest.mark.invariant(3, 12)
async def test_a_prepared_root_is_in_the_bundle_and_signs_no_leaf_until_it_is_activated(machine: Machine) -> None:
    manager = await machine.started()
    root, first = manager.authorities()
    await manager.prepare_root(NEXT_ROOT)
    prepared = next(each for each in manager.authorities() if each.id == NEXT_ROOT)
    assert prepared.state is AuthorityState.PREPARED
    assert set(manager.bundle().x509_authorities) == {root.certificate, prepared.certificate}
    assert manager.issuing().authority == first
    await manager.activate_root(NEXT_ROOT, taints=False)
    assert is_signed_by(manager.issuing().authority.certificate, prepared.certificate)
    await manager.drop_roots([root.id])
    assert manager.bundle().x509_authorities == (prepared.certificate,)
    assert machine.key_ids() == {prepared.key_id, manager.issuing().authority.key_id}
    assert manager.bundle().sequence == 3


class TestTheWordOfARootThatGoes:
    """Agents that were away come back by it; see `citadel.succession`."""

    async def test_leads_to_the_root_that_signs_then_also_after_a_restart_and_until_its_end(
        self, machine: Machine
    ) -> None:
        manager = await machine.started()
        first = manager.authorities()[0]
        await rotate_root(manager, manager.issuing().authority)
        for one in (manager, await machine.started()):
            assert _led_from(first, one) == set(one.bundle().x509_authorities)
        await machine.clock.advance(LASTS.total_seconds())
        assert manager.successions() == []
        assert (await machine.started()).successions() == []

    async def test_leads_there_from_the_moment_when_the_new_root_signs(self, machine: Machine) -> None:
        manager = await machine.started()
        first = manager.authorities()[0]
        await manager.prepare_root(NEXT_ROOT)
        assert manager.successions() == []
        await manager.activate_root(NEXT_ROOT, taints=False)
        new = next(each.certificate for each in manager.authorities() if each.id == NEXT_ROOT)
        assert _led_from(first, manager) == {new}

    async def test_of_a_tainted_root_there_is_none(self, machine: Machine) -> None:
        manager = await machine.started()
        first = manager.authorities()[0]
        await manager.prepare_root(NEXT_ROOT)
        await manager.activate_root(NEXT_ROOT, taints=True)
        await manager.drop_roots([first.id])
        assert manager.successions() == []
        assert (await machine.started()).successions() == []

    async def test_nothing_leads_to_a_root_that_was_tainted_since(self, machine: Machine) -> None:
        manager = await machine.started()
        await rotate_root(manager, manager.issuing().authority)
        assert manager.successions()
        await manager.prepare_root("3" * 32)
        await manager.activate_root("3" * 32, taints=True)
        await manager.drop_roots([NEXT_ROOT])
        assert manager.successions() == []
        assert (await machine.started()).successions() == []

    async def test_there_is_none_of_a_root_that_was_taken_back_before_it_signed(self, machine: Machine) -> None:
        manager = await machine.started()
        await manager.prepare_root(NEXT_ROOT)
        await manager.drop_roots([NEXT_ROOT])
        assert manager.successions() == []

    async def test_a_root_whose_key_is_gone_goes_without_one(self, machine: Machine) -> None:
        manager = await machine.started()
        first = manager.authorities()[0]
        await manager.prepare_root(NEXT_ROOT)
        (machine.folder / f"{first.key_id}.sealed").unlink()
        await manager.activate_root(NEXT_ROOT, taints=False)
        await manager.drop_roots([first.id])
        assert manager.successions() == []
        assert next(each.id for each in manager.authorities()) == NEXT_ROOT


def _led_from(root: Authority, manager: AuthorityManager) -> set[x509.Certificate]:
    now = manager.successions()[0].until - timedelta(seconds=1)
    return set(heirs_of([root.certificate], manager.successions(), trust_domain=A_TEST, now=now))


async def test_a_prepared_root_can_be_taken_back_without_a_trace(machine: Machine) -> None:
    manager = await machine.started()
    before, keys = manager.authorities(), machine.key_ids()
    await manager.prepare_root(NEXT_ROOT)
    await manager.drop_roots([NEXT_ROOT])
    assert (manager.authorities(), machine.key_ids()) == (before, keys)
    assert (await machine.started()).authorities() == before


@pytest.mark.invariant(12)
@pytest.mark.parametrize("rotate", [rotate_issuer, rotate_root])
@pytest.mark.parametrize("dying_in", ["keys", "store"])
async def test_a_rotation_that_dies_at_any_write_can_be_done_again(
    machine: Machine, dying_in: str, rotate: Callable[[AuthorityManager, Authority], Awaitable[None]]
) -> None:
    first = (await machine.started()).issuing().authority
    for crash_after in range(1, 10):
        keys: KeyManager = machine.keys
        store: AuthorityStore = machine.store
        if dying_in == "keys":
            keys = CrashingKeys(keys, crash_after=crash_after)
        else:
            store = CrashingStore(store, crash_after=crash_after)
        dying = machine.manager(keys=keys, store=store)
        await dying.start()
        try:
            await rotate(dying, first)
        except Crash:
            continue
        break
    else:
        pytest.fail("it never came through")
    assert crash_after > 1
    after = await machine.started()
    assert after.issuing().authority.id != first.id
    (root,) = (each for each in after.authorities() if each.kind is AuthorityKind.ROOT)
    active = [each for each in after.authorities() if each.kind is AuthorityKind.ISSUER and _is_active(each)]
    assert active == [after.issuing().authority]
    assert is_signed_by(active[0].certificate, root.certificate)
    assert after.bundle().x509_authorities == (root.certificate,)
    assert len(after.successions()) == (rotate is rotate_root)


def _is_active(authority: Authority) -> bool:
    return authority.state is AuthorityState.ACTIVE


@pytest.mark.invariant(5)
async def test_an_old_key_that_cannot_be_deleted_stops_nothing(machine: Machine) -> None:
    manager = await machine.started()
    first = manager.issuing().authority
    await manager.prepare_issuer(NEXT_ISSUER)
    await manager.activate_issuer(NEXT_ISSUER)
    file = machine.folder / f"{first.key_id}.sealed"
    file.unlink()
    file.mkdir()  # a disk that refuses
    await manager.drop_issuers([first.id])
    assert [each.id for each in manager.issuers()] == [NEXT_ISSUER]


async def test_issuers_that_have_ended_are_forgotten(machine: Machine) -> None:
    manager = await machine.started()
    first = manager.issuing().authority
    await machine.clock.advance((3 * DAY).total_seconds())
    await manager.replace_issuer()
    await manager.drop_ended(first.not_after - timedelta(seconds=1))
    assert first.id in [each.id for each in manager.issuers()]
    await manager.drop_ended(first.not_after)
    assert first.id not in [each.id for each in manager.issuers()]
    assert first.key_id not in machine.key_ids()


async def test_an_issuer_that_ended_before_it_was_activated_is_made_anew(machine: Machine) -> None:
    manager = await machine.started()
    await manager.prepare_issuer(NEXT_ISSUER)
    await machine.clock.advance((8 * DAY).total_seconds())
    await manager.activate_issuer(NEXT_ISSUER)
    assert manager.issuing().authority.not_after == machine.clock.now() + 7 * DAY


async def test_under_a_new_root_an_issuer_that_ended_before_it_was_activated_is_made_anew(machine: Machine) -> None:
    manager = await machine.started()
    await manager.prepare_root(NEXT_ROOT)
    await machine.clock.advance((8 * DAY).total_seconds())
    await manager.activate_root(NEXT_ROOT, taints=False)
    signs = manager.issuing().authority
    assert (signs.parent_id, signs.not_after) == (NEXT_ROOT, machine.clock.now() + 7 * DAY)


async def test_an_issuer_that_ended_while_the_server_was_away_is_replaced_at_the_start(machine: Machine) -> None:
    first = await machine.started()
    await machine.clock.advance((8 * DAY).total_seconds())
    with pytest.raises(Unavailable) as refused:
        first.issuing()
    assert refused.value.reason is Reason.ISSUER_UNAVAILABLE
    again = await machine.started()
    assert again.issuing().authority.not_after == machine.clock.now() + 7 * DAY
    assert again.bundle().x509_authorities == first.bundle().x509_authorities
    assert again.sequences().x509 == first.sequences().x509, (
        "the key for tokens has ended too, and that is not waited for"
    )


@pytest.mark.invariant(6)
async def test_an_issuer_never_outlives_its_root(machine: Machine) -> None:
    root = (await machine.started()).authorities()[0]
    await machine.clock.advance((363 * DAY).total_seconds())
    assert (await machine.started()).issuing().authority.not_after == root.not_after
    await machine.clock.advance((2 * DAY).total_seconds())
    manager = await machine.started()
    (another,) = [each for each in manager.authorities() if each.kind is AuthorityKind.ROOT]
    assert another.id != root.id
    assert manager.issuing().authority.parent_id == another.id


async def test_before_the_start_there_is_nothing_to_sign_with_or_to_trust(machine: Machine) -> None:
    manager = machine.manager()
    for ask in (manager.issuing, manager.bundle):
        with pytest.raises(Unavailable):
            ask()


@pytest.mark.invariant(12)
async def test_another_key_encryption_key_stops_the_start_and_changes_nothing(machine: Machine) -> None:
    first = await machine.started()
    other = SealedKeyManager(keys=DiskKeys(machine.folder), trust_domain=A_TEST, sealer=KekSealer(b"\1" * 32))
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
        return (await machine.store.bundle_sequences(x509=bundle.x509_digest(), jwt="")).bundle

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


@pytest.mark.invariant(11)
async def test_a_change_of_keys_that_fails_half_way_is_in_the_bundle_soon(machine: Machine) -> None:
    manager = await machine.started()

    async def fail() -> None:
        async with manager.changing_jwt() as jwt:
            await jwt.prepare("1" * 32)
            raise Unavailable(Reason.STORE_UNAVAILABLE, "the disk is full")

    with pytest.raises(Unavailable):
        await fail()
    assert len(manager.bundle().jwt_authorities) == 1
    await manager.drop_ended(machine.clock.now())
    assert manager.bundle().jwt_authorities == manager.jwt.published()
    assert manager.sequences().bundle == 2


@pytest.mark.invariant(3, 11)
async def test_a_server_that_knew_no_keys_for_tokens_gets_one_and_no_proxy_is_waited_for(
    store_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    database = Database.open(store_url)
    await database.migrate(revision="0008")
    machine = Machine(database, tmp_path / "keys", clock)
    root = build_root(trust_domain=A_TEST, key=new_key(), now=NOW, lifetime=DAY, backdate=timedelta(0))
    digest = TrustBundle(trust_domain=A_TEST, x509_authorities=(root,)).x509_digest()
    async with database.transaction() as connection:
        known = "INSERT INTO bundle (trust_domain, sequence, digest) VALUES ('a.test', 7, :digest)"
        await connection.execute(text(known), {"digest": digest})
    await database.migrate()
    found = await machine.store.bundle_sequences(x509=digest, jwt="of the first key")
    assert (found.bundle, found.x509, found.jwt) == (8, 7, 8)
    await database.close()


async def test_a_renewal_that_fails_leaves_no_key_behind(machine: Machine) -> None:
    manager = machine.manager()
    await manager.start()
    before = machine.key_ids()
    machine.clock.jump(366 * DAY)  # the root has ended: every try must fail
    with pytest.raises(Unavailable):
        await manager.replace_issuer()
    assert machine.key_ids() == before


async def test_the_data_of_another_trust_domain_is_named_and_left_alone(machine: Machine) -> None:
    await machine.manager().start()
    before = machine.key_ids()
    other = TrustDomain("other.test")
    foreign = SelfSignedUpstream(
        trust_domain=other,
        keys=machine.keys,
        vouching=Vouching(
            trust_domain=other,
            keys=machine.keys,
            store=SqlSuccessions(database=machine.database, trust_domain=other),
            clock=machine.clock,
            lasts=LASTS,
        ),
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
