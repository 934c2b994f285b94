"""JWT authorities in SQL."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from sqlalchemy import Row, insert, or_, select, update

from ca.authority.jwt_model import JwtAuthority
from ca.authority.model import AuthorityState
from ca.store.database import Database
from ca.store.schema import jwt_authorities
from citadel.errors import FailedPrecondition, Reason
from citadel.jwk import JwtKey


class SqlJwtAuthorityStore:
    """Fulfils `ca.authority.jwt_ports.JwtAuthorityStore`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def load(self) -> Sequence[JwtAuthority]:
        query = (
            select(jwt_authorities)
            .where(jwt_authorities.c.state != AuthorityState.REVOKED.value)
            .order_by(jwt_authorities.c.not_before, jwt_authorities.c.id)
        )
        async with self._database.transaction() as connection:
            return [_from_row(row) for row in await connection.execute(query)]

    async def withdrawn(self) -> Collection[str]:
        query = select(jwt_authorities.c.key_id).where(jwt_authorities.c.state == AuthorityState.REVOKED.value)
        async with self._database.transaction() as connection:
            return list((await connection.execute(query)).scalars())

    async def record(self, authority: JwtAuthority) -> None:
        values = {
            "state": authority.state.value,
            "key_id": authority.key_id,
            "public_key": authority.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            "not_before": authority.not_before,
            "not_after": authority.not_after,
            "signed_until": authority.signed_until,
        }
        known = jwt_authorities.c.id == authority.id
        async with self._database.transaction() as connection:
            changed = await connection.execute(update(jwt_authorities).where(known).values(values))
            if changed.rowcount == 0:
                await connection.execute(insert(jwt_authorities).values(id=authority.id, **values))

    async def set_states(self, states: Mapping[str, AuthorityState]) -> None:
        async with self._database.transaction() as connection:
            for authority_id, state in states.items():
                await connection.execute(
                    update(jwt_authorities).where(jwt_authorities.c.id == authority_id).values(state=state.value)
                )

    async def extend(self, authority_id: str, signed_until: datetime) -> None:
        column = jwt_authorities.c.signed_until
        is_earlier = or_(column.is_(None), column < signed_until)
        change = update(jwt_authorities).where(jwt_authorities.c.id == authority_id, is_earlier)
        async with self._database.transaction() as connection:
            await connection.execute(change.values(signed_until=signed_until))


def _from_row(row: Row[Any]) -> JwtAuthority:
    return JwtAuthority(
        id=row.id,
        state=AuthorityState(row.state),
        key_id=row.key_id,
        public_key=_public_key(row.public_key, row.id),
        not_before=row.not_before,
        not_after=row.not_after,
        signed_until=row.signed_until,
    )


def _public_key(der: bytes, authority_id: str) -> JwtKey:
    key = load_der_public_key(der)
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise FailedPrecondition(Reason.DATA_DIR_FOREIGN, f"the key of JWT authority {authority_id} is of another kind")
    return key
