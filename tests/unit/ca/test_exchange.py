"""Roots of another cluster of the own trust domain: which may be taken, and what becomes of the lists."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from sqlalchemy import select

from ca.audit.model import Act
from ca.federation.exchange import Exchange, to_take
from ca.federation.exchanged import ExchangedRoots
from ca.store.database import Database
from ca.store.exchanged import SqlExchangedRoots
from ca.store.schema import audit
from citadel.bundle import TrustBundle
from citadel.errors import CitadelError, NotFound, Reason
from tests.certificates import A_TEST, NOW, Signed, bundle, root
from tests.clock import FakeClock
from tests.unit.ca.values import ADMINISTRATOR

OURS, OURS_BEFORE, THEIRS, MORE = (root(name) for name in ("ours", "ours before", "theirs", "theirs, next"))
OWN = bundle(OURS, sequence=7)


def taken(*offered: Signed) -> list[x509.Certificate]:
    return list(to_take(bundle(*offered), own=OWN, retired=[OURS_BEFORE.certificate], now=NOW))


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        ([THEIRS], [THEIRS]),
        ([THEIRS, MORE], [THEIRS, MORE]),
        ([THEIRS, OURS], [THEIRS]),
        ([root("istio", None)], None),
    ],
    ids=["one", "two, as in a rotation", "ours, which they have by an exchange", "without a URI, as Istio's are"],
)
def test_what_is_taken(offered: list[Signed], expected: list[Signed] | None) -> None:
    assert set(taken(*offered)) == {each.certificate for each in (expected or offered)}


@pytest.mark.parametrize(
    ("offered", "words"),
    [
        ([], "no X.509 authority"),
        ([OURS], "no X.509 authority"),
        ([THEIRS, root("b.test", "spiffe://b.test")], "is of spiffe://b.test"),
        ([THEIRS, OURS_BEFORE], "was our own and was retired"),
        ([root("old", not_before=NOW - timedelta(days=9), not_after=NOW)], "ended at"),
        ([root("ours")], "two roots have the name CN=ours"),
        ([root("same"), root("same")], "two roots have the name CN=same"),
    ],
    ids=["none", "only ours", "of another domain", "retired", "ended", "named as ours", "named alike"],
)
def test_what_is_refused(offered: list[Signed], words: str) -> None:
    with pytest.raises(CitadelError, match=words) as refused:
        taken(*offered)
    assert refused.value.reason is Reason.BUNDLE_MALFORMED


class Authorities:
    """Counts how often the bundle was settled anew."""

    def __init__(self) -> None:
        self.settled = 0

    def own_roots(self) -> TrustBundle:
        return OWN

    async def settle_anew(self) -> None:
        self.settled += 1


async def test_exchanged_roots_survive_a_restart_and_each_act_is_told_with_its_reason(
    database: Database, clock: FakeClock
) -> None:
    store = SqlExchangedRoots(database=database, clock=clock)
    authorities, roots = Authorities(), ExchangedRoots(store=store)
    exchange = Exchange(roots=roots, authorities=authorities, clock=clock)
    assert roots.lists() == ()
    with pytest.raises(NotFound):
        await exchange.give_up(why="none", by=ADMINISTRATOR)
    await exchange.take(bundle(THEIRS), why="by phone", by=ADMINISTRATOR)
    await exchange.take(bundle(THEIRS, MORE), why="they rotate", by=ADMINISTRATOR)
    again = ExchangedRoots(store=store)
    await again.start()
    for found in (roots, again):
        assert set(found.roots()) == {THEIRS.certificate, MORE.certificate}
        assert found.lists() is None, "of their issuing authorities nothing is known"
        assert not found.jwt_keys()
    await exchange.give_up(why="it ended", by=ADMINISTRATOR)
    assert (roots.roots(), roots.lists(), await store.load(), authorities.settled) == ((), (), [], 3)
    async with database.transaction() as connection:
        query = select(audit.c.what, audit.c.target, audit.c.why, audit.c.detail).order_by(audit.c.number)
        told = (await connection.execute(query)).all()
    assert [tuple(row)[:3] for row in told] == [
        ("bundle.exchange", A_TEST.name, "by phone"),
        ("bundle.exchange", A_TEST.name, "they rotate"),
        ("bundle.give_up", A_TEST.name, "it ended"),
    ]
    assert THEIRS.certificate.fingerprint(hashes.SHA256()).hex() in told[0].detail


class SlowStore:
    """A real store whose answers come late: what was written is durable, and whoever asked does not know it yet."""

    def __init__(self, store: SqlExchangedRoots) -> None:
        self._store = store
        self.has_written = asyncio.Event()
        self.answers = asyncio.Event()

    async def load(self) -> Sequence[x509.Certificate]:
        return await self._store.load()

    async def replace(self, roots: Sequence[x509.Certificate], act: Act) -> None:
        await self._store.replace(roots, act)
        self.has_written.set()
        await self.answers.wait()

    async def retired(self) -> Sequence[x509.Certificate]:
        return await self._store.retired()


async def test_an_act_whose_caller_goes_away_is_in_force_once_it_is_told_and_the_next_one_waits_for_it(
    database: Database, clock: FakeClock
) -> None:
    store = SlowStore(SqlExchangedRoots(database=database, clock=clock))
    authorities, roots = Authorities(), ExchangedRoots(store=store)
    exchange = Exchange(roots=roots, authorities=authorities, clock=clock)
    taking = asyncio.create_task(exchange.take(bundle(THEIRS), why="by phone", by=ADMINISTRATOR))
    await store.has_written.wait()
    taking.cancel()
    await asyncio.wait([taking])
    giving_up = asyncio.create_task(exchange.give_up(why="they were broken into", by=ADMINISTRATOR))
    store.answers.set()
    assert await giving_up == (THEIRS.certificate,), "it has seen what came before it"
    assert (roots.roots(), await store.load(), authorities.settled) == ((), [], 2)
