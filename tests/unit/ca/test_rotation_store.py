"""Rotations in the store, and what the ledger says of certificates that have not ended."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any, Final

import pytest
from sqlalchemy import insert, select

from ca.audit.model import Act
from ca.rotation.model import Phase, Rotation, RotationKind, Scope
from ca.store.database import Database
from ca.store.rotations import SqlIssuedEnds, SqlRotations
from ca.store.schema import audit, ledger, revoked_certificates, rotations
from citadel.errors import Unavailable
from citadel.spiffe import SpiffeId
from tests.unit.ca import records
from tests.unit.ca.values import A_TEST, ADMINISTRATOR, NODE_1, NODE_2, NOW

HOUR: Final = timedelta(hours=1)
BEGUN: Final = Rotation(
    id="r1",
    kind=RotationKind.ROOT,
    phase=Phase.PREPARE,
    started_at=NOW,
    phase_since=NOW,
    started_by="local:uid:0",
    window=timedelta(minutes=5),
    margin=timedelta(milliseconds=500),
    why="it is time",
    new_id="2" * 32,
    old_ids=("1" * 32, "0" * 32),
)
FULL: Final = replace(
    BEGUN,
    phase=Phase.DRAIN,
    phase_since=NOW + HOUR,
    scope=Scope(spiffe_id="spiffe://a.test/web", agent="node-1"),
    deadline=NOW + timedelta(seconds=30),
    paused=True,
    skipped=frozenset({"node-1", "node-2/7"}),
    alarm="went on without node-3",
)


def act(detail: str = "") -> Act:
    return Act(actor=ADMINISTRATOR, what="rotation.phase", target="r1", detail=detail)


async def save(database: Database, *all_of: Rotation) -> None:
    for each in all_of:
        await SqlRotations(database=database).save(each, act(each.phase.value), at=NOW)


async def audited(database: Database) -> list[str]:
    async with database.reading() as connection:
        return list(await connection.scalars(select(audit.c.detail).order_by(audit.c.number)))


@pytest.mark.invariant(12)
async def test_a_rotation_comes_back_as_it_was_saved_last(database: Database) -> None:
    store = SqlRotations(database=database)
    assert await store.unfinished() is None
    for each in (BEGUN, FULL):
        await save(database, each)
        assert await store.unfinished() == each
        assert await store.newest(10) == [each]
    await save(database, done := replace(FULL, phase=Phase.DONE, ended_at=NOW + 2 * HOUR))
    assert await store.unfinished() is None
    assert await store.newest(10) == [done]
    assert await audited(database) == ["prepare", "drain", "done"]


async def test_the_newest_come_first_and_so_many_as_were_asked_for(database: Database) -> None:
    past = [replace(BEGUN, id=f"r{hour}", started_at=NOW + hour * HOUR, ended_at=NOW) for hour in range(5)]
    await save(database, *past[3:], *past[:3])
    found = await SqlRotations(database=database).newest(3)
    assert [each.id for each in found] == ["r4", "r3", "r2"]


@pytest.mark.invariant(10)
async def test_a_phase_and_its_act_are_durable_together_or_not_at_all(database: Database) -> None:
    await save(database, BEGUN)
    too_long = replace(act(), what=None)  # type: ignore[arg-type] # what the database refuses
    with pytest.raises(Unavailable):
        await SqlRotations(database=database).save(FULL, too_long, at=NOW)
    assert await SqlRotations(database=database).unfinished() == BEGUN
    broken = replace(FULL, started_by=None)  # type: ignore[arg-type] # as above
    with pytest.raises(Unavailable):
        await SqlRotations(database=database).save(broken, act("drain"), at=NOW)
    assert await audited(database) == ["prepare"]
    async with database.reading() as connection:
        assert len(list(await connection.execute(select(rotations)))) == 1


LOCAL: Final = SpiffeId(A_TEST, "/citadel/local/uid-0")


async def issue(database: Database, requested_by: SpiffeId, ends: timedelta, **changes: Any) -> None:
    row = records.row(requested_by, not_after=NOW + ends, **changes)
    values = asdict(row) | {"spiffe_id": str(row.spiffe_id), "requested_by": str(row.requested_by)}
    async with database.transaction() as connection:
        await connection.execute(insert(ledger).values(values))


async def last_ends(database: Database, **question: Any) -> dict[str, datetime]:
    asked: dict[str, Any] = {"now": NOW, "issued_after": NOW - 24 * HOUR, "without": ()}
    return dict(await SqlIssuedEnds(database=database).last_ends(**(asked | question)))


@pytest.mark.invariant(4)
async def test_the_last_end_of_everybody_who_asked_for_a_certificate(database: Database) -> None:
    assert await last_ends(database) == {}
    for who, hours, issuer in (
        (NODE_1, 1, "i1"),
        (NODE_1, 3, "i2"),
        (NODE_1, 2, "i1"),
        (NODE_2, -1, "i1"),
        (NODE_2, 0, "i2"),
        (LOCAL, 5, "i1"),
    ):
        await issue(database, who, hours * HOUR, issuer_id=issuer)
    ends = {str(NODE_1): NOW + 3 * HOUR, str(LOCAL): NOW + 5 * HOUR}
    assert await last_ends(database) == ends
    assert await last_ends(database, without=[str(LOCAL), "nobody"]) == {str(NODE_1): NOW + 3 * HOUR}
    assert await last_ends(database, issuer_ids=["i1"]) == ends | {str(NODE_1): NOW + 2 * HOUR}
    assert await last_ends(database, issuer_ids=["i2"]) == {str(NODE_1): NOW + 3 * HOUR}
    assert await last_ends(database, issuer_ids=[]) == {}
    assert await last_ends(database, now=NOW + 3 * HOUR) == {str(LOCAL): NOW + 5 * HOUR}


async def test_what_was_issued_before_any_that_is_valid_is_not_looked_at(database: Database) -> None:
    await issue(database, NODE_1, HOUR, issued_at=NOW - HOUR)
    await issue(database, NODE_1, 2 * HOUR, issued_at=NOW - 2 * HOUR)
    assert await last_ends(database, issued_after=NOW - 2 * HOUR) == {str(NODE_1): NOW + 2 * HOUR}
    assert await last_ends(database, issued_after=NOW - HOUR) == {str(NODE_1): NOW + HOUR}
    assert await last_ends(database, issued_after=NOW) == {}


async def test_what_is_revoked_does_not_count(database: Database) -> None:
    await issue(database, NODE_1, HOUR, serial="0a")
    await issue(database, NODE_1, 2 * HOUR, serial="0b")
    async with database.transaction() as connection:
        row = {"serial": "0b", "issuer_id": "i", "revocation_id": "r", "not_after": NOW, "revoked_at": NOW, "code": ""}
        await connection.execute(insert(revoked_certificates).values(row))
    assert await last_ends(database) == {str(NODE_1): NOW + HOUR}


async def test_very_many_are_asked_about_in_portions(database: Database) -> None:
    agents = [SpiffeId(A_TEST, f"/citadel/agent/node-{number}") for number in range(120)]
    for each in agents:
        await issue(database, each, HOUR)
    assert await last_ends(database) == {str(each): NOW + HOUR for each in agents}
