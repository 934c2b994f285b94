"""Who is at the other end of a Unix socket, by the kernel's word."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from citadel.errors import PermissionDenied, Reason

_UCRED: Final = struct.Struct("=iII")  # unix(7), SO_PEERCRED: pid_t, uid_t, gid_t
_SO_PEERPIDFD: Final = 77  # Linux 6.5; not in Python's socket module

Party: TypeAlias = int | str
"""Those whom limits count as one: a user by the uid, or whatever else has a name, such as a pod."""

ROOT: Final[Party] = 0


@dataclass(frozen=True, slots=True)
class PeerCredentials:
    """The process, user and group that called connect(2), numbered as this process sees them."""

    pid: int
    uid: int
    gid: int


class Process:
    """A process held by a pidfd, so that a reused pid is never taken for it, until the last who holds it lets go.

    Lives on one event loop.
    """

    def __init__(self, pidfd: int) -> None:
        """Take over `pidfd`, for one holder; -1 stands for a process that cannot be held any more."""
        self._pidfd = pidfd
        self._holders = 1

    def hold(self) -> Process:
        """Hold it too: `let_go` must follow."""
        self._holders += 1
        return self

    def let_go(self) -> None:
        """Hold it no longer."""
        self._holders -= 1
        if not self._holders and self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def fileno(self) -> int:
        """The pidfd, readable once the process has ended; -1 when nobody holds it any more."""
        return self._pidfd

    def has_ended(self) -> bool:
        """Whether the process runs no longer, so that its pid says nothing.

        Only for the event loop's thread: elsewhere the descriptor could be closed and reused in between.
        """
        if self._pidfd < 0:
            return True
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def apart(self) -> Process:
        """The same process by another descriptor, for a watch of one's own. Raises `OSError` where none is free."""
        return Process(os.dup(self._pidfd))


class Caller:
    """A process at the other end of a connection, held by a pidfd so that a reused pid is never taken for it.

    Compares by identity: one value is one connection. Lives on one event loop, like the connection that owns it.
    `party` is whom limits count it with: its user, until somebody who knows better says otherwise.
    """

    def __init__(self, credentials: PeerCredentials, pidfd: int) -> None:
        """Take over `pidfd`; `close` gives it back."""
        self.credentials = credentials
        self.party: Party = credentials.uid
        self.process = Process(pidfd)  # who asks after it when the connection is gone holds it too
        self._is_closed = False

    @classmethod
    def of(cls, connection: socket.socket) -> Caller:
        """Identify the peer of a freshly accepted connection.

        Raises:
            PermissionDenied: `caller_unknown` when the process is gone, or in a pid namespace that is not visible here.
        """
        credentials = PeerCredentials(
            *_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        )
        if credentials.pid <= 0:
            raise PermissionDenied(
                Reason.CALLER_UNKNOWN,
                f"the calling process (uid {credentials.uid}) is not visible from this pid namespace",
                fix="run this process in the pid namespace of the host (hostPID: true in a pod)",
            )
        try:
            return cls(credentials, _pidfd_of(connection, credentials))
        except OSError as error:
            raise PermissionDenied(
                Reason.CALLER_UNKNOWN, f"process {credentials.pid} cannot be held on to: {error.strerror}"
            ) from error

    def fileno(self) -> int:
        """The pidfd, readable once the process has ended; -1 after `close`."""
        return -1 if self._is_closed else self.process.fileno()

    def is_alive(self) -> bool:
        """Whether the process still runs and its connection is still ours. False means that its pid says nothing.

        Only for the event loop's thread: elsewhere the descriptor could be closed and reused in between.
        """
        return not self._is_closed and not self.process.has_ended()

    def close(self) -> None:
        """Let go of the process."""
        if not self._is_closed:
            self._is_closed = True
            self.process.let_go()


def _pidfd_of(connection: socket.socket, credentials: PeerCredentials) -> int:
    try:
        return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        # Any other error says that the process is gone: by number it could be found again as somebody else.
        if error.errno != errno.ENOPROTOOPT:
            raise
    # Before Linux 6.5: by number, the best that such a kernel can do.
    pidfd = os.pidfd_open(credentials.pid)
    try:
        same = effective_ids(credentials.pid) == (credentials.uid, credentials.gid)
    except BaseException:
        os.close(pidfd)
        raise
    if not same:  # the pid was reused by somebody else between connect and accept
        os.close(pidfd)
        raise ProcessLookupError(0, "its number belongs to another user's process")
    return pidfd


def effective_ids(pid: int) -> tuple[int, int]:
    """The effective uid and gid; proc(5), `Uid:` and `Gid:` give real, effective, saved, file system.

    Raises `OSError` where there is no such process.
    """
    # A newline alone ends a line: the name of a program may hold everything else.
    lines = dict(line.split(b":", 1) for line in Path(f"/proc/{pid}/status").read_bytes().split(b"\n") if line)
    return int(lines[b"Uid"].split()[1]), int(lines[b"Gid"].split()[1])
