"""The probe listener as an HTTP client sees it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import httpx
import pytest
from prometheus_client import CollectorRegistry, Gauge

from citadel import loopback_http
from citadel.config.types import HostPort
from citadel.errors import InvalidArgument, Reason
from citadel.probes import Probes, Readiness

ANY_PORT = HostPort("127.0.0.1", 0)


class Part:
    """What the probes report on."""

    def __init__(self) -> None:
        self.readiness = Readiness(ready=True)


@pytest.fixture
def part() -> Part:
    return Part()


@pytest.fixture
async def probes(part: Part) -> AsyncIterator[Probes]:
    probes = Probes(ANY_PORT, lambda: part.readiness)
    await probes.start()
    yield probes
    await probes.close()


async def get(probes: Probes, path: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(f"http://{probes.address}{path}")


async def test_who_connects_and_says_nothing_holds_nobody_up(probes: Probes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback_http, "_MOST_CONNECTIONS", 10)
    monkeypatch.setattr(loopback_http, "_PATIENCE", 0.3)
    silent = [await asyncio.open_connection(probes.address.host, probes.address.port) for _ in range(20)]
    assert (await get(probes, "/live")).status_code == 200
    async with asyncio.timeout(3):
        assert [await reader.read() for reader, _ in silent] == [b""] * 20
    for _, writer in silent:
        writer.close()


async def test_a_connection_that_asked_once_may_ask_again(probes: Probes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback_http, "_PATIENCE", 0.1)
    reader, writer = await asyncio.open_connection(probes.address.host, probes.address.port)
    for pause in (0.0, 0.3):
        await asyncio.sleep(pause)
        writer.write(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_live(probes: Probes) -> None:
    answer = await get(probes, "/live")
    assert (answer.status_code, answer.json()) == (200, {"status": "live"})


@pytest.mark.parametrize(
    ("readiness", "code", "status"),
    [
        (Readiness(ready=True), 200, "ready"),
        (Readiness(ready=True, degraded=True), 200, "degraded"),
        (Readiness(ready=False), 503, "not_ready"),
        (Readiness(ready=False, degraded=True), 503, "not_ready"),
    ],
)
async def test_ready_follows_the_part(probes: Probes, part: Part, readiness: Readiness, code: int, status: str) -> None:
    part.readiness = readiness
    answer = await get(probes, "/ready")
    assert (answer.status_code, answer.json()) == (code, {"status": status, "checks": {}})


async def test_ready_says_how_each_part_is(probes: Probes, part: Part) -> None:
    part.readiness = Readiness(ready=True, degraded=True, checks={"server": "away for 12s", "store": "ok"})
    assert (await get(probes, "/ready")).json()["checks"] == {"server": "away for 12s", "store": "ok"}


async def test_ready_is_text_for_who_wants_text(probes: Probes, part: Part) -> None:
    part.readiness = Readiness(ready=False, checks={"server": "away", "store": "ok"})
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://{probes.address}/ready", headers={"accept": "text/plain"})
    assert (answer.status_code, answer.text) == (503, "not_ready\nserver: away\nstore: ok\n")


async def test_metrics_are_told_where_there_are_any(part: Part) -> None:
    registry = CollectorRegistry()
    Gauge("citadel_test", "A number.", registry=registry).set(7)
    told = Probes(ANY_PORT, lambda: part.readiness, metrics=registry)
    await told.start()
    answer = await get(told, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "citadel_test 7.0" in answer.text
    await told.close()


@pytest.mark.parametrize("path", ["/", "/ready/", "/metrics"])
async def test_nothing_else_is_served(probes: Probes, path: str) -> None:
    assert (await get(probes, path)).status_code in (404, 307)


async def test_the_port_is_free_again_after_close(part: Part) -> None:
    first = Probes(ANY_PORT, lambda: part.readiness)
    await first.start()
    address = first.address
    assert address.port
    await get(first, "/live")
    await first.close()
    second = Probes(address, lambda: part.readiness)
    await second.start()
    assert (await get(second, "/live")).status_code == 200
    await second.close()


async def test_a_taken_port_is_refused(probes: Probes, part: Part) -> None:
    with pytest.raises(InvalidArgument, match="in use") as refused:
        await Probes(probes.address, lambda: part.readiness).start()
    assert refused.value.reason is Reason.CONFIG_INVALID


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost", "example.org"])  # noqa: S104 - refused
def test_an_address_that_others_can_reach_is_refused(part: Part, host: str) -> None:
    with pytest.raises(InvalidArgument, match="not a loopback address") as refused:
        Probes(HostPort(host, 1), lambda: part.readiness)
    assert refused.value.reason is Reason.CONFIG_INVALID


async def test_others_reach_it_where_that_is_meant(part: Part) -> None:
    probes = Probes(HostPort("0.0.0.0", 0), lambda: part.readiness, outside=True)  # noqa: S104 - that is the point
    await probes.start()
    assert (await get(probes, "/live")).status_code == 200
    await probes.close()


@pytest.mark.parametrize(
    ("readiness", "code"),
    [
        (Readiness(ready=False, stands_by=True), 200),
        (Readiness(ready=False), 503),
        (Readiness(ready=True), 200),
    ],
)
async def test_a_standby_is_well_for_who_says_that_it_may_be_one(
    probes: Probes, part: Part, readiness: Readiness, code: int
) -> None:
    part.readiness = readiness
    assert (await get(probes, "/ready?standbyok=true")).status_code == code
    assert (await get(probes, "/ready?standbyok=false")).status_code == (200 if readiness.ready else 503)


async def test_signals_stay_with_the_process(part: Part) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    probes = Probes(ANY_PORT, lambda: part.readiness)
    await probes.start()
    await get(probes, "/live")  # it serves, so it has started
    assert {number: signal.getsignal(number) for number in before} == before
    await probes.close()


async def test_close_ends_idle_connections_and_leaves_no_task(part: Part) -> None:
    tasks = asyncio.all_tasks()
    probes = Probes(ANY_PORT, lambda: part.readiness)
    await probes.start()
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.get(f"http://{probes.address}/live")
        await asyncio.wait_for(probes.close(), timeout=3)
    assert {task for task in asyncio.all_tasks() if task.get_name() == "probes"} <= tasks


async def test_close_before_start_does_nothing(part: Part) -> None:
    await Probes(ANY_PORT, lambda: part.readiness).close()
