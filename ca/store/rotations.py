"""Rotations in SQL, and what the ledger knows of certificates that have not ended."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, Select, func, insert, select, update

from ca.audit.model import Act
from ca.rotation.model import Phase, Rotation, RotationKind, Scope
from ca.store.audit import record_act
from ca.store.database import Database
from ca.store.schema import ledger, revoked_certificates, rotations
from citadel.reserved import is_k8s_door_id
from citadel.spiffe import SpiffeId

_AT_ONCE: Final = 50  # IDs in one query


def _everybody() -> Select[tuple[str]]:
    """Whoever asked for a certificate at some time: one step along an index for each, however many they had."""
    first = select(func.min(ledger.c.requested_by).label("id"))
    who = first.cte("who", recursive=True)
    further = select(func.min(ledger.c.requested_by)).where(ledger.c.requested_by > who.c.id).scalar_subquery()
    who = who.union_all(select(further).where(who.c.id.is_not(None)))
    return select(who.c.id).where(who.c.id.is_not(None))


_EVERYBODY: Final = _everybody()


class SqlRotations:
    """Fulfils `ca.rotation.ports.RotationStore`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def unfinished(self) -> Rotation | None:
        query = select(rotations).where(rotations.c.ended_at.is_(None)).order_by(rotations.c.started_at).limit(1)
        async with self._database.transaction() as connection:
            row = (await connection.execute(query)).first()
            return _from_row(row) if row is not None else None

    async def save(self, rotation: Rotation, act: Act, *, at: datetime) -> None:
        values = _values(rotation)
        async with self._database.transaction() as connection:
            changed = await connection.execute(update(rotations).where(rotations.c.id == rotation.id).values(values))
            if changed.rowcount == 0:
                await connection.execute(insert(rotations).values(id=rotation.id, **values))
            await record_act(connection, act, at=at)

    async def newest(self, limit: int) -> Sequence[Rotation]:
        query = select(rotations).order_by(rotations.c.started_at.desc(), rotations.c.id).limit(limit)
        async with self._database.reading() as connection:
            return [_from_row(row) for row in await connection.execute(query)]


class SqlIssuedEnds:
    """Fulfils `ca.rotation.ports.IssuedEnds`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def last_ends(
        self,
        *,
        now: datetime,
        issued_after: datetime,
        without: Collection[str],
        issuer_ids: Collection[str] | None = None,
    ) -> Mapping[str, datetime]:
        # By the index of those who asked: what was issued through the others, nearly all there is, is not looked at.
        query = (
            select(ledger.c.requested_by, func.max(ledger.c.not_after).label("ends"))
            .where(ledger.c.issued_at >= issued_after, ledger.c.not_after > now)
            .where(ledger.c.serial.not_in(select(revoked_certificates.c.serial)))
            .group_by(ledger.c.requested_by)
        )
        if issuer_ids is not None:
            query = query.where(ledger.c.issuer_id.in_(sorted(issuer_ids)))
        async with self._database.reading() as connection:
            everybody = [row.id for row in await connection.execute(_EVERYBODY)]
        return await self._ends_of([who for who in everybody if who not in without], query)

    async def last_end_of_asking(self, *, issued_after: datetime) -> datetime | None:
        """As `ca.rotation.asking.HandedOut` has it: of what was recorded for the doors of Kubernetes."""
        query = (
            select(ledger.c.requested_by, func.max(ledger.c.not_after).label("ends"))
            .where(ledger.c.issued_at >= issued_after)
            .where(ledger.c.serial.not_in(select(revoked_certificates.c.serial)))
            .group_by(ledger.c.requested_by)
        )
        async with self._database.reading() as connection:
            everybody = [row.id for row in await connection.execute(_EVERYBODY)]
        ends = await self._ends_of([who for who in everybody if is_k8s_door_id(SpiffeId.parse(who))], query)
        return max(ends.values(), default=None)

    async def _ends_of(self, wanted: Sequence[str], query: Select[tuple[str, datetime]]) -> Mapping[str, datetime]:
        ends: dict[str, datetime] = {}
        for start in range(0, len(wanted), _AT_ONCE):  # each in its own time: those who are away may be very many
            some = query.where(ledger.c.requested_by.in_(wanted[start : start + _AT_ONCE]))
            async with self._database.reading() as connection:
                ends |= {row.requested_by: row.ends for row in await connection.execute(some)}
        return ends

    async def last_end(self, *, issued_after: datetime, issuer_ids: Collection[str]) -> datetime | None:
        query = (
            select(func.max(ledger.c.not_after))
            .where(ledger.c.issued_at >= issued_after, ledger.c.issuer_id.in_(sorted(issuer_ids)))
            .where(ledger.c.serial.not_in(select(revoked_certificates.c.serial)))
        )
        async with self._database.reading() as connection:
            end: datetime | None = await connection.scalar(query)
            return end

    async def last_end_of_workloads(
        self, agent: SpiffeId, *, issued_before: datetime, now: datetime, issuer_ids: Collection[str] | None = None
    ) -> datetime | None:
        query = (
            select(func.max(ledger.c.not_after))
            .where(ledger.c.requested_by == str(agent), ledger.c.issued_at < issued_before, ledger.c.entry_id != "")
            .where(ledger.c.not_after > now)
            .where(ledger.c.serial.not_in(select(revoked_certificates.c.serial)))
        )
        if issuer_ids is not None:
            query = query.where(ledger.c.issuer_id.in_(sorted(issuer_ids)))
        async with self._database.reading() as connection:
            end: datetime | None = await connection.scalar(query)
            return end


def _values(rotation: Rotation) -> dict[str, Any]:
    return {
        "kind": rotation.kind.value,
        "phase": rotation.phase.value,
        "started_at": rotation.started_at,
        "phase_since": rotation.phase_since,
        "ended_at": rotation.ended_at,
        "started_by": rotation.started_by,
        "why": rotation.why,
        "new_id": rotation.new_id,
        "old_ids": json.dumps(rotation.old_ids),
        "spiffe_id": rotation.scope.spiffe_id,
        "agent": rotation.scope.agent,
        "renew_window": rotation.window,
        "margin": rotation.margin,
        "deadline": rotation.deadline,
        "paused": rotation.paused,
        "skipped": json.dumps(sorted(rotation.skipped)),
        "alarm": rotation.alarm,
    }


def _from_row(row: Row[Any]) -> Rotation:
    return Rotation(
        id=row.id,
        kind=RotationKind(row.kind),
        phase=Phase(row.phase),
        started_at=row.started_at,
        phase_since=row.phase_since,
        ended_at=row.ended_at,
        started_by=row.started_by,
        why=row.why,
        new_id=row.new_id,
        old_ids=tuple(json.loads(row.old_ids)),
        scope=Scope(spiffe_id=row.spiffe_id, agent=row.agent),
        window=row.renew_window,
        margin=row.margin,
        deadline=row.deadline,
        paused=row.paused,
        skipped=frozenset(json.loads(row.skipped)),
        alarm=row.alarm,
    )
