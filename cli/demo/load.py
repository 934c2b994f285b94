"""The load: requests at a steady pace, each counted, none retried."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import httpx

from cli.demo.bookinfo import Productpage
from cli.demo.plan import Plan

_WORKERS: Final = 4


@dataclass(slots=True)
class Tally:
    """Requests so far. `failures` counts them by what went wrong."""

    done: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """How many did not get the right answer from the right peer."""
        return self.failures.total()


class Load:
    """Calls productpage until it is told to stop."""

    def __init__(self, plan: Plan, tally: Tally) -> None:
        self._tally = tally
        self._pause = _WORKERS / plan.pace
        self._caller = str(plan.productpage.spiffe_id)
        self._server = str(plan.reviews.spiffe_id)
        self._page = Productpage(sidecar_port=plan.productpage.listen_port)

    async def run(self, stop: asyncio.Event) -> None:
        """Ends once `stop` is set and the requests in hand are answered, so that each that was begun is counted."""
        try:
            async with asyncio.TaskGroup() as workers:
                for number in range(_WORKERS):
                    workers.create_task(self._work(number, stop))
        finally:
            await self._page.close()

    async def _work(self, number: int, stop: asyncio.Event) -> None:
        await asyncio.sleep(self._pause * number / _WORKERS)
        while not stop.is_set():
            await asyncio.gather(self._request(), asyncio.sleep(self._pause))

    async def _request(self) -> None:
        try:
            caller, server = await self._page.render()
        except httpx.HTTPStatusError as error:
            self._tally.failures[f"{error.response.status_code}: {error.response.text[:200]}"] += 1
        except httpx.HTTPError as error:
            self._tally.failures[f"{type(error).__name__}: {error}"] += 1
        else:
            if (caller, server) != (self._caller, self._server):
                self._tally.failures[f"wrong peers: caller {caller!r}, server {server!r}"] += 1
        self._tally.done += 1
