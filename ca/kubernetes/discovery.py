"""Kinds of objects in `certificates.k8s.io` that not every API server has, or not in the same version."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import SystemRandom
from typing import Any, Final

import structlog

from citadel.clock import Clock
from citadel.errors import CitadelError, NotFound
from citadel.kubernetes.ports import KubernetesApi
from citadel.kubernetes.reading import parts
from citadel.pace import Pace
from citadel.unexpected import nothing_unexpected
from citadel.waiting import first_of

GROUP: Final = "/apis/certificates.k8s.io"
_VERSIONS: Final = ("v1", "v1beta1")  # the newest first
_LOOK_AGAIN: Final = 600.0  # seconds: an API server may be another one after an update
_LONGEST_PAUSE: Final = 30.0

_log = structlog.get_logger(__name__)


async def served_at(api: KubernetesApi, resource: str) -> str | None:
    """Group and version at which the API server has this, as the beginning of a path; None where it has it not."""
    for version in _VERSIONS:
        try:
            found = await api.get(f"{GROUP}/{version}")
        except NotFound:
            continue
        if any(each.get("name") == resource for each in parts(found, "resources")):
            return f"{GROUP}/{version}"
    return None


class WhileServed:
    """Follows a kind of object in the newest version of it, for as long as the API server has it."""

    def __init__(self, api: KubernetesApi, resource: str, *, clock: Clock) -> None:
        self._api = api
        self._resource = resource
        self._clock = clock
        self._pace = Pace(clock=clock, draw=SystemRandom().random)
        self._following: asyncio.Task[None] | None = None
        self._at: str | None = None
        self.is_absent = False  # the API server was asked, and has it not
        self.trouble: CitadelError | None = None  # why it could not be asked the last time

    async def run(self, follow: Callable[[str], Coroutine[Any, Any, None]]) -> None:
        """Run `follow` with where it is, for ever; anew where that changes."""
        try:
            while True:
                await self._rest(await self._look(follow))
        finally:
            await self._end()

    async def _look(self, follow: Callable[[str], Coroutine[Any, Any, None]]) -> float:
        """In how many seconds to look again."""
        try:
            with nothing_unexpected(self._resource):
                found = await served_at(self._api, self._resource)
        except CitadelError as error:
            if self._at is None and not self._pace.wait:
                _log.warning("cannot ask what the API server has", reason=error.reason, error=str(error))
            self.trouble = error
            self._pace.failed(longest=_LONGEST_PAUSE)
            return self._pace.wait
        self.trouble = None
        self._pace.worked()
        if found is None and not self.is_absent:
            _log.warning("this API server has no such objects", kind=self._resource, asked=f"{GROUP}/{{v1,v1beta1}}")
        self.is_absent = found is None
        if found != self._at:
            await self._end()
            self._at = found
            if found is not None:
                self._following = asyncio.create_task(follow(found))
        return _LOOK_AGAIN

    async def _rest(self, seconds: float) -> None:
        if self._following is None:
            await self._clock.sleep(seconds)
            return
        await first_of(self._clock.sleep(seconds), _ended(self._following))
        if self._following.done():
            self._following.result()

    async def _end(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait({self._following})
            self._following, self._at = None, None


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait({task})
