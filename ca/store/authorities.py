"""Authorities and the sequence of the own bundle, in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Row, insert, select, update

from ca.authority.model import Authority, AuthorityKind, AuthorityState
from ca.store.database import Database
from ca.store.schema import authorities, bundles
from citadel.spiffe import TrustDomain


class SqlAuthorityStore:
    """Fulfils `ca.authority.ports.AuthorityStore`."""

    def __init__(self, *, database: Database, trust_domain: TrustDomain) -> None:
        self._database = database
        self._trust_domain = trust_domain

    async def load(self) -> Sequence[Authority]:
        query = (
            select(authorities)
            .where(authorities.c.state != AuthorityState.REVOKED.value)
            .order_by(authorities.c.created_at, authorities.c.id)
        )
        async with self._database.transaction() as connection:
            return [_from_row(row) for row in await connection.execute(query)]

    async def record(self, authority: Authority) -> None:
        values = {
            "kind": authority.kind.value,
            "state": authority.state.value,
            "key_id": authority.key_id,
            "certificate": authority.certificate.public_bytes(Encoding.DER),
            "parent_id": authority.parent_id,
            "created_at": authority.created_at,
        }
        known = authorities.c.id == authority.id
        async with self._database.transaction() as connection:
            changed = await connection.execute(update(authorities).where(known).values(values))
            if changed.rowcount == 0:
                await connection.execute(insert(authorities).values(id=authority.id, **values))

    async def set_states(self, states: Mapping[str, AuthorityState]) -> None:
        async with self._database.transaction() as connection:
            for authority_id, state in states.items():
                await connection.execute(
                    update(authorities).where(authorities.c.id == authority_id).values(state=state.value)
                )

    async def bundle_sequence(self, digest: str) -> int:
        name = self._trust_domain.name
        async with self._database.transaction() as connection:
            row = (await connection.execute(select(bundles).where(bundles.c.trust_domain == name))).one_or_none()
            if row is None:
                await connection.execute(insert(bundles).values(trust_domain=name, sequence=1, digest=digest))
                return 1
            if row.digest == digest:
                return int(row.sequence)
            sequence = int(row.sequence) + 1
            await connection.execute(
                update(bundles).where(bundles.c.trust_domain == name).values(sequence=sequence, digest=digest)
            )
            return sequence


def _from_row(row: Row[tuple[object, ...]]) -> Authority:
    return Authority(
        id=row.id,
        kind=AuthorityKind(row.kind),
        state=AuthorityState(row.state),
        key_id=row.key_id,
        certificate=x509.load_der_x509_certificate(row.certificate),
        parent_id=row.parent_id,
        created_at=row.created_at,
    )
