"""Restoring: the store becomes what it was, in one transaction, and says what it does not know any more.

Numbers that others remember must not come twice with another meaning. Everything that counts goes on from the time of
the restore in milliseconds since 1970, which is above all that was ever published: bundle sequences (invariant 11), the
revision of the directory, and that of each entry.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import uuid4

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.audit.model import Act, Actor
from ca.authority.jwt_model import LONGEST_TOKEN
from ca.backup.elsewhere import keys_in_vault
from ca.backup.keys import KeyShelf
from ca.backup.reading import Summary, load
from ca.backup.tables import clear, count_on, counters, heads, insert_rows, is_empty, rows_of
from ca.lease.model import Holder, Sight
from ca.ledger.chain import Log
from ca.store.audit import record_act
from ca.store.chain import begin_segment
from ca.store.database import Database
from ca.store.lease import SqlLeaseStore
from ca.store.schema import bundles, entries, events, jwt_authorities, restores, tokens
from citadel.clock import Clock
from citadel.errors import FailedPrecondition, Reason

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SCRATCH: Final = ".restore-"
_MILLISECOND: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a restore did. Certificates that were issued between the two times are not in the ledger.

    So many keys of authorities are in Vault alone.
    """

    rows: int
    keys_in_vault: int
    gap_from: datetime
    gap_to: datetime


class Restorer:
    """Puts a backup into the store of a server that does not run."""

    def __init__(self, *, database: Database, keys: KeyShelf, folder: Path, holder: Holder, clock: Clock) -> None:
        """`folder` is private and takes, for a while, as much as the backup has; `holder` is who may own the store."""
        self._database = database
        self._keys = keys
        self._folder = folder
        self._holder = holder
        self._clock = clock

    async def restore(self, path: Path, summary: Summary, *, by: Actor, replace: bool) -> Restored:
        """Put the backup at `path` into the store: all of it, or nothing.

        Raises `FailedPrecondition` (`restore_refused`) where the store is not empty and `replace` is not set, or where
        a server owns it; as `ca.backup.reading.inspect`; or `Unavailable` (`store_unavailable`).
        """
        for left in self._folder.glob(f"{_SCRATCH}*"):  # by a restore that was killed
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=_SCRATCH) as scratch:
            source = Database.open(f"sqlite+aiosqlite:///{Path(scratch) / 'scratch.db'}")
            try:
                keys = await load(path, summary, source)
                return await self._copy(source, keys, summary, by=by, replace=replace)
            finally:
                await source.close()

    async def _copy(
        self, source: Database, keys: Mapping[str, bytes], summary: Summary, *, by: Actor, replace: bool
    ) -> Restored:
        lease = SqlLeaseStore(database=self._database)
        await lease.prepare()
        _check_lease(await lease.look(), self._holder)
        await self._database.migrate()
        rows = 0
        async with source.reading() as old, self._database.transaction(seconds=None) as new:
            await _keep_others_out(new)
            _check_lease(await lease.look(), self._holder)
            if not (replace or await is_empty(new)):
                raise FailedPrecondition(
                    Reason.RESTORE_REFUSED, "the store is not empty", fix="add --replace to lose what is in it"
                )
            floor = await _floor(new, self._clock.now())
            last = await counters(new)
            await clear(new)
            for head in heads():
                async for portion in rows_of(old, head):
                    await insert_rows(new, head, portion)
                    rows += len(portion)
            await self._keys.add(new, keys)
            known = summary.header.counters
            await count_on(new, {name: max(number, known.get(name, 0)) for name, number in last.items()})
            gap_to = self._clock.now()
            await _go_on_above(new, floor, trust_domain=summary.header.trust_domain.name, now=gap_to)
            await count_on(new, {})  # the revision among them
            await _tell(new, summary, by=by, at=gap_to)
            elsewhere = await keys_in_vault(new)
        await self._keys.keep_only(keys)
        return Restored(rows=rows, keys_in_vault=elsewhere, gap_from=summary.header.made_at, gap_to=gap_to)


async def _keep_others_out(connection: AsyncConnection) -> None:
    """Until the transaction ends nobody can take the lease, nor write with one. SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        await connection.execute(text("LOCK TABLE lease IN EXCLUSIVE MODE"))


def _check_lease(sight: Sight, holder: Holder) -> None:
    if not sight.may_be_taken_by(holder, returning=True):
        owner = sight.lease.holder.name if sight.lease is not None else "another server"
        raise FailedPrecondition(
            Reason.RESTORE_REFUSED,
            f"{owner} owns the store",
            fix=f"stop it; if it was killed, try again in {sight.remaining().total_seconds():.0f} s",
        )


async def _floor(connection: AsyncConnection, now: datetime) -> int:
    """A number above all that this store has ever published, and by the clock above what any other has."""
    seen = [
        await connection.scalar(select(func.max(column)))
        for column in (bundles.c.sequence, events.c.revision, entries.c.revision)
    ]
    return max((now - _EPOCH) // _MILLISECOND, *(int(number or 0) + 1 for number in seen))


async def _go_on_above(connection: AsyncConnection, floor: int, *, trust_domain: str, now: datetime) -> None:
    floor = max(floor, await _floor(connection, now))
    sequences = {"sequence": floor, "x509_sequence": floor, "jwt_sequence": floor}
    await connection.execute(update(bundles).where(bundles.c.trust_domain == trust_domain).values(sequences))
    await connection.execute(update(entries).values(revision=floor))
    await connection.execute(insert(events).values(revision=floor, kind="restored", subject=uuid4().hex))
    await _reserve_tokens(connection, now)
    # A token that was used after the backup would be good again.
    await connection.execute(update(tokens).where(tokens.c.expires_at > now).values(expires_at=now))


async def _reserve_tokens(connection: AsyncConnection, now: datetime) -> None:
    """Nobody knows which tokens were signed since the backup: a key stays until all that can be have ended."""
    known = jwt_authorities.c
    for row in (await connection.execute(select(known.id, known.not_after, known.signed_until))).all():
        latest = min(row.not_after, now + LONGEST_TOKEN)
        if row.signed_until is None or row.signed_until < latest:
            change = update(jwt_authorities).where(known.id == row.id)
            await connection.execute(change.values(signed_until=latest))


async def _tell(connection: AsyncConnection, summary: Summary, *, by: Actor, at: datetime) -> None:
    """Say what is missing, in a segment of its own: what was written after the backup may be known elsewhere."""
    made_at = summary.header.made_at
    await connection.execute(insert(restores).values(made_at=made_at, restored_at=at, digest=summary.digest.hex()))
    await begin_segment(connection, Log.AUDIT, writer=uuid4().hex, at=at)
    detail = (
        f"backup {summary.digest.hex()} of {made_at.isoformat()};"
        f" certificates issued from then to {at.isoformat()} are not in the ledger"
    )
    act = Act(actor=by, what="backup.restore", target=summary.header.trust_domain.name, detail=detail)
    await record_act(connection, act, at=at)
