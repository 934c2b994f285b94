"""The sacred function: who gets a certificate, what it says, and that its row came first."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ReasonFlags
from sqlalchemy import select

from ca.authority.certificates import build_issuer
from ca.authority.model import Authority, AuthorityKind, AuthorityState, IssuingAuthority
from ca.entries.directory import EntryDirectory
from ca.issuance.issuer import Issuer, SvidRequest, key_digest
from ca.issuance.ledger import Ledger, LedgerRow
from ca.issuance.lifetime import LifetimePolicy, LimitedBy
from ca.issuance.press import IssuedSvid
from ca.issuance.quota import Quota
from ca.keys.kinds import AuthorityKey, KeyKind
from ca.keys.remote import SigningKey
from ca.keys.signing import most_inline
from ca.revocation.bars import Bars
from ca.revocation.model import Revocation, RevocationKind
from ca.store.database import Database
from ca.store.schema import ledger as ledger_rows
from citadel.entry import Entry
from citadel.errors import CitadelError, InvalidArgument, PermissionDenied, Reason, ResourceExhausted, Unavailable
from citadel.serial import serial_hex
from citadel.spiffe import SpiffeId
from tests import certificates
from tests.clock import FakeClock
from tests.csrs import csr, new_key
from tests.remote_keys import LocalRemoteKey
from tests.unit.ca.records import writing
from tests.unit.ca.values import A_TEST, NODE_1, NODE_2, NOW, a_key, agent, entry

HOUR = timedelta(hours=1)
ROOT = certificates.root()


class RecordingLedger:
    """Takes rows when it is let, and says what it took."""

    def __init__(self) -> None:
        self.rows: list[LedgerRow] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.refusal: CitadelError | None = None

    async def append(self, rows: Sequence[LedgerRow]) -> None:
        await self.gate.wait()
        if self.refusal is not None:
            raise self.refusal
        self.rows.extend(rows)

    async def append_each(self, rows: Sequence[LedgerRow]) -> Sequence[CitadelError | None]:
        await self.gate.wait()
        if self.refusal is None:
            self.rows.extend(rows)
        return [self.refusal for _ in rows]


class Authorities:
    """One issuing authority that ends after `lifetime`."""

    def __init__(self, lifetime: timedelta, key: SigningKey) -> None:
        certificate = build_issuer(
            trust_domain=A_TEST,
            public_key=key.public_key(),
            root=ROOT.certificate,
            root_key=ROOT.key,  # type: ignore[arg-type] # an EC key
            not_before=NOW,
            not_after=NOW + lifetime,
        )
        self.authority = Authority(
            id="i" * 32,
            kind=AuthorityKind.ISSUER,
            state=AuthorityState.ACTIVE,
            key_id="k",
            certificate=certificate,
            parent_id="r",
            created_at=NOW,
        )
        self._issuing = IssuingAuthority(authority=self.authority, key=key)

    def issuing(self) -> IssuingAuthority:
        return self._issuing


class Desk:
    """An issuer and all that it asks."""

    def __init__(
        self,
        *entries: Entry,
        issuer_lifetime: timedelta = timedelta(days=7),
        key: SigningKey | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.ledger = RecordingLedger()
        self.authorities = Authorities(issuer_lifetime, key or new_key())
        self.directory = EntryDirectory(trust_domain=A_TEST)
        self.directory.load(entries, revision=len(entries))
        self.clock = FakeClock(NOW)
        self.bars = Bars()
        self.issuer = Issuer(
            entries=self.directory,
            bars=self.bars,
            authorities=self.authorities,
            ledger=ledger or self.ledger,
            clock=self.clock,
            policy=LifetimePolicy(default=HOUR, own=HOUR, cap=24 * HOUR, backdate=timedelta(seconds=10)),
            quota=Quota(max_batch=20, per_second=2, clock=self.clock),
        )

    async def issue(self, *items: tuple[Entry | str, bytes]) -> list[IssuedSvid | CitadelError]:
        requests = [
            SvidRequest(entry_id=wanted if isinstance(wanted, str) else wanted.id, csr=der) for wanted, der in items
        ]
        return await self.issuer.issue(agent(NODE_1), requests)


def revocation_of(revoked: Entry) -> Revocation:
    return Revocation(
        id="r" * 32,
        kind=RevocationKind.IDENTITY,
        target=str(revoked.spiffe_id),
        reason="stolen",
        code=ReasonFlags.unspecified,
        revoked_at=NOW,
        revoked_by="local:uid:0",
    )


async def issued(desk: Desk, wanted: Entry, key: ec.EllipticCurvePrivateKey | None = None) -> IssuedSvid:
    (svid,) = await desk.issue((wanted, csr(key)))
    assert isinstance(svid, IssuedSvid)
    return svid


async def test_only_the_public_key_of_the_request_is_used() -> None:
    web, key = entry("/web", dns_names=("web.a.test",)), new_key()
    desk = Desk(web)
    (svid,) = await desk.issue((web, csr(key, names=("spiffe://a.test/citadel/server",))))
    assert isinstance(svid, IssuedSvid)
    leaf, issuing = svid.chain
    parsed = certificates.san(str(web.spiffe_id), dns=web.dns_names)
    assert leaf.extensions.get_extension_for_class(type(parsed)).value == parsed
    assert leaf.public_key() == key.public_key()
    assert issuing == desk.authorities.authority.certificate


async def test_the_row_says_what_the_certificate_says() -> None:
    web, key = entry(), new_key()
    desk = Desk(web)
    svid = await issued(desk, web, key)
    leaf = svid.chain[0]
    assert desk.ledger.rows == [
        LedgerRow(
            serial=serial_hex(leaf.serial_number),
            spiffe_id=web.spiffe_id,
            entry_id=web.id,
            requested_by=NODE_1,
            issuer_id=desk.authorities.authority.id,
            public_key=key_digest(key.public_key()),
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
            issued_at=NOW,
            limited_by="default",
        )
    ]


@pytest.mark.invariant(2)
async def test_nothing_is_answered_before_the_row_is_durable() -> None:
    web = entry()
    desk = Desk(web)
    desk.ledger.gate.clear()
    asking = asyncio.create_task(desk.issue((web, csr())))
    await asyncio.sleep(0.01)
    assert not asking.done()
    desk.ledger.gate.set()
    (svid,) = await asking
    assert isinstance(svid, IssuedSvid)


@pytest.mark.invariant(2)
@pytest.mark.parametrize(
    "refusal",
    [
        Unavailable(Reason.STORE_UNAVAILABLE, "the disk is full"),
        PermissionDenied(Reason.AGENT_BANNED, "banned meanwhile"),
    ],
)
async def test_what_the_ledger_refuses_is_not_answered(refusal: CitadelError) -> None:
    web = entry()
    desk = Desk(web)
    desk.ledger.refusal = refusal
    with pytest.raises(type(refusal)):
        await desk.issue((web, csr()))
    with pytest.raises(type(refusal)):
        await desk.issuer.issue_reserved(NODE_1, csr())


@pytest.mark.parametrize("neighbours", [1, 12])  # inline, and in a worker thread
async def test_a_refused_item_takes_nothing_from_its_neighbours(neighbours: int) -> None:
    web, other, ended = entry(), entry("/other", NODE_2), entry("/ended", expires_at=NOW)
    stolen = entry("/stolen")
    desk = Desk(web, other, ended, stolen)
    desk.bars.replace([revocation_of(stolen)])
    good = [(web, csr())] * neighbours
    bad: list[tuple[Entry | str, bytes]] = [
        (web, b"garbage"),
        (other, csr()),
        ("made-up", csr()),
        (ended, csr()),
        (stolen, csr()),
        (web, csr(new_key(ec.SECP224R1()))),
    ]
    results = await desk.issue(*good, *bad, *good[:1])
    assert [result.reason if isinstance(result, CitadelError) else "issued" for result in results] == [
        *["issued"] * neighbours,
        Reason.CSR_MALFORMED,
        Reason.ENTRY_NOT_AUTHORIZED,
        Reason.ENTRY_NOT_AUTHORIZED,
        Reason.ENTRY_EXPIRED,
        Reason.IDENTITY_REVOKED,
        Reason.CSR_KEY_REFUSED,
        "issued",
    ]
    assert len(desk.ledger.rows) == neighbours + 1
    assert len({row.serial for row in desk.ledger.rows}) == neighbours + 1


async def test_an_entry_that_asks_for_ages_takes_nothing_from_its_neighbours() -> None:
    web, greedy = entry(), entry("/greedy", x509_svid_ttl=timedelta.max)
    desk = Desk(web, greedy)
    results = await desk.issue((web, csr()), (greedy, csr()))
    assert [result.limited_by for result in results if isinstance(result, IssuedSvid)] == [
        LimitedBy.DEFAULT,
        LimitedBy.CAP,
    ]


async def test_a_batch_over_the_limit_is_refused_whole() -> None:
    web = entry()
    desk = Desk(web)
    assert len(await desk.issue(*[(web, csr())] * 20)) == 20
    with pytest.raises(InvalidArgument) as refused:
        await desk.issue(*[(web, csr())] * 21)
    assert refused.value.reason is Reason.BATCH_TOO_LARGE
    assert len(desk.ledger.rows) == 20


async def test_an_agent_that_asks_for_too_much_has_to_wait_and_others_have_not() -> None:
    web, other = entry(), entry("/other", NODE_2)
    desk = Desk(web, other)  # 2 a second, and what 20 seconds allow at once
    for _ in range(2):
        assert len(await desk.issue(*[(web, csr())] * 20)) == 20
    with pytest.raises(ResourceExhausted) as refused:
        await desk.issue((web, csr()))
    assert refused.value.reason is Reason.TOO_MANY_REQUESTS
    assert len(desk.ledger.rows) == 40
    assert len(await desk.issuer.issue(agent(NODE_2), [SvidRequest(entry_id=other.id, csr=csr())])) == 1
    await desk.clock.advance(1)
    assert len(await desk.issue(*[(web, csr())] * 2)) == 2
    with pytest.raises(ResourceExhausted):
        await desk.issuer.issue_reserved(NODE_1, csr())


async def test_an_empty_batch_is_answered_with_nothing() -> None:
    assert await Desk().issue() == []


LIMITS = [
    ("the default", entry(), 7 * 24 * HOUR, HOUR, LimitedBy.DEFAULT),
    ("the entry", entry(x509_svid_ttl=timedelta(seconds=5)), 7 * 24 * HOUR, timedelta(seconds=5), LimitedBy.ENTRY),
    ("the cap", entry(x509_svid_ttl=48 * HOUR), 7 * 24 * HOUR, 24 * HOUR, LimitedBy.CAP),
    ("the issuer", entry(x509_svid_ttl=3 * HOUR), 2 * HOUR, 2 * HOUR, LimitedBy.ISSUER),
    ("the entry's end", entry(expires_at=NOW + HOUR / 2), 7 * 24 * HOUR, HOUR / 2, LimitedBy.ENTRY_EXPIRY),
]


@pytest.mark.invariant(6)
@pytest.mark.parametrize(
    ("wanted", "issuer_lives", "lives", "by"), [pytest.param(*row[1:], id=row[0]) for row in LIMITS]
)
async def test_the_answer_says_what_limited_the_lifetime(
    wanted: Entry, issuer_lives: timedelta, lives: timedelta, by: LimitedBy
) -> None:
    svid = await issued(Desk(wanted, issuer_lifetime=issuer_lives), wanted)
    leaf, issuing = svid.chain
    assert (leaf.not_valid_after_utc - NOW, svid.limited_by) == (lives, by)
    assert leaf.not_valid_after_utc <= issuing.not_valid_after_utc
    assert leaf.not_valid_before_utc >= issuing.not_valid_before_utc


@pytest.mark.invariant(6)
async def test_an_issuer_without_life_issues_nothing() -> None:
    web = entry()
    desk = Desk(web, issuer_lifetime=timedelta(seconds=0.5))
    (refusal,) = await desk.issue((web, csr()))
    assert isinstance(refusal, Unavailable)
    assert desk.ledger.rows == []


async def test_citadels_own_identities_need_a_good_request_too() -> None:
    desk = Desk()
    with pytest.raises(InvalidArgument):
        await desk.issuer.issue_reserved(SpiffeId(A_TEST, "/citadel/server"), b"garbage")
    assert desk.ledger.rows == []


async def test_serials_are_random_of_128_bits_and_written_in_whole_bytes() -> None:
    web = entry()
    desk = Desk(web)
    results = await desk.issue(*[(web, csr())] * 20)
    serials = [result.chain[0].serial_number for result in results if isinstance(result, IssuedSvid)]
    assert len(set(serials)) == 20
    assert all(0 < serial < 2**128 for serial in serials)
    assert max(serials) > 2**120, "of twenty random ones"
    assert [serial_hex(number) for number in (1, 0x10, 0xABC)] == ["01", "10", "0abc"]


KEYS = {kind: a_key(kind) for kind in KeyKind}


@pytest.fixture(params=KeyKind, ids=str)
def key(request: pytest.FixtureRequest) -> AuthorityKey:
    return KEYS[request.param]


@pytest.mark.parametrize("number", [1, 12])
@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_a_key_of_any_kind_signs_wherever_it_is(key: AuthorityKey, where: str, number: int) -> None:
    web = entry("/web", dns_names=("web.a.test",))
    remote = LocalRemoteKey(key)
    desk = Desk(web, key=remote if where == "elsewhere" else key)
    results = await desk.issue((web, b"garbage"), *[(web, csr())] * number)
    chains = [result.chain for result in results if isinstance(result, IssuedSvid)]
    assert len(chains) == number
    for leaf, issuing in chains:
        leaf.verify_directly_issued_by(issuing)
    assert [row.serial for row in desk.ledger.rows] == [serial_hex(leaf.serial_number) for leaf, _ in chains]
    if where == "elsewhere":
        assert [len(messages) for messages in remote.elsewhere.calls] == [number], "one call for all of them"


async def test_one_that_is_reserved_or_minted_is_signed_there_too(key: AuthorityKey) -> None:
    desk = Desk(key=LocalRemoteKey(key))
    for svid in (
        await desk.issuer.issue_reserved(NODE_1, csr(), dns_names=("x.a.test",)),
        await desk.issuer.issue_minted(entry(), csr(), requested_by=NODE_1),
    ):
        svid.chain[0].verify_directly_issued_by(svid.chain[1])
    assert len(desk.ledger.rows) == 2


async def test_a_batch_of_refusals_asks_nobody_to_sign(key: AuthorityKey) -> None:
    remote = LocalRemoteKey(key)
    (refused,) = await Desk(key=remote).issue(("made-up", csr()))
    assert isinstance(refused, CitadelError)
    assert remote.elsewhere.calls == []


@pytest.mark.invariant(2)
@pytest.mark.parametrize("number", [1, 12])
async def test_where_the_key_is_away_the_whole_batch_is_refused_and_nothing_is_on_record(number: int) -> None:
    web, remote = entry(), LocalRemoteKey(new_key())
    desk = Desk(web, key=remote)
    remote.elsewhere.failure = Unavailable(Reason.VAULT_UNAVAILABLE, "sealed")
    for asked in (
        desk.issue(*[(web, csr())] * number),
        desk.issuer.issue_reserved(NODE_1, csr()),
        desk.issuer.issue_minted(web, csr(), requested_by=NODE_1),
    ):
        with pytest.raises(Unavailable) as refused:
            await asked
        assert refused.value.reason is Reason.VAULT_UNAVAILABLE
    assert desk.ledger.rows == []
    remote.elsewhere.failure = None
    await issued(desk, web)


async def test_a_slow_key_holds_up_nobody_else() -> None:
    web, remote = entry(), LocalRemoteKey(new_key())
    desk = Desk(web, key=remote)
    remote.elsewhere.gate.clear()
    asking = [asyncio.create_task(desk.issue((web, csr()))) for _ in range(3)]
    while len(remote.elsewhere.calls) < 3:
        await asyncio.sleep(0)  # the loop turns, and the three are under way at once
    remote.elsewhere.gate.set()
    assert all(isinstance(svid, IssuedSvid) for (svid,) in await asyncio.gather(*asking))


@pytest.mark.invariant(2)
@pytest.mark.parametrize(
    ("comes", "reason"),
    [("a ban", Reason.AGENT_BANNED), ("a revocation", Reason.IDENTITY_REVOKED), ("nothing", None)],
)
async def test_what_comes_while_a_slow_key_signs_refuses(database: Database, comes: str, reason: Reason | None) -> None:
    web, remote, bars = entry(), LocalRemoteKey(new_key()), Bars()
    banned: set[SpiffeId] = set()
    async with writing(database, banned=banned, is_revoked=bars.hold) as ledger:
        desk = Desk(web, key=remote, ledger=ledger)
        remote.elsewhere.gate.clear()
        asking = asyncio.create_task(desk.issue((web, csr())))
        while not remote.elsewhere.calls:
            await asyncio.sleep(0)
        if comes == "a ban":
            banned.add(NODE_1)
        elif comes == "a revocation":
            bars.replace([revocation_of(web)])
        remote.elsewhere.gate.set()
        if reason is None:
            assert isinstance((await asking)[0], IssuedSvid)
        else:
            with pytest.raises((PermissionDenied, Unavailable)) as refused:
                await asking
            assert refused.value.reason is reason
    async with database.reading() as connection:
        assert bool((await connection.execute(select(ledger_rows.c.serial))).all()) is (reason is None)


CHANGES = [
    pytest.param(None, Reason.ENTRY_NOT_AUTHORIZED, id="deleted"),
    pytest.param({"parent_id": NODE_2}, Reason.ENTRY_NOT_AUTHORIZED, id="moved to another agent"),
    pytest.param({"expires_at": NOW}, Reason.ENTRY_EXPIRED, id="expired"),
    pytest.param({"expires_at": NOW + HOUR / 2}, Reason.ENTRY_CHANGED, id="to expire before the certificate"),
    pytest.param({"spiffe_id": A_TEST.member("renamed")}, Reason.ENTRY_CHANGED, id="another identity"),
    pytest.param({"dns_names": ("other.a.test",)}, Reason.ENTRY_CHANGED, id="other DNS names"),
    pytest.param({"hint": "x", "expires_at": NOW + HOUR}, None, id="nothing that the certificate says"),
]


@pytest.mark.invariant(2)
@pytest.mark.parametrize("remote", [True, False], ids=["elsewhere", "here"])
@pytest.mark.parametrize(("terms", "reason"), CHANGES)
async def test_an_entry_that_is_changed_while_a_key_signs_gives_no_certificate_and_no_row(
    terms: dict[str, Any] | None, reason: Reason | None, remote: bool
) -> None:
    web, other = entry(), entry("/other")
    key = LocalRemoteKey(new_key())
    desk = Desk(web, other, key=key if remote else KEYS[KeyKind.EC_P256])

    def change(*_: Any) -> None:
        if terms is None:
            desk.directory.remove(web.id, revision=9)
        else:
            desk.directory.put(replace(web, **terms), revision=9)

    asking = asyncio.create_task(desk.issue((other, csr()), (web, csr()), (other, csr())))
    if remote:
        key.elsewhere.gate.clear()
        while not key.elsewhere.calls:
            await asyncio.sleep(0)
        change()
        key.elsewhere.gate.set()
    else:
        desk.issuer._on_signed = change
    first, changed, last = await asking
    assert isinstance(first, IssuedSvid)
    assert isinstance(last, IssuedSvid)
    assert [row.spiffe_id for row in desk.ledger.rows].count(web.spiffe_id) == (reason is None)
    assert len(desk.ledger.rows) == 2 + (reason is None)
    assert getattr(changed, "reason", None) is reason


@pytest.mark.parametrize("kind", KeyKind)
async def test_large_batches_and_slow_keys_are_off_the_loop(kind: KeyKind) -> None:
    threads: set[int] = set()

    class Watching(EntryDirectory):
        def authorized(self, *args: Any) -> Entry:
            threads.add(threading.get_ident())
            return super().authorized(*args)

    web = entry()
    desk = Desk(web, key=KEYS[kind])
    desk.issuer._entries = watching = Watching(trust_domain=A_TEST)
    watching.load([web], revision=1)
    for number, is_inline in ((most_inline(KEYS[kind]), True), (most_inline(KEYS[kind]) + 1, False)):
        threads.clear()
        if number:
            await desk.issue(*[(web, csr())] * number)
            assert (threads == {threading.get_ident()}) is is_inline
