"""What was signed for child clusters and what they said, in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import delete, insert, select

from ca.audit.model import Act
from ca.clusters.gaps import Gap
from ca.clusters.model import ChildAuthority
from ca.clusters.ports import KeptReport
from ca.store.audit import record_act
from ca.store.database import Database
from ca.store.restores import ledger_gaps
from ca.store.schema import downstream_authorities, downstream_reports
from citadel._wire import clusters_pb2 as pb
from citadel.spiffe import SpiffeId


class SqlChildren:
    """Fulfils `ca.clusters.ports.ChildStore`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def authorities(self, now: datetime) -> Sequence[ChildAuthority]:
        table = downstream_authorities
        query = select(table).where(table.c.not_after > now).order_by(table.c.signed_at, table.c.serial)
        async with self._database.transaction() as connection:
            return [
                ChildAuthority(
                    child=SpiffeId.parse(row.child),
                    certificate=x509.load_der_x509_certificate(row.certificate),
                    root_key_id=bytes(row.root_key_id),
                    signed_at=row.signed_at,
                )
                for row in await connection.execute(query)
            ]

    async def record(self, authority: ChildAuthority, act: Act) -> None:
        table = downstream_authorities
        values = {
            "serial": authority.serial,
            "child": str(authority.child),
            "certificate": authority.certificate.public_bytes(Encoding.DER),
            "root_key_id": authority.root_key_id,
            "not_after": authority.not_after,
            "signed_at": authority.signed_at,
        }
        async with self._database.transaction() as connection:
            await connection.execute(delete(table).where(table.c.not_after <= authority.signed_at))
            await connection.execute(insert(table).values(values))
            await record_act(connection, act, at=authority.signed_at)

    async def gaps(self) -> Sequence[Gap]:
        return [Gap(begin=each.begin, end=each.end) for each in await ledger_gaps(self._database)]

    async def reports(self) -> Sequence[KeptReport]:
        query = select(downstream_reports).order_by(downstream_reports.c.said_at, downstream_reports.c.child)
        async with self._database.transaction() as connection:
            return [
                KeptReport(
                    child=SpiffeId.parse(row.child),
                    report=pb.ClusterReport.FromString(bytes(row.report)),
                    at=row.said_at,
                )
                for row in await connection.execute(query)
            ]

    async def keep(self, report: KeptReport) -> None:
        values = {"child": str(report.child), "report": report.report.SerializeToString(), "said_at": report.at}
        async with self._database.transaction() as connection:
            await connection.execute(delete(downstream_reports).where(downstream_reports.c.child == values["child"]))
            await connection.execute(insert(downstream_reports).values(values))

    async def forget(self, child: SpiffeId) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(delete(downstream_reports).where(downstream_reports.c.child == str(child)))
