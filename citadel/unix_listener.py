"""Listening on a Unix socket's path, in place of a dead predecessor but never of a live one."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Mapping
from contextlib import suppress
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
    """
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return None
    for descriptor in range(_FIRST_INHERITED, _FIRST_INHERITED + int(environment.get("LISTEN_FDS", "0"))):
        with suppress(OSError):  # not a socket
            found = socket.socket(fileno=descriptor)
            if found.family == socket.AF_UNIX and found.getsockname() == str(path):
                found.set_inheritable(False)
                found.settimeout(0)
                return found
            found.detach()
    return None


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
