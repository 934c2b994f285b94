"""Very many callers of an agent at once, each a process of its own, as pods are. Says when each had its identity.

Call: `python -m tests.bench.kube_callers NUMBER SOCKET`. Prints their pids, waits for a line, has them all call, and
prints the seconds that each waited, less than none for one that was refused; they hold their streams until standard
input ends. Little is imported and HTTP/2 is spoken by hand: a thousand processes with gRPC would take gigabytes.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import time
from typing import Final

_DATA, _HEADERS, _SETTINGS, _PING = 0, 1, 4, 6
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_MARK_BYTES: Final = 5  # before each message of gRPC
_CALL: Final = {
    ":method": "POST",
    ":scheme": "http",
    ":path": "/SpiffeWorkloadAPI/FetchX509SVID",
    ":authority": "localhost",
    "te": "trailers",
    "content-type": "application/grpc",
    "workload.spiffe.io": "true",
}


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def _headers() -> bytes:
    """Each written out in full (RFC 7541, 6.2.2), its lengths below 127."""
    return b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in _CALL.items()
    )


_OPENING: Final = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + _frame(_SETTINGS, 0, 0)
    + _frame(_HEADERS, _END_HEADERS, 1, _headers())
    + _frame(_DATA, _END_STREAM, 1, bytes(_MARK_BYTES))
)


def _has_identity(connection: socket.socket) -> bool:
    """Wait for the first answer; False where the agent refuses."""
    with connection.makefile("rb") as answer:
        while head := answer.read(9):
            size, kind, flags = int.from_bytes(head[:3]), head[3], head[4]
            payload = answer.read(size)
            if kind == _DATA and size > _MARK_BYTES:
                return True
            if kind == _HEADERS and flags & _END_STREAM:
                return False
            if kind in (_SETTINGS, _PING) and not flags & _ACK:
                connection.sendall(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
    return False


def _call(path: str, begin: int, told: int, over: int) -> None:
    """One caller: it begins once `begin` ends, and goes when `over` does."""
    os.read(begin, 1)
    begun = time.monotonic()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(_OPENING)
        waited = time.monotonic() - begun if _has_identity(connection) else -1.0
        os.write(told, struct.pack("!d", waited))
        os.read(over, 1)


def main() -> None:
    """Fork them, and tell of them."""
    number, path = int(sys.argv[1]), sys.argv[2]
    reading, told = os.pipe()
    begin, begun = os.pipe()
    over, ended = os.pipe()
    pids = []
    for _ in range(number):
        if not (pid := os.fork()):
            os.close(begun)
            os.close(ended)
            _call(path, begin, told, over)
            os._exit(0)
        pids.append(pid)
    print(json.dumps(pids), flush=True)  # noqa: T201 - who started this reads it
    sys.stdin.readline()
    os.close(begun)
    waited = b""
    while len(waited) < 8 * number:
        waited += os.read(reading, 8 * number)
    print(json.dumps([each for (each,) in struct.iter_unpack("!d", waited)]), flush=True)  # noqa: T201 - as above
    sys.stdin.read()
    os.close(ended)
    for pid in pids:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
