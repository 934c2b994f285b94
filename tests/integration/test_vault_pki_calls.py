"""What upstream `vault` asks of a real OpenBao, and what it finds again after it was killed half way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.authority.certificates import build_root
from ca.authority.fresh_root import FreshRoot
from ca.authority.model import Authority, AuthorityKind, AuthorityState
from ca.authority.vouching import Vouching
from ca.keys.disk import DiskKeys
from ca.keys.kinds import KeyKind
from ca.keys.manager import SealedKeyManager
from ca.keys.sealing import KekSealer
from ca.store.audit import SqlAuditLog
from ca.store.authorities import SqlAuthorityStore
from ca.store.database import Database
from ca.store.successions import SqlSuccessions
from ca.upstream.roots import ListedRoots
from ca.upstream.settings import VaultPkiSettings
from ca.upstream.vault.authority import VaultUpstream
from ca.upstream.vault.engine import PkiEngine
from ca.upstream.vault.rooting import RootTerms, VaultRooting
from ca.upstream.vault.signing import VaultSigning
from ca.upstream.vault.view import EngineView, Look
from ca.vault.client import VaultClient
from citadel.certification_path import extension_of
from citadel.clock import SystemClock
from citadel.errors import FailedPrecondition, Reason, Unavailable
from tests.certificates import A_TEST, root
from tests.csrs import csr, new_key
from tests.openbao import OpenBao, new_openbao
from tests.vault_pki import default_of, new_root, token_by, usage_of

pytestmark = pytest.mark.integration

_CLOCK = SystemClock()
_WEEK = timedelta(days=7)


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    bao = new_openbao(tmp_path_factory.mktemp("openbao"))
    yield bao
    bao.stop()


@dataclass
class Place:
    """What is left where a process is killed: its store and its keys; and Vault."""

    bao: OpenBao
    vault: VaultClient
    database: Database
    folder: Path
    clock: SystemClock = _CLOCK

    def store(self) -> SqlAuthorityStore:
        return SqlAuthorityStore(database=self.database, trust_domain=A_TEST)

    async def started(self, mount: str, *, store: SqlAuthorityStore | None = None, **named: bool) -> VaultUpstream:
        """The upstream as a new process has it."""
        settings = VaultPkiSettings(mount=mount, **named)
        engine, records = PkiEngine(self.vault, mount=mount), store or self.store()
        keys = SealedKeyManager(
            keys=DiskKeys(self.folder / "keys"), trust_domain=A_TEST, sealer=KekSealer(bytes(32)), kind=KeyKind.RSA_2048
        )
        vouching = Vouching(
            trust_domain=A_TEST,
            keys=keys,
            store=SqlSuccessions(database=self.database, trust_domain=A_TEST),
            clock=self.clock,
            lasts=_WEEK,
        )
        terms = RootTerms(key=KeyKind.EC_P384, lifetime=_WEEK)
        upstream = VaultUpstream(
            engine=engine,
            view=EngineView(engine, settings=settings, trust_domain=A_TEST, clock=self.clock),
            signing=VaultSigning(
                engine, trust_domain=A_TEST, keys=keys, is_constrained=settings.constrained, clock=self.clock
            ),
            rooting=VaultRooting(engine, trust_domain=A_TEST, terms=terms, clock=self.clock)
            if settings.rotate_root
            else None,
            roots=ListedRoots(store=records, keys=keys, vouching=vouching, clock=self.clock),
            store=records,
            clock=self.clock,
        )
        await upstream.start()
        return upstream


class FullStore(SqlAuthorityStore):
    """A store that takes no roots that are prepared: as if the process ended there."""

    async def record(self, authority: Authority) -> None:
        if authority.state is AuthorityState.PREPARED:
            raise Unavailable(Reason.STORE_UNAVAILABLE, "the disk is full")
        await super().record(authority)


@pytest.fixture
async def place(bao: OpenBao, tmp_path: Path) -> AsyncIterator[Place]:
    database, vault = Database.open(f"sqlite+aiosqlite:///{tmp_path / 'store.db'}"), bao.vault()
    await database.migrate()
    yield Place(bao, vault, database, tmp_path)
    vault.close()
    await database.close()


async def test_a_root_that_was_made_just_before_the_end_is_found_again(place: Place) -> None:
    mount = place.bao.pki("pki-killed")
    killed = await place.started(
        mount, store=FullStore(database=place.database, trust_domain=A_TEST), alone=True, rotate_root=True
    )
    for _ in range(2):
        with pytest.raises(Unavailable, match="the disk is full"):
            await killed.prepare("f00d")
    again = await place.started(mount, alone=True, rotate_root=True)
    await again.prepare("f00d")
    assert len(place.bao.root.list(f"{mount}/issuers")["data"]["keys"]) == 2
    [_, new] = again.authorities()
    assert new.not_before <= _CLOCK.now() - timedelta(minutes=5)
    assert [each.rooting.notes for each in (killed, again) if each.rooting is not None] == [(), ()]
    assert (new.id, new.state, default_of(place.bao, mount)) == ("f00d", AuthorityState.PREPARED, "first")
    now = _CLOCK.now()
    minted = await again.mint(not_before=now, not_after=now + timedelta(hours=1), root_id="f00d")
    minted.certificate.verify_directly_issued_by(new.certificate)

    third = await place.started(mount, alone=True, rotate_root=True)  # killed after it was on record
    await third.prepare("f00d")
    for _ in range(2):  # what a rotation does again where it was killed
        await third.activate("f00d", taints=False)
        assert default_of(place.bao, mount) == "citadel-f00d"
    assert third.pending() is None
    await third.drop([root.id for root in third.authorities()])
    assert usage_of(place.bao, mount, "first") == {"read-only", "crl-signing"}
    assert third.roots() == (new.certificate,)
    assert await third.take(await third.look()) == []


async def test_what_was_made_for_a_rotation_that_is_undone_retires_also_where_it_is_not_on_record(
    place: Place,
) -> None:
    mount = place.bao.pki("pki-undone")
    store = FullStore(database=place.database, trust_domain=A_TEST)
    upstream = await place.started(mount, store=store, alone=True, rotate_root=True)
    with pytest.raises(Unavailable, match="the disk is full"):
        await upstream.prepare("f00d")
    await upstream.drop(["f00d"])
    assert usage_of(place.bao, mount, "citadel-f00d") == {"read-only", "crl-signing"}
    assert await upstream.take(await upstream.look()) == []
    assert len(upstream.roots()) == 1


async def test_what_people_made_in_vault_and_what_never_signed_here_is_not_retired(place: Place) -> None:
    mount = place.bao.pki("pki-by-hand")
    new_root(place.bao, mount, "by-hand")
    upstream = await place.started(mount, alone=True, rotate_root=True)
    place.bao.write(f"{mount}/root/replace", default="by-hand")
    await upstream.take(await upstream.look())
    await upstream.prepare("f00d")
    place.bao.write(f"{mount}/root/replace", default="first")
    await upstream.take(await upstream.look())
    await upstream.drop(["f00d"])  # undone
    assert "issuing-certificates" in usage_of(place.bao, mount, "by-hand")

    old = [root.id for root in upstream.authorities()]
    await upstream.prepare("beef")
    await upstream.activate("beef", taints=False)
    await upstream.drop(old)
    assert "issuing-certificates" in usage_of(place.bao, mount, "by-hand")
    assert usage_of(place.bao, mount, "first") == {"read-only", "crl-signing"}
    assert await upstream.take(await upstream.look()) == []
    names = {root.certificate.subject.rfc4514_string() for root in upstream.authorities()}
    assert "CN=Root by-hand" in names
    assert "CN=Root first" not in names


async def test_in_an_emergency_nothing_waits_for_vault_and_what_leaked_ends_there_once_that_is_back(
    place: Place,
) -> None:
    mount = place.bao.pki("pki-leaked")
    upstream, token, now = await place.started(mount, alone=True, rotate_root=True), place.vault.token, _CLOCK.now()
    [leaked] = upstream.authorities()
    await upstream.prepare("f00d")
    minted = await upstream.mint(not_before=now, not_after=now + _WEEK, root_id="f00d")
    issuer = Authority(
        id="issuer",
        kind=AuthorityKind.ISSUER,
        state=AuthorityState.PREPARED,
        key_id=minted.key_id,
        certificate=minted.certificate,
        parent_id="f00d",
        created_at=now,
    )
    await place.store().record(issuer)
    await upstream.take(await upstream.look())

    place.vault.token, away = "nobody's", Unavailable(Reason.VAULT_UNAVAILABLE, "it is sealed")
    await upstream.take(Look(trouble=away, changes=upstream.view.found.changes))
    await upstream.prepare("f00d")
    await upstream.activate("f00d", taints=True)
    await upstream.drop([leaked.id])
    assert [(root.id, root.state) for root in upstream.authorities()] == [("f00d", AuthorityState.ACTIVE)]
    assert upstream.tainted is not None
    assert not upstream.tainted.are_there()

    place.vault.token = token
    again = await place.started(mount, alone=True, rotate_root=True)
    again.follow(lambda: [replace(issuer, state=AuthorityState.ACTIVE)])
    assert await again.take(await again.look()) == []
    assert again.tainted is not None
    assert (again.pending(), again.tainted.are_there(), bool(again.taint())) == (None, True, True)
    await again.tainted.end()
    assert default_of(place.bao, mount) == "citadel-f00d"
    assert usage_of(place.bao, mount, "first") == {"read-only", "crl-signing"}
    assert await again.take(await again.look()) == []
    assert (again.pending(), again.tainted.are_there(), again.taint()) == (None, False, "")


async def test_what_was_imported_without_a_key_is_told_also_to_who_may_only_have_things_signed(place: Place) -> None:
    mount = place.bao.pki("pki-imported")
    brought = build_root(trust_domain=A_TEST, key=new_key(), now=_CLOCK.now(), lifetime=_WEEK, backdate=timedelta())
    pem = brought.public_bytes(Encoding.PEM).decode()
    place.bao.write(f"{mount}/issuers/import/cert", pem_bundle=pem)
    vault = place.bao.vault(token_by(place.bao, "upstream", mount))
    upstream = await replace(place, vault=vault).started(mount)
    assert [note.partition(", and ")[2][:18] for note in upstream.view.notes()] == ["has no key there, "]
    vault.close()


async def test_a_look_that_was_begun_before_a_change_of_ones_own_is_not_taken(place: Place) -> None:
    mount = place.bao.pki("pki-late")
    upstream = await place.started(mount, alone=True, rotate_root=True)
    await upstream.prepare("f00d")
    late = await upstream.look()
    await upstream.activate("f00d", taints=False)
    await upstream.take(late)
    assert upstream.pending() is None
    await upstream.take(await upstream.look())
    assert upstream.pending() is None


@pytest.mark.parametrize("key", [{"key_type": "rsa", "key_bits": 4096}, {"key_type": "ec", "key_bits": 384}], ids=str)
async def test_the_wishes_of_a_child_count_for_nothing(place: Place, key: dict[str, str]) -> None:
    mount = place.bao.mount("pki", f"pki-child-{key['key_type']}")
    place.bao.write(f"{mount}/root/generate/internal", common_name="R", uri_sans="spiffe://a.test", ttl="999h", **key)
    upstream = await place.started(mount)
    child, now = new_key(), _CLOCK.now()
    wishes = csr(child, names=("spiffe://b.test", "spiffe://a.test/admin"))
    signed = await upstream.sign_downstream(wishes, not_before=now - timedelta(minutes=5), not_after=now + _WEEK)
    [issuer] = signed.chain
    assert issuer.public_key() == child.public_key()
    assert extension_of(issuer, x509.BasicConstraints) == x509.BasicConstraints(ca=True, path_length=0)
    names = extension_of(issuer, x509.SubjectAlternativeName)
    assert names is not None
    assert list(names) == [x509.UniformResourceIdentifier("spiffe://a.test")]
    assert issuer.not_valid_before_utc <= now - timedelta(minutes=4)
    own = await upstream.mint(not_before=now, not_after=now + _WEEK)
    assert own.certificate.subject != issuer.subject


async def test_where_authorities_are_constrained_no_child_has_one(place: Place) -> None:
    upstream = await place.started(place.bao.pki("pki-no-child"), constrained=True)
    now = _CLOCK.now()
    with pytest.raises(FailedPrecondition) as refused:
        await upstream.sign_downstream(csr(), not_before=now, not_after=now + _WEEK)
    assert refused.value.reason is Reason.UPSTREAM_CANNOT_SIGN


async def test_a_root_that_signs_nothing_for_this_server_keeps_it_from_no_other(place: Place) -> None:
    mount = place.bao.pki("pki-other-refused")
    first = place.bao.root.read(f"{mount}/issuer/first")["data"]["issuer_id"]
    place.bao.policy(mount, {f"{mount}/issuer/{first}/sign-intermediate": ["update"]})
    vault = place.bao.vault(place.bao.token(mount))
    upstream = await replace(place, vault=vault).started(mount)
    new_root(place.bao, mount, "second")
    place.bao.write(f"{mount}/root/replace", default="second")
    await upstream.take(await upstream.look())
    assert upstream.pending() is not None
    assert upstream.cannot_sign() == ""
    await upstream.prepare("f00d")
    now = _CLOCK.now()
    with pytest.raises(Unavailable) as refused:
        await upstream.mint(not_before=now, not_after=now + _WEEK, root_id="f00d")
    assert refused.value.reason is Reason.VAULT_DENIED
    assert upstream.can_mint()
    minted = await upstream.mint(not_before=now, not_after=now + _WEEK)
    assert minted.certificate.issuer.rfc4514_string() == "CN=Root first"
    still = upstream.signing.refused()
    assert still is not None
    assert still.last is refused.value
    vault.close()


class Differing(SystemClock):
    """A clock that is behind that of Vault."""

    def __init__(self, behind: timedelta) -> None:
        self._behind = behind

    def now(self) -> datetime:
        return super().now() - self._behind

    async def sleep(self, seconds: float) -> None:
        raise AssertionError(f"it waits for {seconds} s, and everything else with it")


@pytest.mark.parametrize(
    ("behind", "is_taken"),
    [(timedelta(minutes=4), True), (timedelta(minutes=10), False), (timedelta(minutes=-10), True)],
    ids=["Vault ahead", "Vault far ahead", "Vault far behind"],
)
async def test_nobody_waits_for_the_clock_of_vault(place: Place, behind: timedelta, is_taken: bool) -> None:
    mount = place.bao.pki(f"pki-clock-{behind.total_seconds():.0f}", not_before_duration="1h")
    clock = Differing(behind)
    upstream = await replace(place, clock=clock).started(mount)
    begin, end = clock.now() - timedelta(seconds=10), clock.now() + _WEEK
    if is_taken:
        minted = await upstream.mint(not_before=begin, not_after=end)
        assert minted.certificate.not_valid_before_utc <= clock.now()
        assert upstream.signing.notes == ()
        return
    with pytest.raises(FailedPrecondition, match="the clocks differ"):
        await upstream.mint(not_before=begin, not_after=end)


async def test_nothing_is_minted_that_would_live_hardly_longer_than_what_signs(place: Place) -> None:
    mount = place.bao.pki("pki-near-its-end", lifetime="20s")
    upstream, now = await place.started(mount), _CLOCK.now()

    async def signs(lifetime: timedelta) -> Authority:
        minted = await upstream.mint(not_before=now, not_after=now + lifetime)
        return Authority(
            id="issuer",
            kind=AuthorityKind.ISSUER,
            state=AuthorityState.ACTIVE,
            key_id=minted.key_id,
            certificate=minted.certificate,
            parent_id=minted.root_id,
            created_at=now,
        )

    first, second = await signs(timedelta(seconds=5)), await signs(_WEEK)
    upstream.follow(lambda: [first])
    assert upstream.can_mint()
    upstream.follow(lambda: [second])
    assert not upstream.can_mint()
    assert upstream.pending() is None


async def test_a_start_takes_the_root_in_vault_where_nothing_on_record_can_sign_any_more(place: Place) -> None:
    ended = root("own").certificate  # of last winter
    before = Authority(
        id="own",
        kind=AuthorityKind.ROOT,
        state=AuthorityState.ACTIVE,
        key_id="",
        certificate=ended,
        parent_id=None,
        created_at=ended.not_valid_before_utc,
    )
    await place.store().record(before)
    upstream = await place.started(place.bao.pki("pki-taken"))
    await FreshRoot(upstream=upstream, acts=SqlAuditLog(database=place.database), clock=_CLOCK).take([])
    [now] = upstream.authorities()
    assert (now.state, now.certificate.subject.rfc4514_string()) == (AuthorityState.ACTIVE, "CN=Root first")
    moment = _CLOCK.now()
    minted = await upstream.mint(not_before=moment, not_after=moment + _WEEK)
    assert minted.root_id == now.id
