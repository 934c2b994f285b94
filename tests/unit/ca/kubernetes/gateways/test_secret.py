"""When what a secret holds is judged, which can take a while, and when again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest

from ca.kubernetes.gateways.credential import Credential, NotYet
from ca.kubernetes.gateways.secret import Part, SecretName, WatchedSecret
from citadel.errors import InvalidArgument, Reason
from tests.certificates import NOW
from tests.clock import FakeClock
from tests.kube_fake import FakeKubernetes
from tests.secrets_of_gateways import secret, served, tls


@dataclass
class Judge:
    """Finds this fault, and counts how often it is asked."""

    fault: InvalidArgument
    asked: int = 0

    def __call__(self, data: Mapping[str, bytes], now: datetime) -> Credential:
        del data, now
        self.asked += 1
        raise self.fault


@asynccontextmanager
async def judged(judge: Judge, clock: FakeClock, turn: asyncio.Semaphore) -> AsyncIterator[WatchedSecret]:
    api, meta = FakeKubernetes(), {"metadata": {"namespace": "shop", "name": "web"}}
    api.put("/api/v1/namespaces/shop/secrets/web", secret("web", tls(served())) | meta)
    watched = WatchedSecret(SecretName("shop", "web"), api=api, turn=turn, clock=clock, read={Part.CERTIFICATE: judge})
    running = asyncio.create_task(watched.run(lambda: None))
    try:
        yield watched
    finally:
        running.cancel()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.001)  # of the threads


@pytest.mark.parametrize(
    ("fault", "again"),
    [
        (InvalidArgument(Reason.CREDENTIAL_INVALID, "it is no PEM"), 900),
        (NotYet("it is not valid before then", NOW + timedelta(seconds=45)), 60),
    ],
)
async def test_what_cannot_be_used_is_judged_again_when_time_may_have_mended_it(
    fault: InvalidArgument, again: int
) -> None:
    judge, clock = Judge(fault), FakeClock(NOW)
    async with judged(judge, clock, asyncio.Semaphore(1)) as watched:
        await until(lambda: bool(watched.exists))
        for _ in range(again // 30 - 1):
            watched.ask(Part.CERTIFICATE)
            await clock.advance(30)
        assert judge.asked == 1
        watched.ask(Part.CERTIFICATE)
        await clock.advance(30)
        await until(lambda: judge.asked == 2)


async def test_secrets_are_judged_in_turn() -> None:
    """Threads are for others too, and reading a secret can take a while."""
    judge, turn = Judge(InvalidArgument(Reason.CREDENTIAL_INVALID, "it is no PEM")), asyncio.Semaphore(1)
    await turn.acquire()
    async with judged(judge, FakeClock(NOW), turn) as watched:
        await FakeClock().advance(0)
        assert (watched.exists, judge.asked) == (None, 0)
        turn.release()
        await until(lambda: bool(watched.exists))
        assert judge.asked == 1
