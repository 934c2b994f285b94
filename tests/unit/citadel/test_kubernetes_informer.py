"""Following a collection through everything that can happen to an API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

import pytest

from citadel.errors import CitadelError, Reason, Unavailable
from citadel.kubernetes.informer import Informer
from citadel.kubernetes.ports import ApiUnavailable, KubeObject, Listed, WatchEvent, WatchExpired
from tests.clock import FakeClock
from tests.kube_fake import FakeKubernetes

THINGS: Final = "/api/v1/things"
TEN_MINUTES: Final = 600.0
AWAY: Final = ApiUnavailable("away")


def thing(data: str, name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": data}


class Followed:
    """An informer of an API server in memory, and what it told."""

    def __init__(self, api: FakeKubernetes) -> None:
        self.api = api
        self.clock = FakeClock()
        self.told: list[tuple[str, str | None, str | None]] = []
        self.informer: Informer[str] = Informer(api, THINGS, keep=self.keep, clock=self.clock, draw=lambda: 0.0)
        self.informer.follow(lambda *change: self.told.append(change))

    def keep(self, found: KubeObject) -> str | None:
        return str(found["data"])

    def put(self, name: str, data: str) -> None:
        self.api.put(f"{THINGS}/{name}", thing(data, name))

    def drop(self, name: str) -> None:
        self.api.drop(f"{THINGS}/{name}")

    def news(self) -> list[tuple[str, str | None, str | None]]:
        """What was told since this was asked last."""
        told, self.told[:] = list(self.told), []
        return told

    @property
    def calls(self) -> list[str]:
        return [verb for verb, _ in self.api.calls]

    async def settled(self) -> None:
        for _ in range(50):
            await asyncio.sleep(0)


@asynccontextmanager
async def following(api: FakeKubernetes) -> AsyncIterator[Followed]:
    followed = Followed(api)
    running = asyncio.create_task(followed.informer.run())
    await followed.settled()
    try:
        yield followed
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
async def followed() -> AsyncIterator[Followed]:
    async with following(FakeKubernetes()) as followed:
        yield followed


async def test_ten_minutes_away_cost_few_calls_and_the_return_costs_one(followed: Followed) -> None:
    followed.put("a", "1")
    followed.put("b", "1")
    await followed.clock.advance(60)
    followed.news()
    followed.api.calls.clear()
    followed.api.fails = AWAY
    followed.api.break_watches(AWAY)
    await followed.clock.advance(TEN_MINUTES)
    assert followed.informer.current == {"a": "1", "b": "1"}
    assert followed.informer.trouble is AWAY
    assert 20 < len(followed.calls) < 30
    followed.put("a", "2")
    followed.drop("b")
    followed.put("c", "1")
    followed.api.calls.clear()
    followed.api.fails = None
    await followed.clock.advance(30)
    assert followed.calls == ["watch"]
    assert followed.informer.trouble is None
    assert followed.news() == [("a", "1", "2"), ("b", "1", None), ("c", None, "1")]
    await followed.clock.advance(60)
    assert followed.calls == ["watch"]


@pytest.mark.parametrize("lasted", [0.0, 60.0])
async def test_a_watch_that_expired_is_followed_by_a_list(followed: Followed, lasted: float) -> None:
    followed.put("a", "1")
    followed.put("b", "1")
    await followed.clock.advance(lasted)
    followed.news()
    followed.api.calls.clear()
    queues = followed.api.watchers.pop(THINGS)  # so that nothing of this is told
    followed.put("a", "2")
    followed.drop("b")
    followed.api.history.clear()
    followed.api.watchers[THINGS] = queues
    followed.api.break_watches(WatchExpired("too old"))
    await followed.clock.advance(1)
    assert followed.calls == ["list", "watch"]
    assert sorted(followed.news(), key=str) == [("a", "1", "2"), ("b", "1", None)]
    assert followed.informer.trouble is None


class Restarted(FakeKubernetes):
    """Remembers nothing from before `oldest`."""

    oldest = 0

    @asynccontextmanager
    async def watch(self, path: str, *, resource_version: str, **_: Any) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        if int(resource_version) < self.oldest:
            self.calls.append(("watch", path))
            raise WatchExpired("too old")
        async with super().watch(path, resource_version=resource_version) as events:
            yield events


async def test_an_api_server_that_comes_back_and_remembers_nothing_is_listed_at_once() -> None:
    """However long the pauses have become with which it was waited for: until then new pods have no identity."""
    api = Restarted()
    async with following(api) as followed:
        followed.put("a", "1")
        await followed.clock.advance(60)
        api.fails = AWAY
        api.break_watches(AWAY)
        await followed.clock.advance(TEN_MINUTES)
        behind_its_back(followed)
        api.oldest, api.fails = api.version, None
        api.calls.clear()
        while not api.calls:
            await followed.clock.advance(1)
        assert followed.calls == ["watch", "list", "watch"]
        assert followed.informer.current == {"b": "1"}


async def test_a_watch_that_ends_in_due_time_goes_on_at_once_and_tells_nothing_twice(followed: Followed) -> None:
    followed.put("a", "1")
    followed.drop("a")
    followed.put("a", "2")
    await followed.clock.advance(60)
    assert followed.news() == [("a", None, "1"), ("a", "1", None), ("a", None, "2")]
    followed.api.calls.clear()
    for error in (None, AWAY):  # what is between may end it as well
        followed.api.break_watches(error)
        await followed.settled()
        await followed.clock.advance(60)
    assert followed.calls == ["watch", "watch"]
    assert followed.news() == []
    assert followed.informer.trouble is None


def behind_its_back(followed: Followed) -> None:
    """As after etcd was restored: `a` is gone, `b` is new, and no watch tells it."""
    queues = followed.api.watchers.pop(THINGS)
    followed.drop("a")
    followed.put("b", "1")
    followed.api.history.clear()
    followed.api.watchers[THINGS] = queues


async def test_everything_is_listed_again_after_half_an_hour(followed: Followed) -> None:
    followed.put("a", "1")
    await followed.settled()
    behind_its_back(followed)
    followed.api.calls.clear()
    for minutes in (29, 1):
        await followed.clock.advance(minutes * 60)
        followed.api.break_watches()
        await followed.settled()
    assert followed.calls == ["watch", "list", "watch"]
    assert followed.informer.current == {"b": "1"}


@pytest.mark.parametrize(("version", "calls"), [("1", ["list", "watch"]), ("99", []), ("", []), ("opaque", [])])
async def test_versions_that_go_backwards_are_followed_by_a_list(
    followed: Followed, version: str, calls: list[str]
) -> None:
    for data in ("1", "2", "3"):
        followed.put("a", data)
    await followed.settled()
    behind_its_back(followed)
    followed.api.calls.clear()
    for queue in followed.api.watchers[THINGS]:
        queue.put_nowait(WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": version}}))
    await followed.clock.advance(1)
    assert followed.calls == calls
    assert followed.informer.current == ({"b": "1"} if calls else {"a": "3"})


class EndsAtOnce(FakeKubernetes):
    """Its watches end as soon as they are open."""

    error: CitadelError | None = None

    @asynccontextmanager
    async def watch(self, path: str, **_: Any) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        self.calls.append(("watch", path))
        yield self._nothing()

    async def _nothing(self) -> AsyncIterator[WatchEvent]:
        for error in [self.error] if self.error is not None else []:
            raise error
        return
        yield


@pytest.mark.parametrize("error", [None, AWAY, WatchExpired("too old"), Unavailable(Reason.KUBERNETES_DENIED, "no")])
async def test_watches_that_end_at_once_make_no_storm(error: CitadelError | None) -> None:
    api = EndsAtOnce()
    api.error = error
    async with following(api) as followed:
        await followed.clock.advance(TEN_MINUTES)
        assert len(followed.calls) < 60


async def test_a_busy_api_server_is_left_alone_for_as_long_as_it_asks(followed: Followed) -> None:
    followed.api.fails = ApiUnavailable("busy", retry_after=timedelta(seconds=120))
    followed.api.break_watches(AWAY)
    await followed.clock.advance(2)
    followed.api.calls.clear()
    await followed.clock.advance(110)
    assert followed.calls == []
    followed.api.fails = None
    await followed.clock.advance(20)
    assert followed.calls == ["watch"]


async def test_lists_that_hang_are_trouble_although_they_take_their_time() -> None:
    class Hangs(FakeKubernetes):
        clock: FakeClock

        async def list(self, path: str, **_: Any) -> Listed:
            self.calls.append(("list", path))
            await self.clock.sleep(15)
            raise AWAY

    api = Hangs()
    api.clock = FakeClock()
    informer = Informer(api, THINGS, keep=str, clock=api.clock, draw=lambda: 0.0)
    running = asyncio.create_task(informer.run())
    await api.clock.advance(TEN_MINUTES)
    assert informer.trouble is AWAY
    assert len(api.calls) < 25
    running.cancel()


async def test_whatever_goes_wrong_in_the_client_it_is_tried_again(followed: Followed) -> None:
    followed.put("a", "1")
    await followed.settled()
    followed.api.fails = RuntimeError("a defect of a library")  # type: ignore[assignment]  # no error of ours
    followed.api.break_watches(AWAY)
    await followed.clock.advance(10)
    assert followed.informer.current == {"a": "1"}
    assert followed.informer.trouble is not None
    assert followed.informer.trouble.reason is Reason.KUBERNETES_UNAVAILABLE
    followed.put("b", "1")
    followed.api.fails = None
    await followed.clock.advance(30)
    assert followed.informer.current == {"a": "1", "b": "1"}


async def test_who_fails_to_take_a_change_in_keeps_nobody_else_from_it(followed: Followed) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("a defect of a follower")

    informer = followed.informer
    informer.follow(fails)
    told: list[str] = []
    informer.follow(lambda key, *_: told.append(key))
    followed.put("a", "1")
    followed.put("b", "1")
    await followed.settled()
    assert told == ["a", "b"]
    assert informer.trouble is None


async def test_an_object_that_cannot_be_read_stays_as_it_was(followed: Followed) -> None:
    followed.put("a", "1")
    followed.api.put(f"{THINGS}/a", {"metadata": {"name": "a"}})
    followed.put("b", "1")
    await followed.settled()
    assert followed.informer.current == {"a": "1", "b": "1"}
    followed.api.history.clear()
    followed.api.break_watches(WatchExpired("too old"))
    await followed.clock.advance(1)
    assert followed.informer.current == {"a": "1", "b": "1"}


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"metadata": None},
        {"metadata": {}},
        {"metadata": "a"},
        {"metadata": {"name": 7}},
        {"metadata": {"name": ""}},
    ],
)
async def test_what_is_no_object_is_of_no_interest(followed: Followed, odd: dict[str, Any]) -> None:
    followed.put("a", "1")
    await followed.settled()
    followed.api.objects["/api/v1/things/odd"] = odd
    for kind in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ODD"):
        for queue in followed.api.watchers[THINGS]:
            queue.put_nowait(WatchEvent(kind, odd))
    followed.put("b", "1")
    await followed.settled()
    assert followed.informer.current == {"a": "1", "b": "1"}
    followed.api.break_watches(WatchExpired("too old"))
    await followed.clock.advance(1)
    assert followed.informer.current == {"a": "1", "b": "1"}


async def test_a_bookmark_moves_on_and_tells_nothing(followed: Followed) -> None:
    await followed.clock.advance(60)
    followed.api.version = 40
    for queue in followed.api.watchers[THINGS]:
        queue.put_nowait(WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": "40"}}))
    await followed.settled()
    followed.api.history.append((39, f"{THINGS}/old", WatchEvent("ADDED", thing("1", "old"))))
    followed.api.break_watches()
    await followed.settled()
    assert followed.told == []
