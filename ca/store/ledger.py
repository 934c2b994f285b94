"""The ledger in SQL: one writer, one commit in flight, rows of concurrent requests grouped into it.

A commit costs the same for 32 rows as for one, so whoever waits for a commit takes all that came meanwhile along.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from sqlalchemy import insert

from ca.issuance.ledger import LedgerRow
from ca.store.database import Database
from ca.store.schema import ledger
from citadel.errors import CitadelError, PermissionDenied, Reason, Unavailable
from citadel.spiffe import SpiffeId

_log = structlog.get_logger(__name__)

_LINGER_SECONDS: Final = 0.002
_ENOUGH_ROWS: Final = 64
_MOST_WAITING: Final = 10_000


@dataclass(slots=True, eq=False)
class _Append:  # compared by identity
    rows: Sequence[LedgerRow]
    done: asyncio.Future[None]


class SqlLedger:
    """Fulfils `ca.issuance.ledger.Ledger`; `run` writes, for as long as the server lives."""

    def __init__(self, *, database: Database, is_banned: Callable[[SpiffeId], bool]) -> None:
        self._database = database
        self._is_banned = is_banned
        self._waiting: list[_Append] = []
        self._arrived = asyncio.Event()

    async def append(self, rows: Sequence[LedgerRow]) -> None:
        if not rows:
            return
        if sum(len(append.rows) for append in self._waiting) + len(rows) > _MOST_WAITING:
            raise Unavailable(Reason.STORE_UNAVAILABLE, "the ledger is behind; try again later")
        append = _Append(rows, asyncio.get_running_loop().create_future())
        self._waiting.append(append)
        self._arrived.set()
        await append.done

    async def run(self) -> None:
        """Commit what was appended, for ever. On the way out every waiter is refused, never left hanging."""
        try:
            while True:
                await self._arrived.wait()
                if sum(len(append.rows) for append in self._waiting) < _ENOUGH_ROWS:
                    await asyncio.sleep(_LINGER_SECONDS)
                batch, self._waiting = self._waiting, []
                self._arrived.clear()
                await self._commit(batch)
        finally:
            self._settle(self._waiting, Unavailable(Reason.STORE_UNAVAILABLE, "the server is stopping"))

    async def _commit(self, batch: Sequence[_Append]) -> None:
        # The last moment before a certificate becomes real: an agent that was banned while its request was in flight
        # gets nothing more.
        banned = [append for append in batch if any(self._is_banned(row.requested_by) for row in append.rows)]
        self._settle(banned, PermissionDenied(Reason.AGENT_BANNED, "the agent is banned"))
        batch = [append for append in batch if append not in banned and not append.done.done()]
        if not batch:
            return
        try:
            async with self._database.transaction() as connection:
                await connection.execute(insert(ledger), [_to_row(row) for append in batch for row in append.rows])
        except CitadelError as error:
            _log.error("ledger not written", reason=error.reason, error=str(error), rows=len(batch))
            self._settle(batch, error)
        except BaseException:
            self._settle(batch, Unavailable(Reason.STORE_UNAVAILABLE, "the ledger was not written"))
            raise
        else:
            self._settle(batch, None)

    @staticmethod
    def _settle(batch: Sequence[_Append], error: CitadelError | None) -> None:
        for append in batch:
            if append.done.done():
                continue
            if error is None:
                append.done.set_result(None)
            else:
                append.done.set_exception(error)


def _to_row(row: LedgerRow) -> dict[str, Any]:
    return {
        "serial": row.serial,
        "spiffe_id": str(row.spiffe_id),
        "entry_id": row.entry_id,
        "requested_by": str(row.requested_by),
        "issuer_id": row.issuer_id,
        "public_key": row.public_key,
        "not_before": row.not_before,
        "not_after": row.not_after,
        "issued_at": row.issued_at,
        "limited_by": row.limited_by,
    }
