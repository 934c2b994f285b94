"""Authorities and the sequence of the own bundle, in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Row, insert, select, update

from ca.authority.model import Authority, AuthorityKind, AuthorityState
from ca.authority.ports import BundleSequences
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
            "chain": b"".join(each.public_bytes(Encoding.PEM) for each in authority.chain) or None,
        }
        known = authorities.c.id == authority.id
        async with self._database.transaction() as connection:
            changed = await connection.execute(update(authorities).where(known).values(values))
            if changed.rowcount == 0:
                await connection.execute(insert(authorities).values(id=authority.id, **values))

    async def set_states(self, states: Mapping[str, AuthorityState]) -> None:
        async with self._database.transaction() as connection:
            for authority_id, state in states.items():
                taint = {"was_tainted": True} if state is AuthorityState.TAINTED else {}
                await connection.execute(
                    update(authorities).where(authorities.c.id == authority_id).values(state=state.value, **taint)
                )

    async def tainted_roots(self) -> Sequence[x509.Certificate]:
        is_root = authorities.c.kind == AuthorityKind.ROOT.value
        query = select(authorities.c.certificate).where(is_root, authorities.c.was_tainted.is_(True))
        async with self._database.transaction() as connection:
            return [x509.load_der_x509_certificate(der) for der in (await connection.execute(query)).scalars()]

    async def bundle_sequences(self, *, x509: str, jwt: str) -> BundleSequences:
        name = self._trust_domain.name
        async with self._database.transaction() as connection:
            row = (await connection.execute(select(bundles).where(bundles.c.trust_domain == name))).one_or_none()
            if row is None:
                first = {"sequence": 1, "x509_sequence": 1, "jwt_sequence": 1, "digest": x509, "jwt_digest": jwt}
                await connection.execute(insert(bundles).values(trust_domain=name, **first))
                return BundleSequences(bundle=1, x509=1, jwt=1)
            is_new = (row.digest != x509, row.jwt_digest != jwt)
            sequence = int(row.sequence) + any(is_new)
            found = BundleSequences(
                bundle=sequence,
                x509=sequence if is_new[0] else int(row.x509_sequence),
                jwt=sequence if is_new[1] else int(row.jwt_sequence),
            )
            if any(is_new):
                await connection.execute(
                    update(bundles)
                    .where(bundles.c.trust_domain == name)
                    .values(
                        sequence=found.bundle,
                        x509_sequence=found.x509,
                        jwt_sequence=found.jwt,
                        digest=x509,
                        jwt_digest=jwt,
                    )
                )
            return found


def _from_row(row: Row[tuple[object, ...]]) -> Authority:
    return Authority(
        id=row.id,
        kind=AuthorityKind(row.kind),
        state=AuthorityState(row.state),
        key_id=row.key_id,
        certificate=x509.load_der_x509_certificate(row.certificate),
        parent_id=row.parent_id,
        created_at=row.created_at,
        chain=tuple(x509.load_pem_x509_certificates(row.chain)) if row.chain else (),
    )
