"""Proxies ask one by one, and are signed for together: what one costs is mostly what a batch costs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias

from ca.issuance.press import IssuedSvid
from ca.issuance.proven import ProvenRequest
from citadel.errors import CitadelError

_MOST: Final = 64

_Waiting: TypeAlias = tuple[ProvenRequest, "asyncio.Future[IssuedSvid]"]


class Issuer(Protocol):
    """Signs; `ca.issuance.issuer` is the one there is."""

    async def issue_proven(self, requests: Sequence[ProvenRequest]) -> list[IssuedSvid | CitadelError]:
        """As there."""
        ...


class Gathering:
    """Requests that came in the same turn of the loop go in one batch of at most 64."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._waiting: list[_Waiting] = []
        self._batches: set[asyncio.Task[None]] = set()

    async def issue(self, request: ProvenRequest) -> IssuedSvid:
        """The certificate. Raises what refuses this one, or the batch."""
        done: asyncio.Future[IssuedSvid] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, done))
        if len(self._waiting) == 1:
            batch = asyncio.create_task(self._next(), name="certificates of proxies")
            self._batches.add(batch)
            batch.add_done_callback(self._batches.discard)
        return await done

    async def _next(self) -> None:
        await asyncio.sleep(0)
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), _MOST):
            await self._sign([each for each in waiting[start : start + _MOST] if not each[1].done()])

    async def _sign(self, batch: Sequence[_Waiting]) -> None:
        outcomes: Sequence[IssuedSvid | BaseException]
        try:
            outcomes = await self._issuer.issue_proven([request for request, _ in batch])
        except Exception as error:  # noqa: BLE001 - told to all who wait, whose task this is not
            outcomes = [error] * len(batch)
        except asyncio.CancelledError:  # this process ends
            for _, done in batch:
                done.cancel()
            raise
        for (_, done), outcome in zip(batch, outcomes, strict=True):
            if done.done():  # nobody waits any more
                continue
            if isinstance(outcome, IssuedSvid):
                done.set_result(outcome)
            else:
                done.set_exception(outcome)
