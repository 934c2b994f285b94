"""Signing what the logs hold: checkpoints now and then, and the anchors of what is pruned by age."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog

from ca.audit.model import Act, Actor, ActorKind
from ca.audit.trail import Acts
from ca.authority.ports import KeyManager
from ca.keys.kinds import elliptic
from ca.keys.sealing import KeyPurpose
from ca.ledger.chain import Head, Log
from ca.ledger.checkpoints import Checkpoint, CheckpointSigner
from citadel.clock import Clock
from citadel.errors import CitadelError, FailedPrecondition, InvalidArgument, Reason

_log = structlog.get_logger(__name__)

_ENOUGH_ROWS: Final = 10_000
_PRUNING_EVERY: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordKey:
    """A key that signs, or signed, checkpoints."""

    fingerprint: str
    key_id: str
    public_key: bytes  # SubjectPublicKeyInfo, DER
    created_at: datetime


class NotaryStore(Protocol):
    """What the notary needs of the store."""

    async def keys(self) -> Sequence[RecordKey]:
        """Every key that ever signed, oldest first."""
        ...

    async def add_key(self, key: RecordKey) -> None:
        """Record a key before it signs."""
        ...

    async def unsigned_head(self, log: Log) -> Head | None:
        """The head of the newest segment, unless a checkpoint names it already."""
        ...

    async def add(self, checkpoint: Checkpoint, jws: str) -> None:
        """Record a checkpoint."""
        ...

    async def writers(self, log: Log) -> Sequence[str]:
        """Every writer of the log, oldest first."""
        ...

    async def anchor(self, log: Log, writer: str, *, before: datetime, at: datetime) -> Checkpoint | None:
        """What is to be said of some of the oldest rows of `writer`; None where none of them ended before `before`.

        Raises `FailedPrecondition` (`chain_broken`) where the rows are not what was written.
        """
        ...

    async def prune(self, anchor: Checkpoint, jws: str, *, before: datetime) -> int:
        """Remove the rows that `anchor` was made of, and leave it, signed; returns how many.

        None is removed where they are no longer those, as when somebody else has pruned; raises as `anchor`.
        """
        ...

    async def prunable(self, log: Log, *, before: datetime) -> int:
        """How many rows `prune` would remove in all."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """How long the rows of one log are kept after their end; None is for ever."""

    log: Log
    keep: timedelta | None


class Notary:
    """Signs the heads of both logs. `start` before use; `run` for as long as the server lives, then `close`."""

    def __init__(
        self,
        *,
        keys: KeyManager,
        store: NotaryStore,
        acts: Acts,
        clock: Clock,
        interval: timedelta,
        keeping: Sequence[Keeping] = (),
    ) -> None:
        self._keys = keys
        self._store = store
        self._acts = acts
        self._clock = clock
        self._interval = interval
        self._keeping = keeping
        self._signer: CheckpointSigner | None = None
        self._rows = 0
        self._enough = asyncio.Event()
        self._one_pruning = asyncio.Lock()

    async def _opened(self, key_id: str) -> CheckpointSigner:
        key = await self._keys.signer(key_id, KeyPurpose.RECORDS)
        return CheckpointSigner(key, public_key=elliptic(key.public_key(), key_id))

    async def start(self) -> None:
        """Take up the newest key that this server can open, or make one."""
        for known in reversed(await self._store.keys()):
            try:
                self._signer = await self._opened(known.key_id)
            except FailedPrecondition as error:
                _log.warning("key of the records not opened", key=known.fingerprint, error=str(error))
            else:
                return
        key_id = await self._keys.create(KeyPurpose.RECORDS)
        signer = await self._opened(key_id)
        await self._store.add_key(
            RecordKey(
                fingerprint=signer.fingerprint,
                key_id=key_id,
                public_key=signer.public_key,
                created_at=self._clock.now(),
            )
        )
        self._signer = signer
        _log.info("key of the records made", key=signer.fingerprint)

    def note_rows(self, rows: int) -> None:
        """So many rows were written: enough of them bring the next checkpoint forward."""
        self._rows += rows
        if self._rows >= _ENOUGH_ROWS:
            self._enough.set()

    async def run(self) -> None:
        """Sign and prune, for ever. A store that fails is tried again the next time."""
        prune_at = self._clock.now()
        while True:
            with suppress(CitadelError):
                await self.checkpoint()
            if self._clock.now() >= prune_at:
                prune_at = self._clock.now() + _PRUNING_EVERY
                await self._prune_by_age()
            await self._pause()

    async def close(self) -> None:
        """The last checkpoints, after the last row: from here on a missing row shows."""
        if self._signer is None:
            return  # never started
        with suppress(CitadelError):
            await self.checkpoint()

    async def checkpoint(self) -> None:
        """Sign the heads that are not signed yet. Raises `Unavailable` (`store_unavailable`)."""
        self._rows = 0
        self._enough.clear()
        for log in Log:
            try:
                head = await self._store.unsigned_head(log)
                if head is not None:
                    checkpoint = Checkpoint(log=log, head=head, at=self._clock.now())
                    await self._store.add(checkpoint, await self._ready().sign(checkpoint))
            except CitadelError as error:
                _log.warning("records not signed", log=log.value, reason=error.reason.value, error=str(error))
                raise

    async def prunable(self, log: Log, *, before: datetime) -> int:
        """How many rows `prune` would remove. Raises as it does."""
        self._refuse_future(before)
        return await self._store.prunable(log, before=before)

    async def prune(self, log: Log, *, before: datetime, by: Actor) -> int:
        """Remove the oldest rows of each writer that ended before `before`; returns how many.

        The audit log says so first, since the rows go in many transactions. Raises `InvalidArgument`
        (`request_malformed`) for a moment to come, and `FailedPrecondition` (`chain_broken`) at the first row that is
        not what was written.
        """
        async with self._one_pruning:
            return await self._prune(log, before, by)

    async def _prune(self, log: Log, before: datetime, by: Actor) -> int:
        removed, count = 0, await self.prunable(log, before=before)
        if not count:
            return 0
        detail = f"{count} rows that ended before {before.isoformat()}"
        await self._acts.record_all([Act(actor=by, what=f"{log}.prune", detail=detail)], at=self._clock.now())
        for writer in await self._store.writers(log):
            # Signed between two transactions: the key may be elsewhere, and the store waits for nobody.
            while anchor := await self._store.anchor(log, writer, before=before, at=self._clock.now()):
                removed += await self._store.prune(anchor, await self._ready().sign(anchor), before=before)
        _log.info("records pruned", log=log.value, rows=removed, before=before.isoformat())
        return removed

    def _refuse_future(self, before: datetime) -> None:
        # A certificate that is still good must stay known, and so must the act of pruning itself.
        if before > self._clock.now():
            raise InvalidArgument(Reason.REQUEST_MALFORMED, f"{before.isoformat()} is still to come")

    async def _prune_by_age(self) -> None:
        for kept in self._keeping:
            if kept.keep is None:
                continue
            try:
                await self.prune(kept.log, before=self._clock.now() - kept.keep, by=Actor(ActorKind.SERVER))
            except CitadelError as error:
                _log.error("records not pruned", log=kept.log.value, reason=error.reason.value, error=str(error))

    async def _pause(self) -> None:
        waits = {
            asyncio.ensure_future(self._clock.sleep(self._interval.total_seconds())),
            asyncio.ensure_future(self._enough.wait()),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def _ready(self) -> CheckpointSigner:
        if self._signer is None:
            raise AssertionError("start was not called")
        return self._signer
