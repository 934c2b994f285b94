"""Exchanged roots in SQL."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import delete, insert, select

from ca.audit.model import Act
from ca.authority.model import AuthorityKind, AuthorityState
from ca.store.audit import record_act
from ca.store.database import Database
from ca.store.schema import authorities, exchanged_roots
from citadel.clock import Clock


class SqlExchangedRoots:
    """Fulfils `ca.federation.exchanged.ExchangedStore`."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def load(self) -> Sequence[x509.Certificate]:
        query = select(exchanged_roots.c.certificate).order_by(exchanged_roots.c.digest)
        async with self._database.reading() as connection:
            return [_certificate(der) for der in (await connection.execute(query)).scalars()]

    async def replace(self, roots: Sequence[x509.Certificate], act: Act) -> None:
        rows = [
            {"digest": each.fingerprint(hashes.SHA256()).hex(), "certificate": each.public_bytes(Encoding.DER)}
            for each in roots
        ]
        async with self._database.transaction() as connection:
            await connection.execute(delete(exchanged_roots))
            if rows:
                await connection.execute(insert(exchanged_roots), rows)
            await record_act(connection, act, at=self._clock.now())

    async def retired(self) -> Sequence[x509.Certificate]:
        gone = (authorities.c.kind == AuthorityKind.ROOT.value) & (authorities.c.state == AuthorityState.REVOKED.value)
        async with self._database.reading() as connection:
            ders = (await connection.execute(select(authorities.c.certificate).where(gone))).scalars()
            return [_certificate(der) for der in ders]


def _certificate(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(bytes(der))
