"""What nobody expected in a cluster: it ends neither the work there nor that of others, and people are told."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from structlog.testing import capture_logs

from ca.kubernetes.bundles.rivals import Rivals
from ca.kubernetes.discovery import GROUP, WhileServed
from ca.kubernetes.pods import Pods
from ca.kubernetes.safety import SafetyNet
from citadel.errors import CitadelError, NotFound, Reason
from citadel.unexpected import nothing_unexpected
from tests.clock import FakeClock
from tests.kube_fake import FakeKubernetes

SECRET = "MIIEvQIBADANBg"


@dataclass
class Work:
    """Ends with `error`, where there is one, after so many seconds."""

    clock: FakeClock
    error: BaseException | None = field(default_factory=lambda: KeyError(SECRET))
    after: float = 0.0
    begun: list[float] = field(default_factory=list)

    async def __call__(self) -> None:
        self.begun.append(self.clock.monotonic())
        await self.clock.sleep(self.after)
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()


@dataclass
class Parts:
    """Work of two parts: one fails after a while, the other takes a while to close, or cannot."""

    FAILS: ClassVar = 2.0
    CLOSES: ClassVar = 2.0

    clock: FakeClock
    closes_well: bool = True
    begun: int = 0

    async def __call__(self) -> None:
        self.begun += 1
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self._fail())
            parts.create_task(self._close())

    async def _fail(self) -> None:
        await self.clock.sleep(self.FAILS)
        raise KeyError(SECRET)

    async def _close(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            if not self.closes_well:
                raise ValueError(SECRET)
            await self.clock.sleep(self.CLOSES)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@contextmanager
def running(work: Coroutine[Any, Any, None]) -> Iterator[asyncio.Task[None]]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()


async def test_work_that_ends_is_begun_anew_later_each_time_until_it_goes_well(clock: FakeClock) -> None:
    net, work = SafetyNet("main", clock=clock, draw=lambda: 0.0), Work(clock)
    with running(net.run("the trust bundle", work)), capture_logs() as logs:
        await clock.advance(1000)
        assert work.begun == [0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 811]
        (trouble,) = net.troubles()
        assert (trouble.error.reason, trouble.error.message) == (
            Reason.INTERNAL,
            "the work on the trust bundle ended, and is begun anew: the server's own fault, KeyError: see its log",
        )
        assert trouble.since == clock.now() - timedelta(seconds=1000)
        traced = [each for each in logs if each.get("exc_info")]
        assert [each["what"] for each in traced] == ["main: the trust bundle"] * len(work.begun)
        work.error = None
        await clock.advance(111 + 299)
        assert net.troubles()
        await clock.advance(1)
        assert not net.troubles()


async def test_what_went_well_for_long_is_begun_anew_at_once(clock: FakeClock) -> None:
    net, work = SafetyNet("main", clock=clock, draw=lambda: 0.0), Work(clock, after=300)
    with running(net.run("the trust bundle", work)):
        await clock.advance(903)
    assert work.begun == [0, 301, 602, 903]


async def test_work_that_comes_to_an_end_by_itself_is_begun_anew_too(clock: FakeClock) -> None:
    net, begun = SafetyNet("main", clock=clock, draw=lambda: 0.0), []

    async def work() -> None:
        begun.append(clock.monotonic())

    with running(net.run("the trust bundle", work)):
        await clock.advance(3)
    assert begun == [0, 1, 3]


async def test_who_cancels_the_work_ends_it(clock: FakeClock) -> None:
    net, work = SafetyNet("main", clock=clock), Work(clock, error=None)
    with running(net.run("the trust bundle", work)) as task:
        await clock.advance(1)
        task.cancel()
        await clock.advance(1)
        assert task.cancelled()
    assert len(work.begun) == 1


async def test_who_cancels_work_that_is_ending_by_an_error_of_a_part_ends_it(clock: FakeClock) -> None:
    net, work = SafetyNet("main", clock=clock), Parts(clock)
    with running(net.run("the trust bundle", work)) as task:
        await clock.advance(Parts.FAILS + Parts.CLOSES / 2)
        task.cancel()
        await clock.advance(Parts.CLOSES)
        assert task.cancelled()
    assert work.begun == 1


async def test_who_cancels_work_that_makes_an_error_of_it_ends_it(clock: FakeClock) -> None:
    net, work = SafetyNet("main", clock=clock), Parts(clock, closes_well=False)
    with running(net.run("the trust bundle", work)) as task, capture_logs() as logs:
        await clock.advance(Parts.FAILS / 2)
        task.cancel()
        await clock.advance(Parts.CLOSES)
        assert task.cancelled()
    assert work.begun == 1
    assert [each["of"] for each in logs if each.get("exc_info")] == ["the trust bundle"]


async def test_work_of_parts_that_ends_by_an_error_again_and_again_is_begun_anew(clock: FakeClock) -> None:
    net, work = SafetyNet("main", clock=clock, draw=lambda: 0.0), Parts(clock)
    with running(net.run("the trust bundle", work)) as task:
        await clock.advance(20)
        task.cancel()
        await clock.advance(Parts.CLOSES)
    assert work.begun == 4


async def test_work_that_somebody_else_cancelled_is_begun_anew(clock: FakeClock) -> None:
    net, work = SafetyNet("main", clock=clock, draw=lambda: 0.0), Work(clock, error=asyncio.CancelledError())
    with running(net.run("the trust bundle", work)):
        await clock.advance(3)
        assert [each.error.reason for each in net.troubles()] == [Reason.INTERNAL]
    assert work.begun == [0, 1, 3]


def test_a_refusal_is_not_unexpected() -> None:
    refusal = NotFound(Reason.KUBERNETES_NOT_FOUND, "none")
    with pytest.raises(NotFound) as raised, nothing_unexpected("one"):
        raise refusal
    assert raised.value is refusal


def test_what_an_unexpected_error_says_is_not_repeated_to_people() -> None:
    with pytest.raises(CitadelError) as raised, nothing_unexpected("one"):
        raise ValueError(SECRET)
    assert raised.value.reason is Reason.INTERNAL
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("odd", [{"resources": ["x", None, 7]}, {"resources": {"x": 1}}, {"resources": None}, {}])
async def test_an_api_server_that_says_oddly_what_it_has_has_it_not(clock: FakeClock, odd: dict[str, Any]) -> None:
    api = FakeKubernetes(objects={f"{GROUP}/v1": odd})
    served = WhileServed(api, "podcertificaterequests", clock=clock)
    with running(served.run(Followed(clock))) as task:
        await clock.advance(1)
        assert not task.done()
        assert served.is_absent


async def test_an_api_server_that_breaks_the_call_is_asked_again(clock: FakeClock) -> None:
    api = Broken({f"{GROUP}/v1": {"resources": [{"name": "podcertificaterequests"}]}})
    served, followed = WhileServed(api, "podcertificaterequests", clock=clock), Followed(clock)
    with running(served.run(followed)):
        await clock.advance(1)
        assert served.trouble is not None
        assert served.trouble.reason is Reason.INTERNAL
        api.error = None
        await clock.advance(5)
        assert served.trouble is None
        assert followed.at == [f"{GROUP}/v1"]


async def test_what_is_followed_while_it_is_served_is_followed_again_after_it_broke(clock: FakeClock) -> None:
    api = FakeKubernetes(objects={f"{GROUP}/v1": {"resources": [{"name": "podcertificaterequests"}]}})
    served, followed = WhileServed(api, "podcertificaterequests", clock=clock), Followed(clock, breaks=True)
    net = SafetyNet("main", clock=clock, draw=lambda: 0.0)
    with running(net.run("PodCertificateRequests", lambda: served.run(followed))):
        await clock.advance(3)
    assert followed.at == [f"{GROUP}/v1"] * 3


@pytest.mark.parametrize(
    "odd",
    [
        {"items": [{}]},
        {"items": ["x"]},
        {"items": [{"metadata": {"managedFields": ["x", {"fieldsV1": "f:data"}]}}]},
        {"items": {"metadata": 1}},
    ],
)
async def test_who_else_writes_a_config_map_is_nobody_where_it_is_said_oddly(odd: dict[str, Any]) -> None:
    at = "/api/v1/namespaces/shop/configmaps?fieldSelector=metadata.name%3Droots"
    rivals = Rivals(FakeKubernetes(objects={at: odd}), "roots", most=3)
    await rivals.look("shop", disputed=["shop"])
    assert rivals.found == {"shop": frozenset()}


async def test_of_a_pod_that_is_written_oddly_what_can_be_read_is_known(clock: FakeClock) -> None:
    odd = {
        "metadata": {"namespace": "shop", "name": "web-0", "uid": "u1", "ownerReferences": ["x"]},
        "status": {"podIPs": ["1.2.3.4", {"ip": "1.2.3.5"}]},
    }
    pods = Pods(FakeKubernetes(objects={"/api/v1/namespaces/shop/pods/web-0": odd}), clock=clock)
    pod = await pods.asked("shop", "web-0", "u1")
    assert pod is not None
    assert (pod.ips, pod.owners) == (("1.2.3.5",), ())


class Broken(FakeKubernetes):
    """Raises what no API server is to raise."""

    def __init__(self, objects: dict[str, dict[str, Any]]) -> None:
        super().__init__(objects=objects)
        self.error: Exception | None = RecursionError("deep")

    def _called(self, verb: str, path: str) -> None:
        super()._called(verb, path)
        if self.error is not None:
            raise self.error


@dataclass
class Followed:
    """What is followed where it is served."""

    clock: FakeClock
    breaks: bool = False
    at: list[str] = field(default_factory=list)

    async def __call__(self, at: str) -> None:
        self.at.append(at)
        if self.breaks:
            raise KeyError(at)
        await asyncio.Event().wait()
