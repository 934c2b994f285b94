"""A relay in front of a gRPC server on a Unix socket, so that handlers know which process is calling.

gRPC in Python shows nothing of a Unix peer but the address that it is bound to. So the relay accepts on the public
socket, reads the kernel's credentials, and carries the bytes to a private socket from an address made up for this one
connection. Such addresses can be read in `/proc/net/unix`. What keeps others from using one: the private socket lies in
a folder of mode 0700, a name is known only while its connection lives, and for that time the address is taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import count
from mmap import mmap
from pathlib import Path
from typing import Final

import structlog

from citadel.config.files import ensure_private_dir
from citadel.errors import CitadelError, PermissionDenied, Reason
from citadel.peer import ROOT, Caller, Party, PeerCredentials
from citadel.splice import Splice
from citadel.unix_listener import listen_unix

__all__ = ["Caller", "PeerCredentials", "Relay", "everyone"]

_PEER_PREFIX: Final = "unix-abstract:"
_BUFFER_BYTES: Final = 256 * 1024  # what a Unix socket holds at a time, and more: one for all
_PRIVATE_NAME_BYTES: Final = 4  # few: a Unix socket's path is short
_ACCEPTED_AT_ONCE: Final = 16
_ACCEPT_PAUSE: Final = 0.05  # seconds, while file descriptors have run out

_log = structlog.get_logger(__name__)


def everyone(credentials: PeerCredentials) -> bool:  # noqa: ARG001 - the shape of a rule
    """Admit every local process: the handlers decide who may do what."""
    return True


class Relay:
    """Listens on `public_path` and relays each connection that `admits` lets in to `private_address`.

    Start it after the gRPC server listens on `private_address`; close it after that server has stopped. `private_dir`
    is a folder that only this user can enter, made where it is missing; relays may share it. The file of `listener`,
    one that listens on `public_path` already, is neither made nor removed here. More than `max_connections` at a time
    are turned away, and of one user more than `max_connections_per_uid`; root is not counted, who has other ways to
    stop this process. Where `party_of` is given it says who is counted as one, for each connection before it is let in,
    and raises nothing.
    """

    def __init__(
        self,
        public_path: Path,
        *,
        mode: int,
        private_dir: Path,
        listener: socket.socket | None = None,
        admits: Callable[[PeerCredentials], bool] = everyone,
        max_connections: int,
        max_connections_per_uid: int | None = None,
        party_of: Callable[[Caller], Awaitable[Party]] | None = None,
    ) -> None:
        self._path = public_path
        self._mode = mode
        self._admits = admits
        self._max_connections = max_connections
        self._max_connections_per_uid = max_connections_per_uid
        self._party_of = party_of
        self._of_party: Counter[Party] = Counter()
        self._full_parties: set[Party] = set()
        ensure_private_dir(private_dir)
        # Another name each time: a server that has stopped may still remove the file that it listened on.
        self._private_path = str(private_dir / secrets.token_hex(_PRIVATE_NAME_BYTES))
        self._callers: dict[str, Caller] = {}
        self._splices: set[Splice] = set()
        self._buffer = memoryview(mmap(-1, _BUFFER_BYTES))  # of which memory is taken as it is used
        self._is_full = False
        self._listener = listener
        self._listens_on: tuple[int, int] | None = None
        self._accepting: asyncio.Task[None] | None = None

    @property
    def private_address(self) -> str:
        """What to give to `add_insecure_port`."""
        return f"unix:{self._private_path}"

    def caller_of(self, context_peer: str) -> Caller:
        """The process behind a handler's `context.peer()`.

        Raises:
            PermissionDenied: `caller_unknown` for whatever did not come through this relay or has gone.
        """
        name = context_peer.removeprefix(_PEER_PREFIX)
        caller = self._callers.get(name) if name != context_peer else None
        if caller is None:
            raise PermissionDenied(Reason.CALLER_UNKNOWN, "the call did not come through a connection that is known")
        return caller

    async def start(self) -> None:
        """Listen and accept.

        Raises:
            FailedPrecondition: another process answers on the path, or it is no socket.
            InvalidArgument: the path cannot be listened on.
        """
        if self._listener is None:
            self._listener = await asyncio.to_thread(listen_unix, self._path, self._mode)
            self._listens_on = _file_of(self._path)
        self._accepting = asyncio.create_task(self._accept(self._listener), name=f"relay {self._path}")

    async def close(self) -> None:
        """Stop listening, cut every connection, remove what was made in the file system."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        for splice in tuple(self._splices):
            splice.end()
        await asyncio.to_thread(self._remove_files)

    def _remove_files(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self._listens_on == _file_of(self._path):  # otherwise it is a successor's, or not of our making
                self._path.unlink()
        Path(self._private_path).unlink(missing_ok=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for number in count(1):
            if number % _ACCEPTED_AT_ONCE == 0:
                await asyncio.sleep(0)  # those who are connected have their turn in a flood of new ones
            try:
                public, _ = await loop.sock_accept(listener)
            except OSError as error:
                _log.warning("cannot accept connections", socket=str(self._path), problem=error.strerror)
                await asyncio.sleep(_ACCEPT_PAUSE)
                continue
            try:
                await self._relay(public)
            except CitadelError as error:
                _log.info("connection refused", socket=str(self._path), reason=error.reason.value, problem=str(error))
                public.close()
            except OSError as error:  # as when nobody listens behind any more
                _log.warning("connection not relayed", socket=str(self._path), problem=error.strerror)
                public.close()
            except Exception as error:  # noqa: BLE001 - one connection's failure must not end the listening
                _log.error("connection not relayed", socket=str(self._path), exc_info=error)
                public.close()
            except BaseException:
                public.close()
                raise

    async def _relay(self, public: socket.socket) -> None:
        if not self._has_room():
            public.close()
            return
        caller = await self._identified(public)
        if not self._has_room_for(caller.party):
            caller.close()
            public.close()
            return
        name = f"citadel-{secrets.token_hex(16)}"
        splice = Splice(caller, name=name, buffer=self._buffer, on_end=self._let_go)
        self._splices.add(splice)
        self._of_party[caller.party] += 1
        try:
            self._check_admitted(caller.credentials)
            self._callers[name] = caller  # before the connection exists: whoever is unknown is a stranger
            await splice.join(public, self._private_path)
        except BaseException:
            splice.end()
            raise

    async def _identified(self, public: socket.socket) -> Caller:
        # One after the other, as they are accepted: nobody is let in between the count and its check.
        caller = Caller.of(public)
        if self._party_of is not None:
            try:
                caller.party = await self._party_of(caller)
            except BaseException:
                caller.close()
                raise
        return caller

    def _check_admitted(self, credentials: PeerCredentials) -> None:
        if not self._admits(credentials):
            raise PermissionDenied(Reason.CALLER_NOT_ALLOWED, f"uid {credentials.uid} may not connect to {self._path}")

    def _has_room(self) -> bool:
        was_full, self._is_full = self._is_full, len(self._splices) >= self._max_connections
        if self._is_full and not was_full:  # said once, not for each of a flood
            _log.warning("connections are turned away", socket=str(self._path), limit=self._max_connections)
        return not self._is_full

    def _has_room_for(self, party: Party) -> bool:
        most = self._max_connections_per_uid
        if party == ROOT or most is None or self._of_party[party] < most:
            return True
        if party not in self._full_parties:  # said once, until all of its connections are closed
            self._full_parties.add(party)
            who, named = ("user", "uid") if isinstance(party, int) else ("pod", "pod")
            _log.warning(f"connections of a {who} are turned away", socket=str(self._path), **{named: party})
        return False

    def _let_go(self, splice: Splice) -> None:
        party = splice.caller.party
        self._callers.pop(splice.name, None)
        self._splices.discard(splice)
        self._of_party[party] -= 1
        if not self._of_party[party]:
            del self._of_party[party]
            self._full_parties.discard(party)


def _file_of(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino
