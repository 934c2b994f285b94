"""Kills a process at the instant when a rotation's next phase is durable, and reads what the store says afterwards."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from cryptography import x509

from citadel.serial import serial_hex

# A process of its own: in this one the load and the event loop would hold it up for longer than a short phase lasts.
_ASSASSIN = """
import os, signal, sqlite3, sys, time
store, victim, wanted = sys.argv[1], int(sys.argv[2]), set(sys.argv[3].split(","))
if os.geteuid() == 0:
    os.nice(-20)  # a busy machine would let short phases go by
database = sqlite3.connect(f"file:{store}?mode=ro", uri=True, isolation_level=None)
print("ready", flush=True)
while True:
    row = database.execute("SELECT phase FROM rotation ORDER BY started_at DESC LIMIT 1").fetchone()
    phase = row[0] if row else ""
    if phase in wanted:
        os.kill(victim, signal.SIGKILL)
        print(phase)
        break
    time.sleep(0.0002)
"""


class Assassin:
    """Kills `victim` (a process id) as soon as the newest rotation is in one of the phases."""

    def __init__(self, store: Path, victim: int, phases: Collection[str]) -> None:
        self._arguments = (str(store), str(victim), ",".join(sorted(phases)))

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-S", "-c", _ASSASSIN, *self._arguments, stdout=asyncio.subprocess.PIPE
        )
        await self._said()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def has_struck(self) -> str:
        """The phase in which the victim died."""
        async with asyncio.timeout(60):
            return await self._said()

    async def _said(self) -> str:
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode().strip()


@dataclass(frozen=True)
class Signed:
    """A row of the ledger, with the end of the authority that signed it."""

    spiffe_id: str
    issued_at: datetime
    not_after: datetime
    issuer_not_after: datetime
    issuer_id: str


@dataclass(frozen=True)
class Entered:
    """A phase of a rotation, as the audit log has it."""

    rotation: str
    phase: str
    at: datetime


class Records:
    """The store of a server, read beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self, query: str, *values: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as database:
            return list(database.execute(query, values))

    def signed(self) -> Sequence[Signed]:
        query = """
            SELECT spiffe_id, issued_at, not_after, certificate, issuer_id
            FROM ledger JOIN authority ON authority.id = issuer_id ORDER BY number
        """
        return [
            Signed(str(who), moment(at), moment(end), _certificate(issuer).not_valid_after_utc, str(key))
            for who, at, end, issuer, key in self.rows(query)
        ]

    def phases(self) -> Sequence[Entered]:
        query = "SELECT target, detail, at FROM audit WHERE what = 'rotation.phase' ORDER BY number"
        return [Entered(str(target), str(phase), moment(at)) for target, phase, at in self.rows(query)]

    def issuers(self) -> list[str]:
        """The ids of all issuing authorities that there ever were, the oldest first."""
        return [str(key) for (key,) in self.rows("SELECT id FROM authority WHERE kind = 'issuer' ORDER BY created_at")]

    def standing_roots(self) -> set[str]:
        """The serial numbers of the roots that the bundle has."""
        rows = self.rows("SELECT certificate FROM authority WHERE kind = 'root' AND state != 'revoked'")
        return {serial_hex(_certificate(der).serial_number) for (der,) in rows}

    def sequence(self) -> int:
        ((sequence,),) = self.rows("SELECT sequence FROM bundle")
        assert isinstance(sequence, int)
        return sequence


def moment(stored: object) -> datetime:
    """A moment as the store has it, in microseconds."""
    assert isinstance(stored, int)
    return datetime.fromtimestamp(stored / 1_000_000, UTC)


def _certificate(der: object) -> x509.Certificate:
    assert isinstance(der, bytes)
    return x509.load_der_x509_certificate(der)
