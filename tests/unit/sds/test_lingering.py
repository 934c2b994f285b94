"""Streams that were closed by programs which go on with what they were given, with real processes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from citadel._wire import types_pb2
from citadel.peer import Caller, PeerCredentials
from citadel.wire import from_duration, to_timestamp
from sds.serve.registry import StreamRegistry
from tests.certificates import NOW
from tests.clock import FakeClock
from tests.unit.sds.node import eventually

pytestmark = pytest.mark.invariant(4)

SLEEP: Final = shutil.which("sleep") or "/bin/sleep"
SECOND: Final = timedelta(seconds=1)
HOUR: Final = timedelta(hours=1)
REPORT: Final = types_pb2.ResourceReport
WAITING, SENT, ACKNOWLEDGED, REFUSED = REPORT.WAITING, REPORT.SENT, REPORT.ACKNOWLEDGED, REPORT.REFUSED


class Program:
    """A real process, and its streams as the serving side tells the registry of them."""

    def __init__(self, registry: StreamRegistry, process: subprocess.Popen[bytes]) -> None:
        self.registry = registry
        self.process = process
        self.pid = process.pid

    def opens(self, *resources: types_pb2.ResourceReport) -> str:
        """Over a connection of its own, which is closed again before the stream is known to have ended."""
        caller = Caller(PeerCredentials(self.pid, os.geteuid(), os.getegid()), os.pidfd_open(self.process.pid))
        stream_id = self.registry.begin(caller)
        caller.close()
        self.stands(stream_id, *resources)
        return stream_id

    def stands(self, stream_id: str, *resources: types_pb2.ResourceReport) -> None:
        report = types_pb2.StreamReport(stream_id=stream_id, pid=self.pid, resources=resources)
        self.registry.change(stream_id, lambda: report)

    def had(self, *resources: types_pb2.ResourceReport) -> str:
        """A stream that it opened and closed."""
        stream_id = self.opens(*resources)
        self.registry.end(stream_id)
        return stream_id

    def ends(self) -> None:
        self.process.kill()
        self.process.wait()


def svid(serial: str = "a1", *, ends: timedelta = HOUR, state: Any = ACKNOWLEDGED, **more: Any) -> REPORT:
    held = state == ACKNOWLEDGED
    fields: dict[str, Any] = {
        "name": "default",
        "version": serial,
        "serial": serial,
        "not_after": to_timestamp(NOW + ends),
        "held_version": serial if held else "",
        "held_serial": serial if held else "",
        "held_not_after": to_timestamp(NOW + ends) if held else None,
    }
    return REPORT(**(fields | more), state=state)


def bundle(sequence: int = 1, **more: Any) -> REPORT:
    fields: dict[str, Any] = {"name": "ROOTCA", "version": "v", "trust_domain": "a.test", "held_version": "v"}
    return REPORT(**(fields | more), bundle_sequence=sequence, held_bundle_sequence=sequence, state=ACKNOWLEDGED)


def held_processes() -> int:
    """How many descriptors hold on to processes; of others earlier tests may leave some, which end by themselves."""
    gc.collect()
    found = 0
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found += "pidfd" in str(each.readlink())
    return found


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
async def registry(clock: FakeClock) -> Any:
    made = StreamRegistry(clock=clock, most_lingering=5)
    yield made
    made.close()


@contextlib.contextmanager
def running(registry: StreamRegistry) -> Iterator[Program]:
    with subprocess.Popen([SLEEP, "60"]) as process:
        program = Program(registry, process)
        try:
            yield program
        finally:
            program.ends()


@pytest.fixture
def program(registry: StreamRegistry) -> Iterator[Program]:
    with running(registry) as made:
        yield made


def lingering(registry: StreamRegistry) -> dict[str, list[str]]:
    """What a server is told of closed streams that count: their resources."""
    return {
        each.stream_id: [resource.name for resource in each.resources]
        for each in registry.snapshot()
        if each.closed and each.HasField("closed_for")
    }


def gone(registry: StreamRegistry) -> list[str]:
    """The streams that count no more, as told since the last time."""
    return [each.stream_id for each in registry.take_changed() if each.closed and not each.HasField("closed_for")]


async def test_a_closed_stream_is_told_as_long_as_its_process_lives(
    registry: StreamRegistry, program: Program, clock: FakeClock
) -> None:
    before = held_processes()
    stream_id = program.had(svid(), bundle())
    assert registry.live() == []
    clock.leap(20)
    (told,) = registry.take_changed()
    assert (told.stream_id, told.pid, told.closed) == (stream_id, program.pid, True)
    assert from_duration(told.closed_for) == 20 * SECOND
    assert [each.held_serial or each.held_bundle_sequence for each in told.resources] == ["a1", 1]
    assert registry.snapshot() == [told]
    assert registry.take_changed() == [], "told once"
    news = asyncio.Event()
    registry.watch(news)
    program.ends()
    await asyncio.wait_for(news.wait(), 10)  # by its pidfd: nobody has looked
    assert gone(registry) == [stream_id]
    assert registry.snapshot() == []
    assert held_processes() == before


async def test_whoever_watches_the_connection_hears_of_the_end_of_the_process_too(
    registry: StreamRegistry, program: Program
) -> None:
    caller = Caller(PeerCredentials(program.pid, os.geteuid(), os.getegid()), os.pidfd_open(program.pid))
    told = asyncio.Event()
    asyncio.get_running_loop().add_reader(caller.fileno(), told.set)
    stream_id = registry.begin(caller)
    program.stands(stream_id, svid())
    registry.end(stream_id)
    program.ends()
    await asyncio.wait_for(told.wait(), 10)
    asyncio.get_running_loop().remove_reader(caller.fileno())
    await eventually(lambda: lingering(registry) == {})
    caller.close()


async def test_a_process_that_ended_first_leaves_nothing(registry: StreamRegistry, program: Program) -> None:
    before = held_processes()
    stream_id = program.opens(svid())
    program.ends()
    registry.end(stream_id)
    assert gone(registry) == [stream_id]
    assert registry.snapshot() == []
    assert held_processes() == before


async def test_many_short_lived_programs_leave_nothing(clock: FakeClock) -> None:
    registry = StreamRegistry(clock=clock)
    before = held_processes()
    for _ in range(100):
        with running(registry) as program:
            program.had(svid(), bundle())
    await eventually(lambda: registry.snapshot() == [])
    assert len(gone(registry)) == 100
    assert held_processes() == before


async def test_whoever_has_its_number_later_is_somebody_else(registry: StreamRegistry, program: Program) -> None:
    """Also in the moment before the loop has heard of the end of the first."""
    before = program.had(svid())
    program.ends()
    with running(registry) as other:
        other.pid = program.pid
        after = other.had(svid("b2", name="other"))
        assert lingering(registry) == {after: ["other"]}
        assert gone(registry) == [before]
    await eventually(lambda: lingering(registry) == {})


@pytest.mark.parametrize(
    ("older", "newer", "left"),
    [
        # A program that fetched again, an Envoy that is back.
        (svid("a1"), svid("b2", ends=2 * HOUR), []),
        (svid("a1"), svid("a1"), []),
        (bundle(1), bundle(1), []),
        (bundle(1), bundle(2), []),
        (svid("a1", state=SENT), svid("a1", state=SENT), []),
        (svid("b2", state=SENT, held_version="a1", held_serial="a1"), svid("b2", ends=2 * HOUR), []),
        (svid("a1", held_serial="", held_not_after=None), svid("b2"), []),  # it brought something unknown
        # Something else, something older, or nothing yet.
        (svid("a1"), svid("b2", name="spiffe://a.test/web"), ["default"]),
        (svid("b2", ends=2 * HOUR), svid("a1"), ["default"]),
        (bundle(2), bundle(1), ["ROOTCA"]),
        (svid("a1"), svid("b2", state=SENT), ["default"]),
        (svid("a1"), REPORT(name="default", state=WAITING), ["default"]),
        (svid("a1"), REPORT(name="default", state=WAITING, held_version="unknown"), ["default"]),
        (svid("a1"), svid("b2", state=REFUSED), ["default"]),
    ],
)
async def test_what_the_same_process_holds_in_its_place_ends_it(
    registry: StreamRegistry, program: Program, older: REPORT, newer: REPORT, left: list[str]
) -> None:
    kept = [left] if left else []
    with running(registry) as other:
        theirs = other.had(older)
        stream_id = program.had(older)
        registry.take_changed()
        program.opens(newer)
        assert gone(registry) == ([] if left else [stream_id]), "another process is none of this"
        assert list(lingering(registry).values()) == [[older.name], *kept]
        # A stream that was open all the time counts as much.
        stands, closes = program.opens(newer), program.opens(older)
        registry.take_changed()
        registry.end(closes)
        assert (closes in lingering(registry)) == bool(left)
        assert theirs in lingering(registry)
        assert stands not in lingering(registry)


async def test_a_later_fetch_takes_the_place_of_an_earlier_one(registry: StreamRegistry, program: Program) -> None:
    for number in range(1, 4):
        for _ in range(10):
            last = program.had(svid(f"a{number}", ends=number * HOUR), bundle(number))
            assert lingering(registry) == {last: ["default", "ROOTCA"]}


async def test_of_a_stream_only_what_is_held_no_more_is_forgotten(registry: StreamRegistry, program: Program) -> None:
    stream_id = program.had(svid(), bundle(1))
    told = registry.snapshot()[0]
    registry.take_changed()
    program.opens(bundle(2))
    changed = {each.stream_id: [resource.name for resource in each.resources] for each in registry.take_changed()}
    assert changed[stream_id] == ["default"]
    assert lingering(registry) == {stream_id: ["default"]}
    assert len(told.resources) == 2, "what was given out is never changed"


@pytest.mark.parametrize(
    "resource",
    [
        REPORT(name="default", state=WAITING),
        REPORT(name="default", state=WAITING, held_version="whatever it says"),
        svid(state=REFUSED),
    ],
)
async def test_of_what_it_was_never_given_a_process_can_say_what_it_likes(
    registry: StreamRegistry, program: Program, resource: REPORT
) -> None:
    stream_id = program.had(resource)
    assert gone(registry) == [stream_id]


async def test_what_was_sent_counts_since_who_fetches_once_may_have_read_it(
    registry: StreamRegistry, program: Program
) -> None:
    stream_id = program.had(svid(state=SENT))
    assert lingering(registry) == {stream_id: ["default"]}


@pytest.mark.parametrize(
    ("resources", "seconds"),
    [
        ((svid(ends=60 * SECOND),), 60),
        ((svid(ends=60 * SECOND), bundle()), 60),
        ((svid(ends=60 * SECOND), svid(ends=90 * SECOND, name="other")), 90),
        ((svid(ends=90 * SECOND, state=SENT, held_version="b", held_not_after=to_timestamp(NOW)),), None),
        ((svid(ends=90 * SECOND, state=SENT),), 90),
        ((bundle(),), 40),
    ],
)
async def test_it_counts_until_what_it_holds_has_ended(
    registry: StreamRegistry, program: Program, clock: FakeClock, resources: Any, seconds: int | None
) -> None:
    stream_id = program.had(*resources)
    registry.take_changed()
    clock.jump(2 * HOUR)
    clock.leap(seconds - 1 if seconds else 10_000)
    assert stream_id in lingering(registry)
    clock.jump(-4 * HOUR)
    clock.leap(1)
    assert gone(registry) == ([stream_id] if seconds else []), "what was brought has no end that is known"


async def test_the_newest_are_kept_and_it_is_said_once_that_some_are_not(registry: StreamRegistry) -> None:
    with contextlib.ExitStack() as stack, capture_logs() as lines:
        programs = [stack.enter_context(running(registry)) for _ in range(7)]
        ids = [each.had(svid()) for each in programs]
        assert list(lingering(registry)) == ids[2:]
        assert gone(registry) == ids[:2]
    assert [line["limit"] for line in lines if "closed streams" in line["event"]] == [5]


async def test_closing_the_registry_lets_every_process_go(registry: StreamRegistry, program: Program) -> None:
    before = held_processes()
    program.had(svid())
    assert held_processes() == before + 1
    registry.close()
    assert held_processes() == before


async def test_thousands_of_streams_of_one_process_can_be_closed_at_once(
    registry: StreamRegistry, program: Program
) -> None:
    made = 0

    def report() -> types_pb2.StreamReport:
        nonlocal made
        made += 1
        return types_pb2.StreamReport(stream_id="x", pid=program.pid, resources=[bundle(0, name=f"{made}")])

    ids = [program.opens() for _ in range(300)]
    for stream_id in ids:
        registry.change(stream_id, report)
    registry.end(program.opens(svid()))
    assert made <= 16


async def test_what_a_gateway_has_from_elsewhere_is_no_matter(registry: StreamRegistry, program: Program) -> None:
    certificate = svid(name="kubernetes://web")
    authorities = svid(name="kubernetes://web-cacert", serial="", version="v", held_version="v", held_serial="")
    program.had(certificate, authorities)
    assert lingering(registry) == {}
