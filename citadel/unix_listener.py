"""Listening on a Unix socket's path, in place of a dead predecessor but never of a live one."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from citadel.errors import FailedPrecondition, InvalidArgument, Reason

_BACKLOG: Final = 4096  # a node's proxies start together, and a client that finds it full gives up at once
_PROBE_SECONDS: Final = 1.0
_FIRST_INHERITED: Final = 3  # sd_listen_fds(3)


def listen_unix(path: Path, mode: int) -> socket.socket:
    """A non-blocking listener on `path`, which gets the permissions `mode`. Its folder is made if it is missing.

    Raises:
        FailedPrecondition: something else is there, or another process answers on it.
        InvalidArgument: the path cannot be listened on.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _remove_stale(path)
        listener.bind(str(path))
        path.chmod(mode)  # before listen: until then nobody can connect, whatever the umask was
        listener.listen(_BACKLOG)
        listener.settimeout(0)
    except OSError as error:
        listener.close()
        raise InvalidArgument(Reason.CONFIG_INVALID, f"cannot listen on {path}: {error}") from error
    except BaseException:
        listener.close()
        raise
    return listener


def inherited_unix(path: Path, environment: Mapping[str, str]) -> socket.socket | None:
    """The non-blocking listener on `path` that a service manager holds for this process; None where it holds none.

    Whoever connects while this process is away waits in its queue, and is not refused. By sd_listen_fds(3): call it
    once. Descriptors of other sockets stay as they are.

    Raises:
        InvalidArgument: what it holds under this path is nothing that anybody could be served on.
    """
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return None
    for descriptor in range(_FIRST_INHERITED, _FIRST_INHERITED + _count_of(environment.get("LISTEN_FDS", "0"))):
        found = _socket_of(descriptor)
        if found is None:
            continue
        if found.family == socket.AF_UNIX and _is_bound_to(found, path):
            _check_serves(found, path)
            found.set_inheritable(False)
            found.settimeout(0)
            return found
        found.detach()
    return None


def _count_of(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise InvalidArgument(Reason.CONFIG_INVALID, f"LISTEN_FDS={text[:20]!r} is not a number of descriptors")
    return int(text)


def _socket_of(descriptor: int) -> socket.socket | None:
    try:
        return socket.socket(fileno=descriptor)
    except OSError as error:
        if error.errno == errno.EBADF:
            raise InvalidArgument(
                Reason.CONFIG_INVALID, f"LISTEN_FDS counts descriptor {descriptor}, which is not open"
            ) from error
        return None  # not a socket


def _is_bound_to(found: socket.socket, path: Path) -> bool:
    """Whether it is the same place, however that is written: /var/run is /run."""
    name = found.getsockname()  # bytes where it is abstract, and empty where it has none
    return isinstance(name, str) and name != "" and os.path.realpath(name) == os.path.realpath(path)


def _check_serves(found: socket.socket, path: Path) -> None:
    """Whoever takes up another one would believe to serve while nobody is served."""
    problem = ""
    if found.type != socket.SOCK_STREAM:
        problem = "is not a stream"
    elif not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        problem = "does not listen"
    elif not path.is_socket():
        problem = "has no file any more, so that nobody can connect to it"
    if problem:
        found.detach()
        raise InvalidArgument(
            Reason.CONFIG_INVALID,
            f"the socket {path} that the service manager holds {problem}",
            fix="let it have ListenStream, and start the socket's unit again",
        )


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FailedPrecondition(Reason.CONFIG_INVALID, f"{path} exists and is not a socket", fix="choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except TimeoutError:
            pass  # a full backlog: busy, not dead
    raise FailedPrecondition(Reason.CONFIG_INVALID, f"another process answers on {path}", fix="stop it first")
