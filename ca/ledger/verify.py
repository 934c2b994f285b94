"""Reading whole logs through a port, and checking them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from ca.ledger.chain import ChainedRow, Head, Log, Segment, link
from ca.ledger.checking import Break, LogCheck, Report
from ca.ledger.checkpoints import Checkpoint, read_checkpoint, read_unverified
from citadel.errors import CitadelError, FailedPrecondition, Reason

PublicKeys = Mapping[str, ec.EllipticCurvePublicKey]
OnProgress = Callable[[Log, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainState:
    """What there is of one log besides its rows. `census` is the number of rows by writer, "" for those without."""

    segments: Sequence[Segment]
    signed: Sequence[str]
    census: Mapping[str, int]


class Records(Protocol):
    """Where the logs are read from: the store itself, or a server."""

    async def keys(self) -> PublicKeys:
        """The keys that signed checkpoints, by fingerprint, oldest first."""
        ...

    async def state(self, log: Log) -> ChainState:
        """What is known of the log now."""
        ...

    def rows(self, log: Log, after: Head) -> AsyncIterator[Sequence[ChainedRow]]:
        """The rows of the writer of `after` that come after it, in order, in handy pieces."""
        ...


async def verify(
    records: Records,
    log: Log,
    *,
    keys: PublicKeys,
    kept_elsewhere: Sequence[str] = (),
    on_progress: OnProgress = lambda *_: None,
) -> Report:
    """Check one log against its own hashes, its checkpoints, and those that were `kept_elsewhere`.

    `on_progress` is told the log, the rows that were checked and all that there are.
    """
    state = await records.state(log)
    signed, refused = _read_all((*state.signed, *kept_elsewhere), keys)
    check = LogCheck(log, state.segments, signed)
    total = sum(state.census.values()) - state.census.get("", 0)
    for segment in state.segments:
        start = check.begin(segment)
        async for rows in records.rows(log, start):
            await asyncio.to_thread(_add_all, check, rows)
            on_progress(log, check.report.rows, total)
        check.end()
    report = check.finish(state.census)
    for refusal in refused:
        report.add(Break(log=log, problem=refusal.message))
    return report


async def problem_of_tail(records: Records, log: Log) -> str:
    """What is wrong with the newest run's rows after its last checkpoint, or nothing: short enough for every start."""
    state = await records.state(log)
    if not state.segments:
        return ""
    head = state.segments[-1].genesis()
    for signed in map(read_unverified, state.signed):
        if signed.head.writer == head.writer and signed.head.position >= head.position:
            head = signed.head
    async for rows in records.rows(log, head):
        for row in rows:
            if row.position != head.position + 1 or link(head.hash, row.record) != row.hash:
                return f"row {row.position} of writer {row.writer} in the {log} does not follow the one before it"
            head = Head(row.writer, row.position, row.hash)
    return ""


def der_of(key: ec.EllipticCurvePublicKey) -> bytes:
    """A key as its SubjectPublicKeyInfo in DER."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_of(der: bytes) -> ec.EllipticCurvePublicKey:
    """The inverse of `der_of`. Raises `FailedPrecondition` (`chain_broken`) where it is no such key."""
    try:
        key = load_der_public_key(der)
    except ValueError as error:
        raise FailedPrecondition(Reason.CHAIN_BROKEN, f"a recorded public key cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise FailedPrecondition(Reason.CHAIN_BROKEN, "a recorded public key is not an elliptic-curve key")
    return key


def _add_all(check: LogCheck, rows: Sequence[ChainedRow]) -> None:
    for row in rows:
        check.add(row)


def _read_all(signed: Sequence[str], keys: PublicKeys) -> tuple[list[Checkpoint], list[CitadelError]]:
    read: list[Checkpoint] = []
    refused: list[CitadelError] = []
    for jws in dict.fromkeys(signed):  # one that is kept elsewhere is usually in the store as well
        try:
            read.append(read_checkpoint(jws, keys))
        except CitadelError as error:
            refused.append(error)
    return read, refused
