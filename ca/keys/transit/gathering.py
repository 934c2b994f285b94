"""Concurrent requests for signatures share calls: while one is under way, those that come next go together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from citadel.errors import CitadelError
from citadel.unexpected import ASKS_TO_END

Outcome: TypeAlias = bytes | CitadelError
Call: TypeAlias = Callable[[Sequence[bytes]], Awaitable[Sequence[Outcome]]]


@dataclass(slots=True, eq=False)
class _Request:
    """Messages of one who waits. All or nothing: `done` has every signature, or the first thing that went wrong."""

    messages: Sequence[bytes]
    done: asyncio.Future[Sequence[bytes]]
    signatures: list[bytes] = field(default_factory=list)

    @property
    def missing(self) -> Sequence[bytes]:
        return self.messages[len(self.signatures) :]

    def take(self, outcomes: Sequence[Outcome]) -> None:
        """What came of the first of those that were missing."""
        for outcome in outcomes:
            if self.done.done():  # refused, or nobody waits any more
                return
            if isinstance(outcome, CitadelError):
                self.done.set_exception(outcome)
            else:
                self.signatures.append(outcome)
        if not self.missing and not self.done.done():
            self.done.set_result(self.signatures)


class Gathering:
    """One call of at most `limit` messages at a time; who gives up waiting takes nothing from others."""

    def __init__(self, call: Call, *, limit: int) -> None:
        """`call` answers for each message, in their order, and may raise `CitadelError` for all of them."""
        self._call = call
        self._limit = limit
        self._waiting: list[_Request] = []
        self._work: asyncio.Task[None] | None = None

    async def sign(self, messages: Sequence[bytes]) -> Sequence[bytes]:
        """Signatures of all `messages`, in their order, or what went wrong with the first that has none."""
        if not messages:
            return []
        request = _Request(messages, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run())
        return await request.done

    async def _run(self) -> None:
        while shares := self._next():
            messages = [message for _, part in shares for message in part]
            try:
                outcomes = await self._call(messages)
            except CitadelError as error:
                outcomes = [error] * len(messages)
            except asyncio.CancelledError:  # this process ends
                for request in self._waiting:
                    request.done.cancel()
                raise
            except ASKS_TO_END:
                raise
            except BaseException as bug:  # noqa: BLE001 - told to all who wait, whose task this is not
                for request in self._waiting:
                    if not request.done.done():
                        request.done.set_exception(bug)
                continue
            begin = 0
            for request, part in shares:
                request.take(outcomes[begin : begin + len(part)])
                begin += len(part)

    def _next(self) -> list[tuple[_Request, Sequence[bytes]]]:
        """Who goes with the next call, each with as many messages as fit, in the order in which they came."""
        self._waiting = [each for each in self._waiting if not each.done.done()]
        room, shares = self._limit, list[tuple[_Request, Sequence[bytes]]]()
        for request in self._waiting:
            part = request.missing[:room]
            if part:
                shares.append((request, part))
                room -= len(part)
        return shares
