"""The hash chain of the ledger and of the audit log: its format.

A log is a row of segments, one for each run of a server (its *writer*). In a segment rows have positions 1, 2, 3, … and

    hash = SHA-256(hash of the row before ‖ record)
    record = [format, log, writer, position, field, field, …]       a JSON array without spaces, in ASCII

The fields are those of the table in the order of `ca.store.records`; times are microseconds since 1970 in UTC. The hash
"before" position 1 is the segment's genesis, which names the head of the segment before:

    genesis = SHA-256([format, "segment", log, writer, begun at, after's writer, position and hash, unchained])

so that a whole run cannot be taken out either. `unchained` counts the rows from before there was a chain.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

# Part of every hash. Whoever adds a field makes a new format; old segments keep the one that they began with.
FORMAT: Final = 1

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
# Made once: `json.dumps` with separators makes an encoder for each call.
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


class Log(StrEnum):
    """The two logs that are chained."""

    LEDGER = "ledger"
    AUDIT = "audit"


@dataclass(frozen=True, slots=True)
class Head:
    """The last row of a segment, or its genesis at position 0."""

    writer: str
    position: int
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainedRow:
    """One row as it lies in the store. `number` is the table's own, `record` the bytes that its hash is over."""

    number: int
    writer: str
    position: int
    hash: bytes
    record: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One run of a server: where its rows begin. `after` is the head of the segment before, if there is one."""

    log: Log
    writer: str
    begun_at: datetime
    after: Head | None = None
    unchained: int = 0

    def genesis(self) -> Head:
        """The head before the first row."""
        after = self.after or Head("", 0, b"")
        parts = [FORMAT, "segment", self.log.value, self.writer, microseconds(self.begun_at)]
        parts += [after.writer, after.position, after.hash.hex(), self.unchained]
        return Head(self.writer, 0, hashlib.sha256(_encode(parts).encode("ascii")).digest())


def record(log: Log, writer: str, position: int, fields: Sequence[str | int]) -> bytes:
    """The bytes of one row that are hashed: unambiguous, because JSON quotes its parts."""
    return _encode([FORMAT, log.value, writer, position, *fields]).encode("ascii")


def link(before: bytes, row: bytes) -> bytes:
    """The hash of a row after a row with the hash `before`."""
    return hashlib.sha256(before + row).digest()


def microseconds(moment: datetime) -> int:
    """A moment as records write it."""
    return (moment - _EPOCH) // _MICROSECOND
