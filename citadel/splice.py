"""Two sockets and the process behind one of them, carried and let go together."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from citadel.peer import Caller

_BACKLOG_PAUSE: Final = 0.01  # seconds


class Splice:
    """Carries bytes both ways between a caller's socket and one that this process connects under `name`.

    `on_end` is called, possibly more than once, before the socket with the name is closed; `closed` is done when every
    descriptor has been given back. Ends when an end closes or the caller's process ends.
    """

    def __init__(self, caller: Caller, *, name: str, buffer: memoryview, on_end: Callable[[], None]) -> None:
        self.caller = caller
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_over = False
        self._name = name
        self._on_end = on_end
        self._public = _End(buffer, self)
        self._inner = _End(buffer, self)
        self._public.other, self._inner.other = self._inner, self._public

    async def join(self, public: socket.socket, inner_path: str) -> None:
        """Connect to `inner_path` from the abstract address `name` and begin to carry; takes over `public`."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self.caller.fileno(), self.abort)
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            inner.settimeout(0)
            inner.bind(b"\0" + self._name.encode())
            await _connect(inner, inner_path)
            await loop.create_unix_connection(lambda: self._inner, sock=inner)
        except BaseException:
            inner.close()
            raise
        await loop.connect_accepted_socket(lambda: self._public, public)

    def finish(self) -> None:
        """Both directions have ended: hand over what is buffered, then close."""
        self._end()
        for end in (self._public, self._inner):
            if end.transport is not None:
                end.transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._end()
        for end in (self._public, self._inner):
            if end.transport is not None:
                end.transport.abort()
        self.settle()

    def settle(self) -> None:
        """Let go of the caller once no end is open any more."""
        if self.closed.done() or self._public.is_open or self._inner.is_open:
            return
        asyncio.get_running_loop().remove_reader(self.caller.fileno())
        self.caller.close()
        self.closed.set_result(None)

    def _end(self) -> None:
        self.is_over = True
        self._on_end()


class _End(asyncio.BufferedProtocol):
    """One end. What it reads is written to `other`, which pauses it when it cannot keep up.

    One buffer serves every end of every splice: asyncio fills it and hands it over in one step, and a copy is written.
    """

    other: _End

    def __init__(self, buffer: memoryview, splice: Splice) -> None:
        self.transport: asyncio.Transport | None = None
        self.is_open = False
        self.has_read_all = False
        # What is read before the other end is there: a server's greeting. Reading is not paused for it: with early
        # releases of Python 3.11 a transport forgets a pause that comes with `connection_made`.
        self.early = b""
        self._buffer = buffer
        self._splice = splice

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker: a stream socket's is one
        self.transport, self.is_open = transport, True
        transport.write(self.other.early)
        self.other.early = b""
        if self.other.has_read_all:
            transport.write_eof()
        if self._splice.is_over:  # the caller ended while the ends were being joined
            transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.other.transport is None:
            self.early += self._buffer[:nbytes]
        else:
            self.other.transport.write(bytes(self._buffer[:nbytes]))

    def eof_received(self) -> bool:
        self.has_read_all = True
        if self.other.has_read_all:
            self._splice.finish()
        elif self.other.transport is not None:
            self.other.transport.write_eof()
        return True  # half-closed: the other direction goes on

    def pause_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other.transport is not None and not self.other.has_read_all:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.is_open = False
        self._splice.finish()
        self._splice.settle()


async def _connect(inner: socket.socket, path: str) -> None:
    """Connect a non-blocking Unix socket, which succeeds at once or not at all.

    Not `loop.sock_connect`, which takes EAGAIN (a full backlog) for "under way" and then reports a connection that is
    none.
    """
    while True:
        try:
            inner.connect(path)
        except BlockingIOError:
            await asyncio.sleep(_BACKLOG_PAUSE)
        else:
            return
