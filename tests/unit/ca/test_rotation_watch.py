"""What a watcher of a rotation is told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ca.api.rotations import RotationService
from ca.rotation.census import Census
from ca.rotation.changes import Changes
from ca.rotation.model import Phase, Rotation, RotationKind
from ca.rotation.rotator import View
from citadel._wire import rotation_pb2 as pb
from tests.clock import FakeClock


class SteppingRotator:
    """A rotation that goes on when it is told to."""

    def __init__(self, clock: FakeClock) -> None:
        self.changes = Changes()
        self.current: Rotation | None = None
        self._clock = clock

    def enter(self, *phases: Phase) -> None:
        now = self._clock.now()
        for phase in phases:
            before = self.current or Rotation(
                id="r1", kind=RotationKind.ROOT, phase=phase, started_at=now, phase_since=now,
                started_by="local:uid:0", window=timedelta(0), margin=timedelta(0),
            )  # fmt: skip
            self.current = replace(before, phase=phase, ended_at=now if phase.is_over else None)
            self.changes.note(self.current)

    def view(self) -> View:
        census = Census(agents=1, agents_away=0, proxies=2, proxies_acknowledged=2, svids=2, svids_renewed=2)
        return View(rotation=self.current, census=census, holders=())


async def watched(clock: FakeClock, rotator: Any, *goes_on: list[Phase]) -> list[str]:
    """The phases that a watcher is told of; while it is told one, the rotation goes on with the next of `goes_on`."""
    unused: Any = None
    service = RotationService(
        rotator=rotator, steering=unused, store=unused, administration=unused, clock=clock, actor_of=unused
    )
    steps, phases = list(goes_on), []

    async def watch() -> None:
        async for view in service.WatchRotation(pb.WatchRotationRequest(), None):
            phases.append(view.rotation.phase)
            if steps:
                rotator.enter(*steps.pop(0))

    task = asyncio.create_task(watch())
    async with asyncio.timeout(10):
        while not task.done():
            await clock.advance(1)
    await task
    return phases


@pytest.mark.parametrize(
    ("first", "goes_on", "told"),
    [
        ([], [], [""]),  # there is none
        ([Phase.DONE], [], ["done"]),
        ([Phase.ABORTED], [], ["aborted"]),
        ([Phase.SETTLE], [[Phase.DONE]], ["settle", "done"]),
        ([Phase.OBSERVE], [[Phase.ACTIVATE, Phase.RENEW], [Phase.DONE]], ["observe", "activate", "renew", "done"]),
        ([Phase.OBSERVE], [[Phase.UNDO, Phase.ABORTED]], ["observe", "undo", "aborted"]),
    ],
)
async def test_a_rotation_is_told_to_its_end_also_where_it_goes_on_meanwhile(
    clock: FakeClock, first: list[Phase], goes_on: list[list[Phase]], told: list[str]
) -> None:
    rotator = SteppingRotator(clock)
    rotator.enter(*first)
    assert await watched(clock, rotator, *goes_on) == told


def test_of_changes_only_some_are_kept_for_those_who_look_seldom(clock: FakeClock) -> None:
    rotator = SteppingRotator(clock)
    rotator.enter(*[Phase.OBSERVE, Phase.RENEW] * 500)
    assert [each.phase for each in rotator.changes.since(998)] == [Phase.OBSERVE, Phase.RENEW]
    assert rotator.changes.since(1000) == ()
    assert len(rotator.changes.since(0)) < 100
