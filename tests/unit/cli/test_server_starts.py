"""A server that cannot start for a while: how soon it tries again, and what it says meanwhile."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from citadel.errors import Reason, Unavailable
from cli.server_starts import Starts
from tests.clock import FakeClock
from tests.servers import http_status, server_settings

AWAY = Unavailable(Reason.VAULT_UNAVAILABLE, "Vault does not serve now (429)")


async def pauses(starts: Starts, clock: FakeClock, *, count: int, error: Unavailable = AWAY) -> list[float]:
    """How long each of so many pauses is, in seconds of which a quarter is left to chance."""
    lasted = []
    for _ in range(count):
        starts.failed(error)
        begun, waiting = clock.monotonic(), asyncio.create_task(starts.until_next())
        while not clock.is_awaited:
            await asyncio.sleep(0.002)  # until its listener is open
        while clock.is_awaited:
            await clock.advance(0.25)
        lasted.append(clock.monotonic() - begun)
        await waiting
    return lasted


async def test_the_next_start_is_later_each_time_and_is_said_once_a_minute(tmp_path: Path) -> None:
    clock = FakeClock()
    starts = Starts(server_settings(tmp_path), clock)
    with capture_logs() as logs:
        found = await pauses(starts, clock, count=6)
        starts.serves()
        again = await pauses(starts, clock, count=1)
    assert [low <= each <= high + 0.25 for each, (low, high) in zip(found, LIMITS, strict=True)] == [True] * 6, found
    assert again[0] <= 1.25
    assert [log["event"] for log in logs] == ["not serving"] * 2


LIMITS = [(0.75, 1), (1.5, 2), (3, 4), (6, 8), (7.5, 10), (7.5, 10)]


async def test_what_is_this_server_s_own_is_tried_each_second(tmp_path: Path) -> None:
    clock = FakeClock()
    starts = Starts(server_settings(tmp_path), clock)
    gone = Unavailable(Reason.STORE_UNAVAILABLE, "no store")
    assert max(await pauses(starts, clock, count=5, error=gone)) <= 1.25


async def test_probes_answer_meanwhile(tmp_path: Path) -> None:
    settings, clock = server_settings(tmp_path), FakeClock()
    starts = Starts(settings, clock)
    starts.failed(AWAY)
    waiting = asyncio.create_task(starts.until_next())
    while not clock.is_awaited:
        await asyncio.sleep(0.002)
    assert (await http_status(settings.listen.probes, "/live"))[0] == 200
    status, body = await http_status(settings.listen.probes, "/ready")
    assert status == 503
    assert json.loads(body)["checks"]["start"] == "starts again soon: Vault does not serve now (429)"
    await clock.advance(1)
    await waiting


async def test_what_does_not_pass_ends_the_server(tmp_path: Path) -> None:
    denied = Unavailable(Reason.VAULT_DENIED, "no")
    with pytest.raises(Unavailable) as raised:
        Starts(server_settings(tmp_path), FakeClock()).failed(denied)
    assert raised.value is denied
