"""What a watcher of a rotation is told."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any

from ca.api.rotations import RotationService
from ca.rotation.mesh import Census
from ca.rotation.model import Phase, Rotation, RotationKind
from ca.rotation.rotator import View
from citadel._wire import rotation_pb2 as pb
from tests.clock import FakeClock


class EndingRotator:
    """Each look at it finds it one step further, and `running` is always a step ahead of what was seen last."""

    def __init__(self, *steps: Rotation | None) -> None:
        self._steps = list(steps)
        self._census = Census(agents=1, agents_away=0, proxies=2, proxies_acknowledged=2, svids=2, svids_renewed=2)

    @property
    def running(self) -> Rotation | None:
        return next((each for each in self._steps[:1] if each is not None and not each.phase.is_over), None)

    def view(self) -> View:
        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        return View(rotation=step, census=self._census, holders=())


async def watched(clock: FakeClock, rotator: Any) -> list[str]:
    unused: Any = None
    service = RotationService(
        rotator=rotator, steering=unused, store=unused, administration=unused, clock=clock, actor_of=unused
    )
    return [view.rotation.phase async for view in service.WatchRotation(pb.WatchRotationRequest(), None)]


async def _in_time(clock: FakeClock, watching: Coroutine[Any, Any, list[str]]) -> list[str]:
    task = asyncio.create_task(watching)
    while not task.done():
        await clock.advance(1)
    return task.result()


async def test_a_rotation_that_ends_while_it_is_told_is_watched_to_its_end(clock: FakeClock) -> None:
    now = clock.now()
    settling = Rotation(
        id="r1", kind=RotationKind.ROOT, phase=Phase.SETTLE, started_at=now, phase_since=now, started_by="local:uid:0",
        window=timedelta(0), margin=timedelta(0),
    )  # fmt: skip
    done = replace(settling, phase=Phase.DONE, ended_at=now)
    watching = watched(clock, EndingRotator(settling, done))
    assert await _in_time(clock, watching) == ["settle", "done"]
    assert await _in_time(clock, watched(clock, EndingRotator(done))) == ["done"]


async def test_without_any_rotation_there_is_one_empty_view(clock: FakeClock) -> None:
    assert await _in_time(clock, watched(clock, EndingRotator(None))) == [""]
