"""Proxies ask one by one, and are signed for together: a batch costs little more than its signatures."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeAlias

from ca.issuance.press import IssuedSvid
from ca.issuance.proven import ProvenRequest
from citadel.errors import CitadelError

_MOST: Final = 64  # in a batch; so many wait for none that is under way
_UNDER_WAY: Final = 4  # batches

_Waiting: TypeAlias = tuple[ProvenRequest, "asyncio.Future[IssuedSvid]"]


class Issuer(Protocol):
    """Signs; `ca.issuance.issuer` is the one there is."""

    async def issue_proven(self, requests: Sequence[ProvenRequest]) -> list[IssuedSvid | CitadelError]:
        """As there."""
        ...


class Gathering:
    """While a batch is under way, those that come next are gathered for the one after it."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._waiting: list[_Waiting] = []
        self._working: set[asyncio.Task[Any] | None] = set()

    async def issue(self, request: ProvenRequest) -> IssuedSvid:
        """The certificate. Raises what refuses this one, or the batch."""
        done: asyncio.Future[IssuedSvid] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, done))
        if not self._working or (len(self._waiting) >= _MOST and len(self._working) < _UNDER_WAY):
            self._working.add(asyncio.create_task(self._work(), name="certificates of proxies"))
        return await done

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                if batch := [each for each in batch if not each[1].done()]:  # the others are not waited for any more
                    await self._sign(batch)
        finally:
            self._working -= {asyncio.current_task()}  # in this step: who comes in the next one begins another

    async def _sign(self, batch: Sequence[_Waiting]) -> None:
        try:
            outcomes = await self._issuer.issue_proven([request for request, _ in batch])
            for (_, done), outcome in zip(batch, outcomes, strict=True):
                if done.done():
                    continue
                if isinstance(outcome, IssuedSvid):
                    done.set_result(outcome)
                else:
                    done.set_exception(_twin(outcome))
        except Exception as error:  # noqa: BLE001 - told to all who wait, whose task this is not
            for _, done in batch:
                if not done.done():
                    done.set_exception(_twin(error))
        finally:
            for _, done in batch:  # where this process ends; it does nothing to those that have their answer
                done.cancel()


def _twin(error: Exception) -> Exception:
    """Another one like it: whoever raises an error writes the own traceback into it."""
    twin = type(error).__new__(type(error), *error.args)
    vars(twin).update(vars(error))
    twin.__cause__ = error
    return twin
