"""Federations and foreign bundles in SQL: what a restart finds."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import select

from ca.federation.known import ForeignBundles, KnownBundle, Source
from ca.store.database import Database
from ca.store.federation import SqlFederations, SqlForeignBundles
from ca.store.schema import audit
from citadel.spiffe import TrustDomain
from tests.certificates import A_TEST, B_TEST
from tests.unit.ca.test_foreign_bundles import ACT, FEDERATION, LATER, OF_B
from tests.unit.ca.values import NOW

C_TEST = TrustDomain("c.test")


async def test_a_caller_that_goes_away_leaves_memory_and_store_together(database: Database) -> None:
    bundles = ForeignBundles(trust_domain=A_TEST, store=SqlForeignBundles(database=database))
    putting = asyncio.create_task(bundles.put(OF_B, Source.SET, NOW))
    await asyncio.sleep(0)
    putting.cancel()
    await bundles.put(OF_B, Source.SET, NOW)  # waits its turn
    known = bundles.get(B_TEST)
    assert known is not None
    assert await SqlForeignBundles(database=database).load() == [known]


@pytest.mark.spec("FED-32", "BUNDLE-06")
async def test_both_survive_a_restart_with_what_was_done(database: Database) -> None:
    federations, store = SqlFederations(database=database), SqlForeignBundles(database=database)
    bundles = ForeignBundles(trust_domain=A_TEST, store=store)
    await bundles.put(OF_B, Source.SET, NOW, act=ACT)
    created = replace(ACT, what="federation.create")
    await bundles.put(OF_B, Source.FEDERATION, LATER, act=created, federation=FEDERATION)
    await federations.create(replace(FEDERATION, trust_domain=C_TEST), created)
    await federations.note_refreshed({B_TEST: LATER})
    again = ForeignBundles(trust_domain=A_TEST, store=store)
    await again.start()
    assert dict(again.all()) == dict(bundles.all())
    assert again.all()[B_TEST].source is Source.FEDERATION
    in_b, in_c = replace(FEDERATION, refreshed_at=LATER), replace(FEDERATION, trust_domain=C_TEST)
    assert await federations.load() == [in_b, in_c]
    await again.remove(B_TEST, at=LATER, act=replace(ACT, what="federation.delete"))
    assert (await store.load(), await federations.load()) == ([], [in_c])
    async with database.transaction() as connection:
        told = (await connection.execute(select(audit.c.what, audit.c.why).order_by(audit.c.number))).all()
    assert [tuple(row) for row in told] == [
        ("bundle.set", "they called"),
        ("federation.create", "they called"),
        ("federation.create", "they called"),
        ("federation.delete", "they called"),
    ]


async def test_rows_of_the_own_domain_are_not_taken(database: Database) -> None:
    store = SqlForeignBundles(database=database)
    await store.put(KnownBundle(bundle=OF_B, source=Source.SET, updated_at=NOW), None, at=NOW, federation=None)
    bundles = ForeignBundles(trust_domain=B_TEST, store=store)
    await bundles.start()
    assert dict(bundles.all()) == {}
