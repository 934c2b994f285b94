"""A way to a server over which a test rules."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

_TRICKLE: Final = 0.1  # seconds between two bytes


class Wire:
    """Goes to `target` on loopback. It can be cut, then nothing comes through and nobody is told; or trickle; or break.

    `connections` counts those that were made or tried.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._open = asyncio.Event()
        self._open.set()
        self._trickles = False
        self._is_broken = False
        self._writers: set[asyncio.StreamWriter] = set()
        self.connections = 0
        self._copying: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        self._open.clear()

    def trickle(self) -> None:
        """What comes back comes byte by byte."""
        self._trickles = True

    def break_off(self) -> None:
        """Every connection ends, and so does each that is tried."""
        self._is_broken = True
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def mend(self) -> None:
        self._trickles = self._is_broken = False
        self._open.set()

    async def close(self) -> None:
        self._server.close()
        for task in self._copying:
            task.cancel()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._is_broken:
            writer.transport.abort()
            return
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, other_writer}
        self._copying.add(asyncio.create_task(self._copy(reader, other_writer)))
        self._copying.add(asyncio.create_task(self._copy(other_reader, writer, back=True)))

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, back: bool = False) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                await self._open.wait()
                at_once = 1 if back and self._trickles else len(data)
                for start in range(0, len(data), at_once):
                    if at_once < len(data):
                        await asyncio.sleep(_TRICKLE)
                    sink.write(data[start : start + at_once])
                    await sink.drain()
        sink.close()
