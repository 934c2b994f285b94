"""Federations and foreign bundles, in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from ca.audit.model import Act
from ca.federation.known import KnownBundle, Source
from ca.federation.model import Federation
from ca.federation.settings import Profile
from ca.store.audit import record_act
from ca.store.database import Database
from ca.store.schema import federations, foreign_bundles
from citadel.bundle import TrustBundle
from citadel.spiffe import SpiffeId, TrustDomain


class SqlForeignBundles:
    """Fulfils `ca.federation.known.ForeignBundleStore`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def load(self) -> Sequence[KnownBundle]:
        query = select(foreign_bundles).order_by(foreign_bundles.c.trust_domain)
        async with self._database.reading() as connection:
            return [_bundle(row) for row in await connection.execute(query)]

    async def put(self, known: KnownBundle, act: Act | None, *, at: datetime, federation: Federation | None) -> None:
        name = known.bundle.trust_domain.name
        values = {"document": known.bundle.to_json(), "source": known.source.value, "updated_at": known.updated_at}
        mine = foreign_bundles.c.trust_domain == name
        async with self._database.transaction() as connection:
            changed = await connection.execute(update(foreign_bundles).where(mine).values(values))
            if changed.rowcount == 0:
                await connection.execute(insert(foreign_bundles).values(trust_domain=name, **values))
            if federation is not None:
                await connection.execute(insert(federations).values(_values(federation)))
            if act is not None:
                await record_act(connection, act, at=at)

    async def remove(self, trust_domain: TrustDomain, act: Act | None, *, at: datetime) -> None:
        async with self._database.transaction() as connection:
            for table in (foreign_bundles, federations):
                await connection.execute(delete(table).where(table.c.trust_domain == trust_domain.name))
            if act is not None:
                await record_act(connection, act, at=at)


class SqlFederations:
    """Fulfils `ca.federation.federations.FederationStore`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def load(self) -> Sequence[Federation]:
        query = select(federations).order_by(federations.c.trust_domain)
        async with self._database.reading() as connection:
            return [_federation(row) for row in await connection.execute(query)]

    async def create(self, federation: Federation, act: Act) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(insert(federations).values(_values(federation)))
            await record_act(connection, act, at=federation.created_at)

    async def note_refreshed(self, moments: Mapping[TrustDomain, datetime]) -> None:
        async with self._database.transaction() as connection:
            for trust_domain, at in moments.items():
                mine = federations.c.trust_domain == trust_domain.name
                await connection.execute(update(federations).where(mine).values(refreshed_at=at))


def _bundle(row: Row[Any]) -> KnownBundle:
    bundle = TrustBundle.from_json(TrustDomain(row.trust_domain), bytes(row.document))
    return KnownBundle(bundle=bundle, source=Source(row.source), updated_at=row.updated_at)


def _values(federation: Federation) -> dict[str, Any]:
    return {
        "trust_domain": federation.trust_domain.name,
        "endpoint_url": federation.endpoint_url,
        "profile": federation.profile.value,
        "endpoint_id": str(federation.endpoint_id or ""),
        "created_at": federation.created_at,
        "refreshed_at": federation.refreshed_at,
    }


def _federation(row: Row[Any]) -> Federation:
    return Federation(
        trust_domain=TrustDomain(row.trust_domain),
        endpoint_url=row.endpoint_url,
        profile=Profile(row.profile),
        endpoint_id=SpiffeId.parse(row.endpoint_id) if row.endpoint_id else None,
        created_at=row.created_at,
        refreshed_at=row.refreshed_at,
    )
