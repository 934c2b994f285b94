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
    """Calls `page`, which it closes in the end, until it is told to stop."""

    def __init__(self, plan: Plan, tally: Tally, page: Productpage) -> None:
        self._tally = tally
        self._page = page
        self._pause = _WORKERS / plan.pace
        self._caller = str(plan.productpage.spiffe_id)
        self._server = str(plan.reviews.spiffe_id)

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
            self._tally.failures[_told(error.response)] += 1
        except httpx.HTTPError as error:
            self._tally.failures[f"{type(error).__name__}: {error}"] += 1
        else:
            if (caller, server) != (self._caller, self._server):
                self._tally.failures[f"wrong peers: caller {caller!r}, server {server!r}"] += 1
        self._tally.done += 1


def _told(response: httpx.Response) -> str:
    # A sidecar's own answer and one that it passed on look the same, but for this header.
    where = "behind" if "x-envoy-upstream-service-time" in response.headers else "on the way to"
    return f"{response.status_code} {where} the sidecar of reviews: {response.text[:200]}"
