"""Attestation by what the kernel says of a process: its user, its group, the file that it runs."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import hashlib
import os
import pwd
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from citadel.errors import InvalidArgument, PermissionDenied, Reason
from citadel.peer import Caller, PeerCredentials
from citadel.selector import Selector
from sds.serve.callers import Attestation

_TYPE: Final = "unix"
_DELETED: Final = " (deleted)"  # proc(5), /proc/pid/exe
_MAX_DIGESTS: Final = 1024
_MAX_HASHED_BYTES: Final = 1024**3  # a sparse file of any size can be run; hashing is for real programs

_FileVersion = tuple[int, int, int, int, int]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Facts:
    selectors: frozenset[Selector]
    executable: str = ""
    can_be_hashed: bool = False
    is_unreadable: bool = False


class UnixAttestor:
    """Fulfils `sds.serve.callers.WorkloadAttestor` with `unix:uid`, `gid`, `user`, `group`, `path` and `sha256`.

    `path` and `sha256` are left out for a program whose file was deleted or replaced since it began, or whose `/proc`
    entry this process may not read. `path` is also left out where the name means another file here than to the caller:
    in a mount namespace of its own anybody can have anything at any path.
    """

    def __init__(self) -> None:
        self._digests: OrderedDict[_FileVersion, str] = OrderedDict()
        self._hashing = asyncio.Lock()  # a hundred proxies that start together run the same file: hash it once
        self._has_said_unreadable = False

    async def attest(self, caller: Caller, *, want_sha256: bool) -> Attestation:
        """See `WorkloadAttestor.attest`. Everything that can block happens in a worker thread."""
        facts = await asyncio.to_thread(_read_facts, caller.credentials)
        selectors = facts.selectors
        if want_sha256 and facts.can_be_hashed:
            async with self._hashing:
                digest = await asyncio.to_thread(self._digest, caller.credentials.pid)
            selectors |= _selectors([f"sha256:{digest}"] if digest else [])
        # Last: only if the process still lives now did its pid mean this process while /proc was read.
        if not caller.is_alive():
            raise PermissionDenied(
                Reason.CALLER_UNKNOWN, f"process {caller.credentials.pid} ended while it was looked at"
            )
        if facts.is_unreadable and not self._has_said_unreadable:
            self._has_said_unreadable = True
            _log.warning(
                "executables of other users cannot be read, so their callers have no unix:path or unix:sha256",
                pid=caller.credentials.pid,
                uid=caller.credentials.uid,
                fix="run the agent as root or with CAP_SYS_PTRACE",
            )
        return Attestation(selectors=selectors, executable=facts.executable)

    def _digest(self, pid: int) -> str:
        """SHA-256 of the file that is being run, whatever its path names by now; empty when that cannot be told."""
        try:
            with _exe(pid).open("rb") as file:
                version = _version(os.fstat(file.fileno()))
                if version in self._digests:
                    self._digests.move_to_end(version)
                    return self._digests[version]
                if version[2] > _MAX_HASHED_BYTES:
                    return ""
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                if _version(os.fstat(file.fileno())) != version:
                    return ""  # written to meanwhile
        except OSError:
            return ""
        self._digests[version] = digest
        if len(self._digests) > _MAX_DIGESTS:
            self._digests.popitem(last=False)
        return digest


def _read_facts(credentials: PeerCredentials) -> _Facts:
    of_user = _selectors(_user_facts(credentials))
    link = _exe(credentials.pid)
    try:
        path = str(link.readlink())
        running = link.stat()  # follows the link to the very file, also where its path names another
    except PermissionError:
        return _Facts(of_user, is_unreadable=True)
    except OSError:  # the process has gone, as its pidfd will say, or is none that runs a file
        return _Facts(of_user)
    if path.endswith(_DELETED):
        return _Facts(of_user, executable=path)
    of_path = _selectors([f"path:{path}"]) if _names_the_same_file(path, running) else frozenset()
    return _Facts(of_user | of_path, executable=path, can_be_hashed=True)


def _user_facts(credentials: PeerCredentials) -> Iterator[str]:
    yield f"uid:{credentials.uid}"
    yield f"gid:{credentials.gid}"
    with contextlib.suppress(KeyError):  # a number without a name
        yield f"user:{pwd.getpwuid(credentials.uid).pw_name}"
    with contextlib.suppress(KeyError):
        yield f"group:{grp.getgrgid(credentials.gid).gr_name}"


def _names_the_same_file(path: str, running: os.stat_result) -> bool:
    try:
        return os.path.samestat(Path(path).stat(), running)
    except OSError:
        return False


def _selectors(values: Iterable[str]) -> frozenset[Selector]:
    """The values as selectors, without those that no entry could ask for, such as a path with a line break."""
    found = set()
    for value in values:
        with contextlib.suppress(InvalidArgument):
            found.add(Selector(_TYPE, value))
    return frozenset(found)


def _exe(pid: int) -> Path:
    return Path(f"/proc/{pid}/exe")


def _version(found: os.stat_result) -> _FileVersion:
    """What changes whenever the content does; ctime cannot be set back by the file's owner."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
