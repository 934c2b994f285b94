"""Two sockets and the process behind one of them, carried and let go together."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final

from citadel.peer import Caller

_BACKLOG_PAUSE: Final = 0.01  # seconds


class Splice:
    """Carries bytes both ways between a caller's socket and one that this process connects under `name`.

    `on_end` is called once, before the socket with the name is closed. Ends when an end closes or the caller's process
    ends. Lives on one event loop, on the bare sockets: asyncio's transports would cost a busy node twice the memory and
    half as much time again for each connection.
    """

    __slots__ = ("_inner", "_loop", "_name", "_on_end", "_public", "caller", "is_over")

    def __init__(self, caller: Caller, *, name: str, buffer: memoryview, on_end: Callable[[Splice], None]) -> None:
        self.caller = caller
        self.is_over = False
        self._name = name
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._public = _End(self, buffer)
        self._inner = _End(self, buffer)
        self._public.other, self._inner.other = self._inner, self._public
        self._loop.add_reader(caller.fileno(), self.end)

    @property
    def name(self) -> str:
        """The abstract address of the inner end."""
        return self._name

    async def join(self, public: socket.socket, inner_path: str) -> None:
        """Connect to `inner_path` from the abstract address `name` and begin to carry; takes over `public`.

        Waits only while the backlog of `inner_path` is full. Raises `OSError` when nobody listens there.
        """
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._public.take(public)
        self._inner.take(inner)
        inner.bind(b"\0" + self._name.encode())
        while not self.is_over:
            try:
                inner.connect(inner_path)
            except BlockingIOError:  # a Unix socket connects at once, or its peer's backlog is full
                await asyncio.sleep(_BACKLOG_PAUSE)
            else:
                self._public.start_reading(self._loop)
                self._inner.start_reading(self._loop)
                return

    def end(self) -> None:
        """Close at once, and let go of the caller; what is already over stays so."""
        if self.is_over:
            return
        self.is_over = True
        self._on_end(self)
        self._loop.remove_reader(self.caller.fileno())
        self.caller.close()
        self._public.close(self._loop)
        self._inner.close(self._loop)

    def end_when_carried(self) -> None:
        """Close if both directions have ended and nothing is left to hand over."""
        if self._public.is_done and self._inner.is_done:
            self.end()


class _End:
    """One end. What it reads is sent to `other`; while that cannot take it, nothing more is read.

    One buffer serves every end of every splice: it is filled and handed over in one step, and only what does not go out
    at once is copied.
    """

    __slots__ = ("_buffer", "_has_read_all", "_left", "_socket", "_splice", "other")

    other: _End

    def __init__(self, splice: Splice, buffer: memoryview) -> None:
        self._splice = splice
        self._buffer = buffer
        self._socket: socket.socket | None = None
        self._left = b""  # to be sent
        self._has_read_all = False

    @property
    def is_done(self) -> bool:
        """Whether nothing more is read here nor has to be sent."""
        return self._has_read_all and not self._left

    def take(self, own: socket.socket) -> None:
        """Take over a socket."""
        own.settimeout(0)
        self._socket = own

    def start_reading(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read whenever there is something."""
        if self._socket is not None and not self._has_read_all:
            loop.add_reader(self._socket, self._read, loop)

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the socket."""
        if self._socket is not None:
            loop.remove_reader(self._socket)
            loop.remove_writer(self._socket)
            self._socket.close()
            self._socket = None

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._socket is None:
            return
        try:
            size = self._socket.recv_into(self._buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            size = 0
        if size:
            self.other._send(self._buffer[:size], loop)  # noqa: SLF001 - its twin
        else:
            self._has_read_all = True
            self._stop_reading(loop)
            self.other._send_end()  # noqa: SLF001 - its twin
            self._splice.end_when_carried()

    def _send(self, data: memoryview, loop: asyncio.AbstractEventLoop) -> None:
        """Send what goes out at once, and the rest when it can be; until then the other end reads nothing."""
        self._left = self._rest_of(data, loop)
        if self._left and self._socket is not None:
            loop.add_writer(self._socket, self._send_left, loop)
            self.other._stop_reading(loop)  # noqa: SLF001 - its twin

    def _send_left(self, loop: asyncio.AbstractEventLoop) -> None:
        self._left = self._rest_of(memoryview(self._left), loop)
        if self._left or self._socket is None:
            return
        loop.remove_writer(self._socket)
        if self.other._has_read_all:  # noqa: SLF001 - its twin
            self._send_end()
            self._splice.end_when_carried()
        else:
            self.other.start_reading(loop)

    def _rest_of(self, data: memoryview, loop: asyncio.AbstractEventLoop) -> bytes:
        if self._socket is None:
            return b""
        try:
            return bytes(data[self._socket.send(data) :])
        except (BlockingIOError, InterruptedError):
            return bytes(data)
        except OSError:
            # Nobody takes it any more. What was said to the other end before is still carried, up to its end.
            self.other._has_read_all = True  # noqa: SLF001 - its twin
            self.other._stop_reading(loop)  # noqa: SLF001 - its twin
            self._splice.end_when_carried()
            return b""

    def _send_end(self) -> None:
        """Half-close, once nothing is left to send: the other direction goes on."""
        if not self._left and self._socket is not None:
            with contextlib.suppress(OSError):  # it has gone already
                self._socket.shutdown(socket.SHUT_WR)

    def _stop_reading(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._socket is not None:
            loop.remove_reader(self._socket)
