"""Asking the server for the credentials of this node's gateways, over one stream that is opened again for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

import structlog

from citadel._wire import agent_api_pb2 as pb
from citadel._wire import agent_api_pb2_grpc
from citadel.call import errors_of_call
from citadel.clock import Clock
from citadel.errors import CitadelError, Reason, Unavailable
from citadel.pace import Pace
from sds.credentials.book import CredentialBook, Key
from sds.credentials.received import received
from sds.credentials.turns import Turns

# New names, somewhat less than the server takes of an agent before it ends the stream.
_NEW_PER_SECOND: Final = 40.0
_NEW_AT_ONCE: Final = 1900.0
_COALESCE: Final = 0.05  # seconds; a gateway asks for each name on a stream of its own
_LONGEST_PAUSE: Final = 5.0  # seconds between tries
_LONGEST_REFUSED: Final = 30.0  # where the server is there and says no

_log = structlog.get_logger(__name__)


class CredentialWatch:
    """Keeps `book` filled for as long as it runs. Opens nothing before something is wanted."""

    def __init__(
        self,
        book: CredentialBook,
        *,
        api: Callable[[], agent_api_pb2_grpc.AgentApiAsyncStub],
        draw: Callable[[], float],
        clock: Clock,
    ) -> None:
        """`api` gives the line in use; `draw` gives numbers from 0 up to 1."""
        self._book = book
        self._api = api
        self._clock = clock
        self._pace = Pace(clock=clock, draw=draw)
        self._turns = self._new_turns()
        self._trouble: Reason | None = None

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            while not self._book.wanted:
                self._book.news.clear()
                await self._book.news.wait()
            error = await self._one_stream()
            if self._trouble is not error.reason:  # told once, not for each try
                self._trouble = error.reason
                _log.warning("credentials of gateways cannot be asked for", reason=error.reason, error=str(error))
            if isinstance(error, Unavailable):  # who is there next has counted nothing yet
                self._turns = self._new_turns()
            self._book.cannot_ask(f"{error.message} ({error.reason.value})")
            self._pace.failed(longest=_LONGEST_PAUSE if isinstance(error, Unavailable) else _LONGEST_REFUSED)
            await self._clock.sleep(self._pace.wait)

    def _new_turns(self) -> Turns:
        return Turns(per_second=_NEW_PER_SECOND, burst=_NEW_AT_ONCE, clock=self._clock)

    async def _one_stream(self) -> CitadelError:
        """Run a stream to its end, and say why it ended."""
        over = asyncio.Event()
        call = self._api().WatchCredentials(self._outgoing(over))
        try:
            with errors_of_call("the stream was given up on this side"):
                async for update in call:
                    self._has_worked()
                    self._take(update)
        except CitadelError as error:
            return error
        finally:
            call.cancel()
            over.set()  # as of Sync: gRPC leaves what pulls from `_outgoing` waiting for ever
            self._book.news.set()
        return Unavailable(Reason.SERVER_UNREACHABLE, "the server ended the stream")

    async def _outgoing(self, over: asyncio.Event) -> AsyncIterator[pb.WantedCredentials]:
        told: dict[Key, int] = {}
        while not over.is_set():
            self._book.news.clear()
            wanted = self._book.numbered
            still = {key: number for key, number in told.items() if wanted.get(key) == number}
            new = {key: wanted[key] for key in self._turns.take(key for key in wanted if key not in still)}
            if new.keys() & told.keys():  # the server is to tell anew what was forgotten here meanwhile
                yield _wanting(still)
            if (now := still | new) != told:
                told = now
                yield _wanting(now)
            if len(now) == len(wanted):
                await self._book.news.wait()
            await self._clock.sleep(_COALESCE)

    def _has_worked(self) -> None:
        self._pace.worked()
        self._book.cannot_ask("")
        self._trouble = None

    def _take(self, update: pb.CredentialUpdate) -> None:
        key = (update.entry_id, update.name)
        if key not in self._book.wanted:
            return
        match update.WhichOneof("state"):
            case "good":
                try:
                    resource = received(update.name, update.good)
                except CitadelError as error:
                    _log.error("a credential of a gateway was held back", reason=error.reason, error=str(error))
                    self._book.refuse(key, str(error))
                else:
                    self._book.put(key, resource, behind=_words(update.behind) if update.HasField("behind") else "")
            case "refused":
                self._book.refuse(key, _words(update.refused))
            case "withdrawn":
                self._book.withdraw(key, _words(update.withdrawn.why))


def _wanting(keys: Iterable[Key]) -> pb.WantedCredentials:
    return pb.WantedCredentials(wanted=[pb.WantedCredential(entry_id=entry_id, name=name) for entry_id, name in keys])


def _words(refusal: pb.Refusal) -> str:
    return f"{refusal.message} ({refusal.reason})"
