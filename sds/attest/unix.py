"""Attestation by what the kernel says of a process: its user, its group, the file that it runs."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import hashlib
import os
import pwd
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple, TypeVar
from weakref import WeakValueDictionary

import structlog

from citadel.errors import InvalidArgument, PermissionDenied, Reason
from citadel.peer import Caller, PeerCredentials
from citadel.selector import Selector
from sds.serve.callers import Attestation

_TYPE: Final = "unix"
_NOT_ALWAYS_SEEN: Final = frozenset(f"{_TYPE}:{each}" for each in ("user", "group", "path", "sha256"))
_NAMES: Final = 2  # of the user and of the group
_DELETED: Final = " (deleted)"  # proc(5), /proc/pid/exe
_MAX_DIGESTS: Final = 1024
_MAX_HASHED_BYTES: Final = 512 * 1024**2  # a sparse file of any size can be run; Envoy, a large program, has 107 MB
# Threads of its own for what others can make slow, a directory service that hangs or large files: the default ones
# belong to renewals.
_LOOKING_THREADS: Final = 4
_HASHING_THREADS: Final = 2

_Result = TypeVar("_Result")

_log = structlog.get_logger(__name__)


class _FileVersion(NamedTuple):
    """What changes whenever the content does; ctime cannot be set back by the file's owner."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> _FileVersion:
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """`to_hash` is the file that is being run, None where its digest would vouch for nothing."""

    selectors: frozenset[Selector]
    is_complete: bool
    executable: str = ""
    to_hash: _FileVersion | None = None
    is_unreadable: bool = False


class UnixAttestor:
    """Fulfils `sds.serve.callers.WorkloadAttestor` with `unix:uid`, `gid`, `user`, `group`, `path` and `sha256`.

    `path` and `sha256` are left out for a program whose file was deleted or replaced since it began, or whose `/proc`
    entry this process may not read. `path` is also left out where the name means another file here than to the caller:
    in a mount namespace of its own anybody can have anything at any path. `sha256` is left out for files of more than
    512 MiB. A number without a name, a file that changes while it is hashed, and another program that begins meanwhile
    leave the attestation incomplete. Whatever is left out is among the kinds that were not seen, a digest that nobody
    wanted too.
    """

    def __init__(self) -> None:
        self._digests: OrderedDict[_FileVersion, str] = OrderedDict()
        # A hundred proxies that start together run the same file: hash it once, and let other files go past.
        self._turns: WeakValueDictionary[_FileVersion, asyncio.Lock] = WeakValueDictionary()
        self._looking = ThreadPoolExecutor(_LOOKING_THREADS, thread_name_prefix="attest")
        self._hashing = ThreadPoolExecutor(_HASHING_THREADS, thread_name_prefix="hash")
        self._has_said_unreadable = False

    def close(self) -> None:
        """Start nothing more. What is under way in a thread is not waited for."""
        for executor in (self._looking, self._hashing):
            executor.shutdown(wait=False, cancel_futures=True)

    async def attest(self, caller: Caller, *, want_sha256: bool) -> Attestation:
        """See `WorkloadAttestor.attest`. Everything that can block happens in a worker thread."""
        facts = await _in(self._looking, lambda: _read_facts(caller.credentials))
        selectors, is_complete = facts.selectors, facts.is_complete
        if want_sha256 and facts.to_hash is not None and facts.to_hash.size <= _MAX_HASHED_BYTES:
            digest = await self._digest(caller.credentials.pid, facts.to_hash)
            selectors |= _selectors([f"sha256:{digest}"] if digest else [])
            is_complete = is_complete and bool(digest)
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
        return Attestation(
            selectors=selectors,
            executable=facts.executable,
            is_complete=is_complete,
            unseen=_NOT_ALWAYS_SEEN.difference(each.kind for each in selectors),
        )

    async def _digest(self, pid: int, version: _FileVersion) -> str:
        """SHA-256 of the file that is being run, whatever its path names by now; empty when that cannot be told."""
        if (known := self._known_digest(version)) is not None:
            return known
        turn = self._turns.setdefault(version, asyncio.Lock())
        async with turn:
            if (known := self._known_digest(version)) is not None:
                return known
            digest = await _in(self._hashing, lambda: _hash(pid, version))
            if digest:
                self._digests[version] = digest
                if len(self._digests) > _MAX_DIGESTS:
                    self._digests.popitem(last=False)
            return digest

    def _known_digest(self, version: _FileVersion) -> str | None:
        if version in self._digests:
            self._digests.move_to_end(version)
        return self._digests.get(version)


async def _in(executor: ThreadPoolExecutor, work: Callable[[], _Result]) -> _Result:
    return await asyncio.get_running_loop().run_in_executor(executor, work)


def _hash(pid: int, version: _FileVersion) -> str:
    try:
        with _exe(pid).open("rb") as file:
            if _FileVersion.of(os.fstat(file.fileno())) != version:
                return ""
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            is_the_same = _FileVersion.of(os.fstat(file.fileno())) == version
    except OSError:
        return ""
    return digest if is_the_same else ""


def _read_facts(credentials: PeerCredentials) -> _Facts:
    names = list(_names(credentials))
    of_user = _selectors([f"uid:{credentials.uid}", f"gid:{credentials.gid}", *names])
    of_caller = _Facts(selectors=of_user, is_complete=len(names) == _NAMES)
    try:
        path, running = _what_runs(credentials.pid)
        if path.endswith(_DELETED):
            return replace(of_caller, executable=path)
        of_path = _selectors([f"path:{path}"]) if _names_the_same_file(path, running) else frozenset()
        path_now, running_now = _what_runs(credentials.pid)
    except PermissionError:
        return replace(of_caller, is_unreadable=True)
    except OSError:  # the process has gone, as its pidfd will say, or is none that runs a file
        return of_caller
    version = _FileVersion.of(running)
    if (path_now, _FileVersion.of(running_now)) != (path, version):  # it began another program meanwhile
        return replace(of_caller, is_complete=False)
    return replace(of_caller, selectors=of_user | of_path, executable=path, to_hash=version)


def _what_runs(pid: int) -> tuple[str, os.stat_result]:
    """The path of the file that is being run, and the very file, also where its path names another by now."""
    link = _exe(pid)
    return str(link.readlink()), link.stat()


def _names(credentials: PeerCredentials) -> Iterator[str]:
    """The user's and the group's. A missing one is unknown, or the service that knows it does not answer now."""
    with contextlib.suppress(KeyError):
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
