"""Bundles that people give and take: what is refused and audited, and that entries change with them or not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import select, text

from ca.entries.directory import EntryDirectory
from ca.entries.registry import EntryRegistry
from ca.federation.by_hand import BundlesByHand, DeleteMode
from ca.federation.faults import unreachable
from ca.federation.federations import Federations
from ca.federation.known import ForeignBundles, Source
from ca.federation.model import Federation
from ca.federation.refreshing import Refreshing
from ca.store.database import Database
from ca.store.entries import SqlEntryStore
from ca.store.federation import SqlFederations, SqlForeignBundles
from ca.store.schema import audit
from citadel.bundle import TrustBundle
from citadel.entry import Entry
from citadel.errors import CitadelError, Reason
from citadel.spiffe import TrustDomain
from citadel.tally import Tally
from tests.certificates import A_TEST, B_TEST, bundle, root
from tests.clock import FakeClock
from tests.unit.ca.test_foreign_bundles import FEDERATION
from tests.unit.ca.values import ADMINISTRATOR, entry

ONE, TWO = root("one", "spiffe://b.test"), root("two", "spiffe://b.test")
OF_B = bundle(ONE, trust_domain=B_TEST, sequence=5)
C_TEST = TrustDomain("c.test")
OF_C = root("root c.test", "spiffe://c.test")


@dataclass(frozen=True)
class Hand:
    by_hand: BundlesByHand
    foreign: ForeignBundles
    registry: EntryRegistry
    directory: EntryDirectory
    database: Database
    federated: set[TrustDomain]

    async def set(self, wanted: Any = OF_B, why: str = "by phone") -> None:
        await self.by_hand.set(wanted, why=why, by=ADMINISTRATOR)

    async def delete(self, mode: DeleteMode = DeleteMode.RESTRICT, why: str = "it ended") -> None:
        await self.by_hand.delete(B_TEST, mode, why=why, by=ADMINISTRATOR)

    async def entry(self, path: str, *domains: TrustDomain) -> Entry:
        return await self.registry.create(entry(path, federates_with=frozenset(domains)), by=ADMINISTRATOR)

    async def acts(self) -> list[tuple[str, str, str]]:
        async with self.database.transaction() as connection:
            query = select(audit.c.what, audit.c.target, audit.c.why).order_by(audit.c.number)
            return [tuple(row) for row in (await connection.execute(query)).all()]


@pytest.fixture
async def hand(database: Database, clock: FakeClock) -> Hand:
    return await started(database, clock)


async def started(database: Database, clock: FakeClock) -> Hand:
    directory = EntryDirectory(trust_domain=A_TEST)
    registry = EntryRegistry(
        trust_domain=A_TEST, store=SqlEntryStore(database=database), directory=directory, clock=clock
    )
    foreign = ForeignBundles(trust_domain=A_TEST, store=SqlForeignBundles(database=database))
    await registry.start()
    await foreign.start()
    federated: set[TrustDomain] = set()
    by_hand = BundlesByHand(
        trust_domain=A_TEST,
        foreign=foreign,
        is_federated=federated.__contains__,
        entries=directory,
        dissociation=registry,
        clock=clock,
    )
    return Hand(by_hand, foreign, registry, directory, database, federated)


async def reason(call: Awaitable[object]) -> Reason:
    with pytest.raises(CitadelError) as refused:
        await call
    return refused.value.reason


@pytest.mark.spec("FED-34", "BUNDLE-16")
async def test_a_bundle_that_is_set_is_in_force_and_in_the_audit_log(hand: Hand, clock: FakeClock) -> None:
    await hand.set()
    known = hand.foreign.get(B_TEST)
    assert known is not None
    assert (known.bundle, known.source) == (OF_B, Source.SET)
    assert await hand.acts() == [("bundle.set", "b.test", "by phone")]
    again = await started(hand.database, clock)
    assert again.foreign.get(B_TEST) == known


@pytest.mark.parametrize(
    ("wanted", "why", "refused_for"),
    [
        (bundle(ONE), "by phone", Reason.FEDERATION_OWN_DOMAIN),
        (bundle(ONE, trust_domain=B_TEST, sequence=4), "by phone", Reason.BUNDLE_OLDER),
        (bundle(OF_C, trust_domain=C_TEST), "by phone", Reason.BUNDLE_IN_USE),
        (bundle(root(), trust_domain=B_TEST), "by phone", Reason.FEDERATION_OWN_DOMAIN),
        (bundle(OF_C, trust_domain=B_TEST), "by phone", Reason.BUNDLE_MALFORMED),
        (OF_B, "  ", Reason.REQUEST_MALFORMED),
        (OF_B, "x" * 501, Reason.REQUEST_MALFORMED),
        (OF_B, "a\nline", Reason.REQUEST_MALFORMED),
    ],
)
async def test_what_cannot_be_set(hand: Hand, wanted: Any, why: str, refused_for: Reason) -> None:
    await hand.set()
    hand.federated.add(C_TEST)
    before = dict(hand.foreign.all())
    assert await reason(hand.set(wanted, why)) is refused_for
    assert (dict(hand.foreign.all()), len(await hand.acts())) == (before, 1)


async def test_a_bundle_that_is_unknown_or_brought_by_a_federation_is_not_deleted(hand: Hand) -> None:
    assert await reason(hand.delete()) is Reason.BUNDLE_NOT_FOUND
    await hand.set()
    hand.federated.add(B_TEST)
    assert await reason(hand.delete(DeleteMode.DISSOCIATE)) is Reason.BUNDLE_IN_USE
    assert hand.foreign.get(B_TEST) is not None


async def test_a_bundle_stays_while_an_entry_federates_with_it(hand: Hand) -> None:
    await hand.set()
    web = await hand.entry("/web", B_TEST)
    assert await reason(hand.delete()) is Reason.BUNDLE_IN_USE
    await hand.registry.update(replace(web, federates_with=frozenset()), by=ADMINISTRATOR)
    await hand.delete()
    assert hand.foreign.get(B_TEST) is None
    assert (await hand.acts())[-1] == ("bundle.delete", "b.test", "it ended")


@pytest.mark.spec("FED-41")
@pytest.mark.invariant(12)
async def test_dissociating_takes_the_bundle_and_the_federation_of_every_entry_at_once(
    hand: Hand, clock: FakeClock
) -> None:
    await hand.set()
    web, both, other = (
        await hand.entry("/web", B_TEST),
        await hand.entry("/both", B_TEST, C_TEST),
        await hand.entry("/other", C_TEST),
    )
    await hand.delete(DeleteMode.DISSOCIATE)
    for found in (hand, await started(hand.database, clock)):
        assert found.foreign.get(B_TEST) is None
        with_whom = {each.id: each.federates_with for each in found.directory.all().values()}
        assert with_whom == {web.id: frozenset(), both.id: frozenset({C_TEST}), other.id: frozenset({C_TEST})}
        assert found.directory.get(web.id).revision == web.revision + 1
        assert found.directory.get(other.id) == other
        assert not found.directory.federating(B_TEST)
        assert found.directory.federating(C_TEST).keys() == {both.id, other.id}
    told = (await hand.acts())[-3:]
    assert {each[:2] for each in told} == {
        ("entry.update", web.id),
        ("entry.update", both.id),
        ("bundle.delete", "b.test"),
    }
    assert {why for _, _, why in told} == {"it ended"}


@pytest.mark.invariant(12)
async def test_where_the_store_refuses_neither_bundle_nor_entries_have_changed(hand: Hand) -> None:
    await hand.set()
    web = await hand.entry("/web", B_TEST)
    async with hand.database.transaction() as connection:
        await connection.execute(text("ALTER TABLE audit RENAME TO gone"))  # what is written last
    await reason(hand.delete(DeleteMode.DISSOCIATE))
    async with hand.database.transaction() as connection:
        await connection.execute(text("ALTER TABLE gone RENAME TO audit"))
    assert hand.foreign.get(B_TEST) is not None
    assert hand.directory.all() == {web.id: web}
    assert [each.bundle for each in await SqlForeignBundles(database=hand.database).load()] == [OF_B]


@pytest.mark.parametrize("act", ["delete", "dissociate", "set"])
async def test_a_federation_that_is_being_made_is_not_lost_to_what_is_done_by_hand(
    hand: Hand, clock: FakeClock, act: str
) -> None:
    await hand.set()
    store, tally = SqlFederations(database=hand.database), Tally(clock=clock)
    refreshing = Refreshing(
        bundles=hand.foreign, own_bundle=lambda: bundle(root()), fetch=_nobody_answers, tally=tally, clock=clock
    )
    federations = Federations(
        store=store, bundles=hand.foreign, own=A_TEST, refreshing=refreshing, clock=clock, draw=lambda: 0.0
    )
    by_hand = BundlesByHand(
        trust_domain=A_TEST,
        foreign=hand.foreign,
        is_federated=federations.has,
        entries=hand.directory,
        dissociation=hand.registry,
        clock=clock,
    )
    person = replace(hand, by_hand=by_hand)
    making = asyncio.create_task(federations.create(FEDERATION, None, why="", by=ADMINISTRATOR))
    await asyncio.sleep(0)  # it has begun
    doing = {
        "delete": person.delete,
        "dissociate": lambda: person.delete(DeleteMode.DISSOCIATE),
        "set": lambda: person.set(replace(OF_B, sequence=6)),
    }[act]
    outcomes = await asyncio.gather(making, doing(), return_exceptions=True)
    wrong = [each.reason for each in outcomes if isinstance(each, CitadelError)]
    assert wrong == [Reason.BUNDLE_IN_USE]
    assert [each.trust_domain for each in await store.load()] == [each.trust_domain for each in federations.all()]
    known = hand.foreign.get(B_TEST)
    assert (known.bundle if known is not None else None) == OF_B
    await tally.close()


async def _nobody_answers(_federation: Federation, _trust: TrustBundle | None) -> bytes:
    raise unreachable("nobody there")
