"""The chains of a server or of a store, for `audit verify` and `audit export`; and checkpoints kept in a file."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from grpc import aio

from ca.ledger.chain import ChainedRow, Head, Log, Segment
from ca.ledger.checkpoints import fingerprint_of, read_checkpoint
from ca.ledger.verify import ChainState, PublicKeys, Records, der_of, key_of
from ca.store.database import Database
from ca.store.records import SqlRecords
from citadel._wire import records_pb2 as pb
from citadel._wire.records_pb2_grpc import RecordsStub
from citadel.errors import FailedPrecondition, InvalidArgument, Reason
from citadel.wire import from_timestamp
from cli.admin.invocation import CALL_SECONDS

if TYPE_CHECKING:
    from citadel._wire.records_pb2_grpc import RecordsAsyncStub  # exists for type checkers only

LOGS: Final = {Log.LEDGER: pb.RECORD_LOG_LEDGER, Log.AUDIT: pb.RECORD_LOG_AUDIT}


class ServerRecords:
    """Fulfils `ca.ledger.verify.Records` with a running server's answers."""

    def __init__(self, channel: aio.Channel) -> None:
        self._records: RecordsAsyncStub = RecordsStub(channel)

    async def keys(self) -> PublicKeys:
        chain = await self.chain(Log.LEDGER)
        return {key.fingerprint: key_of(key.public_key) for key in chain.keys}

    async def state(self, log: Log) -> ChainState:
        chain = await self.chain(log)
        segments = [_segment(log, segment) for segment in chain.segments]
        return ChainState(segments=segments, signed=list(chain.signed), census=dict(chain.rows))

    async def rows(self, log: Log, after: Head) -> AsyncIterator[Sequence[ChainedRow]]:
        request = pb.ReadChainRequest(log=LOGS[log], writer=after.writer, after_position=after.position)
        async for piece in self._records.ReadChain(request):
            yield [
                ChainedRow(
                    number=row.number, writer=after.writer, position=row.position, hash=row.hash, record=row.record
                )
                for row in piece.rows
            ]

    async def chain(self, log: Log, *, sign_now: bool = False) -> pb.Chain:
        """All but the rows; with `sign_now` the server signs its head before."""
        return await self._records.GetChain(pb.GetChainRequest(log=LOGS[log], sign_now=sign_now), timeout=CALL_SECONDS)


@asynccontextmanager
async def store_records(url: str) -> AsyncIterator[Records]:
    """A store that is read directly, whether or not a server runs on it."""
    database = Database.open(url)
    try:
        yield SqlRecords(database=database)
    finally:
        await database.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptCheckpoints:
    """What a file of `audit export` holds."""

    signed: Sequence[str] = ()
    keys: PublicKeys


def to_lines(signed: Iterable[str], keys: PublicKeys) -> Iterable[str]:
    """Checkpoints as JSON lines; `jws` and `public_key` are what proves, the rest is for people."""
    for jws in signed:
        checkpoint = read_checkpoint(jws, keys)
        line = {
            "log": checkpoint.log.value,
            "kind": checkpoint.kind.value,
            "writer": checkpoint.head.writer,
            "position": checkpoint.head.position,
            "hash": checkpoint.head.hash.hex(),
            "at": checkpoint.at.isoformat(),
            "key": checkpoint.signed_by,
            "public_key": base64.b64encode(der_of(keys[checkpoint.signed_by])).decode("ascii"),
            "jws": jws,
        }
        yield json.dumps(line)


def from_lines(text: str) -> KeptCheckpoints:
    """The inverse. Raises `InvalidArgument` (`chain_broken`) that names the line that is none of these."""
    signed, keys = [], {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            key = key_of(base64.b64decode(fields["public_key"], validate=True))
            signed.append(str(fields["jws"]))
        except (ValueError, KeyError, TypeError, binascii.Error, FailedPrecondition) as error:
            raise InvalidArgument(
                Reason.CHAIN_BROKEN, f"line {number} of the checkpoints is not one of `audit export`: {error}"
            ) from error
        keys[fingerprint_of(key)] = key
    if not signed:
        raise InvalidArgument(Reason.CHAIN_BROKEN, "the file holds no checkpoint", fix="see `citadel-cli audit export`")
    return KeptCheckpoints(signed=signed, keys=keys)


def trusted(stored: PublicKeys, kept: PublicKeys, pinned: Sequence[str]) -> PublicKeys:
    """The keys that may sign: those that are pinned, else those of checkpoints kept elsewhere, else the store's own.

    Who can change the store can also add a key to it, and sign with that one what it likes. Raises
    `FailedPrecondition` (`chain_broken`) for a pinned key that signed nothing.
    """
    keys = {**stored, **kept}
    for fingerprint in pinned:
        if fingerprint not in keys:
            raise FailedPrecondition(
                Reason.CHAIN_BROKEN,
                f"the key {fingerprint} signed nothing here",
                fix="see `citadel-cli audit keys` for those that did, and find out why yours is not among them",
            )
    if pinned:
        return {name: key for name, key in keys.items() if name in pinned}
    return kept or stored


def _segment(log: Log, segment: pb.ChainSegment) -> Segment:
    after = segment.after
    return Segment(
        log=log,
        writer=segment.writer,
        begun_at=from_timestamp(segment.begun_at),
        after=Head(after.writer, after.position, after.hash) if segment.HasField("after") else None,
        unchained=segment.unchained,
    )
