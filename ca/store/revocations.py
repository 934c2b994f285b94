"""Revocations, the lists that were signed, and what the ledger knows of certificates, in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from cryptography.x509 import ReasonFlags
from sqlalchemy import ColumnElement, Row, delete, exists, func, insert, select, update

from ca.audit.model import Act
from ca.revocation.model import IssuedCertificate, Revocation, RevocationKind, RevokedCertificate
from ca.store.audit import record_act
from ca.store.database import Database
from ca.store.schema import ledger, revocation_lists, revocations, revoked_certificates
from citadel.spiffe import SpiffeId

_AT_ONCE = 500  # rows of one statement


class SqlRevocations:
    """Fulfils `ca.revocation.ports.RevocationStore` and `ListStore`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def record(self, revocation: Revocation, act: Act, *, at: datetime) -> None:
        values = _values(revocation)
        known = revocations.c.id == revocation.id
        async with self._database.transaction() as connection:
            changed = await connection.execute(update(revocations).where(known).values(values))
            if changed.rowcount == 0:
                await connection.execute(insert(revocations).values(id=revocation.id, **values))
            await record_act(connection, act, at=at)

    async def complete(self, revocation: Revocation, certificates: Sequence[RevokedCertificate]) -> Revocation:
        async with self._database.transaction() as connection:
            known = set[str]()
            for start in range(0, len(certificates), _AT_ONCE):
                serials = [each.serial for each in certificates[start : start + _AT_ONCE]]
                query = select(revoked_certificates.c.serial).where(revoked_certificates.c.serial.in_(serials))
                known.update((await connection.execute(query)).scalars())
            rows = [_certificate_values(each, revocation) for each in certificates if each.serial not in known]
            if rows:
                await connection.execute(insert(revoked_certificates), rows)
            # Counted anew: whoever was killed after this, and begins again, finds the same number.
            mine = revoked_certificates.c.revocation_id == revocation.id
            number = await connection.scalar(select(func.count()).select_from(revoked_certificates).where(mine))
            completed = replace(revocation, certificates=number or 0)
            await connection.execute(
                update(revocations).where(revocations.c.id == revocation.id).values(_values(completed))
            )
            return completed

    async def unlifted(self) -> Sequence[Revocation]:
        query = select(revocations).where(revocations.c.lifted_at.is_(None)).order_by(revocations.c.revoked_at)
        async with self._database.reading() as connection:
            return [_from_row(row) for row in await connection.execute(query)]

    async def newest(self, limit: int) -> Sequence[Revocation]:
        query = select(revocations).order_by(revocations.c.revoked_at.desc(), revocations.c.id).limit(limit)
        async with self._database.reading() as connection:
            return [_from_row(row) for row in await connection.execute(query)]

    async def revoked(self, now: datetime) -> Sequence[RevokedCertificate]:
        query = select(revoked_certificates).where(revoked_certificates.c.not_after > now)
        async with self._database.reading() as connection:
            return [
                RevokedCertificate(
                    serial=row.serial,
                    issuer_id=row.issuer_id,
                    not_after=row.not_after,
                    revoked_at=row.revoked_at,
                    code=ReasonFlags(row.code),
                )
                for row in await connection.execute(query)
            ]

    async def lists(self) -> Mapping[str, bytes]:
        async with self._database.reading() as connection:
            return {row.authority_id: bytes(row.crl) for row in await connection.execute(select(revocation_lists))}

    async def put_list(self, authority_id: str, crl: bytes) -> None:
        known = revocation_lists.c.authority_id == authority_id
        async with self._database.transaction() as connection:
            changed = await connection.execute(update(revocation_lists).where(known).values(crl=crl))
            if changed.rowcount == 0:
                await connection.execute(insert(revocation_lists).values(authority_id=authority_id, crl=crl))

    async def forget_lists(self, authority_ids: Sequence[str]) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(delete(revocation_lists).where(revocation_lists.c.authority_id.in_(authority_ids)))


class SqlIssuedCertificates:
    """Fulfils `ca.revocation.ports.IssuedCertificates`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def by_serial(self, serial: str) -> IssuedCertificate | None:
        found = await self._found(ledger.c.serial == serial)
        return found[0] if found else None

    async def of_identity(self, spiffe_id: SpiffeId, now: datetime) -> Sequence[IssuedCertificate]:
        return await self._found((ledger.c.spiffe_id == str(spiffe_id)) & (ledger.c.not_after > now))

    async def through(self, agent: SpiffeId, now: datetime) -> Sequence[IssuedCertificate]:
        return await self._found((ledger.c.requested_by == str(agent)) & (ledger.c.not_after > now))

    async def _found(self, condition: ColumnElement[bool]) -> list[IssuedCertificate]:
        later = ledger.alias("later")
        has_later = exists().where(
            later.c.requested_by == ledger.c.requested_by,
            later.c.spiffe_id == ledger.c.spiffe_id,  # has an index
            later.c.entry_id == ledger.c.entry_id,
            later.c.number > ledger.c.number,
        )
        query = select(ledger, (~has_later).label("is_newest")).where(condition).order_by(ledger.c.number)
        async with self._database.reading() as connection:
            return [
                IssuedCertificate(
                    serial=row.serial,
                    issuer_id=row.issuer_id,
                    spiffe_id=SpiffeId.parse(row.spiffe_id),
                    entry_id=row.entry_id,
                    requested_by=SpiffeId.parse(row.requested_by),
                    not_after=row.not_after,
                    is_newest=bool(row.is_newest),
                )
                for row in await connection.execute(query)
            ]


def _values(revocation: Revocation) -> dict[str, Any]:
    return {
        "kind": revocation.kind.value,
        "target": revocation.target,
        "reason": revocation.reason,
        "code": revocation.code.value,
        "revoked_at": revocation.revoked_at,
        "revoked_by": revocation.revoked_by,
        "entry_id": revocation.entry_id,
        "agent": revocation.agent,
        "certificates": revocation.certificates,
        "completed_at": revocation.completed_at,
        "lifted_at": revocation.lifted_at,
    }


def _certificate_values(certificate: RevokedCertificate, revocation: Revocation) -> dict[str, Any]:
    return {
        "serial": certificate.serial,
        "issuer_id": certificate.issuer_id,
        "revocation_id": revocation.id,
        "not_after": certificate.not_after,
        "revoked_at": certificate.revoked_at,
        "code": certificate.code.value,
    }


def _from_row(row: Row[Any]) -> Revocation:
    return Revocation(
        id=row.id,
        kind=RevocationKind(row.kind),
        target=row.target,
        reason=row.reason,
        code=ReasonFlags(row.code),
        revoked_at=row.revoked_at,
        revoked_by=row.revoked_by,
        entry_id=row.entry_id,
        agent=row.agent,
        certificates=row.certificates,
        completed_at=row.completed_at,
        lifted_at=row.lifted_at,
    )
