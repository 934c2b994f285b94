"""What the ledger knows of the agents' own SVIDs."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import insert

from ca.agents.model import OwnSvid
from ca.store.database import Database
from ca.store.own_svids import SqlOwnSvids
from ca.store.schema import ledger
from tests.clock import FakeClock
from tests.csrs import csr
from tests.unit.ca.joiner import Joiner
from tests.unit.ca.values import NODE_1, NODE_2, NOW

HOUR = timedelta(hours=1)


@pytest.fixture
async def svids(database: Database, clock: FakeClock) -> SqlOwnSvids:
    """Two agents that have joined, of which the first has three rows in the ledger."""
    server = Joiner(database, clock)
    for name in ("node-1", "node-2"):
        await server.joining.join(await server.token(name), csr())
    rows = [row("1", "k1", NOW + HOUR), row("2", "k1", NOW + 3 * HOUR), row("3", "k2", NOW + 2 * HOUR)]
    async with database.transaction() as connection:
        await connection.execute(insert(ledger), rows)
    return SqlOwnSvids(database=database)


def row(serial: str, key: str, not_after: datetime) -> dict[str, object]:
    return {
        "serial": serial,
        "spiffe_id": str(NODE_1),
        "entry_id": "",
        "requested_by": str(NODE_1),
        "issuer_id": "i",
        "public_key": key,
        "not_before": NOW,
        "not_after": not_after,
        "issued_at": NOW,
        "limited_by": "default",
    }


async def test_the_newest_is_the_one_that_was_issued_last(svids: SqlOwnSvids) -> None:
    assert await svids.newest([NODE_1, NODE_2]) == {NODE_1: OwnSvid(serial="3", not_after=NOW + 2 * HOUR)}
    assert await svids.newest([NODE_2]) == {}
    assert await svids.newest([]) == {}


async def test_a_key_ends_with_its_last_certificate(svids: SqlOwnSvids) -> None:
    assert await svids.key_ended_at(NODE_1, "k1") == NOW + 3 * HOUR
    assert await svids.key_ended_at(NODE_1, "k2") == NOW + 2 * HOUR
    assert await svids.key_ended_at(NODE_1, "k3") is None
    assert await svids.key_ended_at(NODE_2, "k1") is None
