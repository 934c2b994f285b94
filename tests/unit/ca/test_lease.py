"""The lease: who may take it, how it is waited for, how it is kept, and when a server must believe that it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ca.lease.claim import Claim
from ca.lease.identity import holder_of
from ca.lease.model import Holder, Lease, Sight
from ca.lease.tenure import Tenure
from citadel.config.types import HostPort
from citadel.errors import Reason, Unavailable
from tests.clock import FakeClock

DURATION = timedelta(seconds=3)
ONE, TWO = Holder(id="1" * 32, name="one"), Holder(id="2" * 32, name="two")


class FakeLeaseStore:
    """Fulfils `LeaseStore` in memory, by a clock of its own, and fails in the ways of a database."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.lease: Lease | None = None
        self.is_away = False  # nothing can be asked
        self.is_full = False  # nothing can be written
        self.is_locked = False  # whoever writes waits for ever
        self.is_silent = False  # whoever asks waits for ever

    async def prepare(self) -> None:
        await self._answer()

    async def look(self) -> Sight:
        await self._answer()
        return Sight(lease=self.lease, now=self._clock.now())

    async def take(self, holder: Holder, *, duration: timedelta, returning: bool) -> Lease | None:
        await self._write()
        sight = Sight(lease=self.lease, now=self._clock.now())
        if not sight.may_be_taken_by(holder, returning=returning):
            return None
        epoch = self.lease.epoch + 1 if self.lease else 1
        self.lease = Lease(holder=holder, epoch=epoch, expires_at=self._clock.now() + duration, duration=duration)
        return self.lease

    async def renew(self, lease: Lease) -> bool:
        return await self._set_end(lease, lease.duration)

    async def release(self, lease: Lease) -> None:
        await self._set_end(lease, timedelta(0))

    async def _set_end(self, lease: Lease, after: timedelta) -> bool:
        await self._write()
        if self.lease is None or (self.lease.holder, self.lease.epoch) != (lease.holder, lease.epoch):
            return False
        self.lease = replace(self.lease, expires_at=self._clock.now() + after)
        return True

    async def _write(self) -> None:
        await self._answer()
        if self.is_locked:
            await asyncio.Event().wait()
        if self.is_full:
            raise Unavailable(Reason.STORE_UNAVAILABLE, "database or disk is full")

    async def _answer(self) -> None:
        if self.is_silent:
            await asyncio.Event().wait()
        if self.is_away:
            raise Unavailable(Reason.STORE_UNAVAILABLE, "connection refused")


@pytest.fixture
def store(clock: FakeClock) -> FakeLeaseStore:
    return FakeLeaseStore(clock)


def claim(store: FakeLeaseStore, clock: FakeClock, holder: Holder = ONE) -> Claim:
    return Claim(store=store, holder=holder, duration=DURATION, clock=clock)


async def won(store: FakeLeaseStore, clock: FakeClock, holder: Holder = ONE) -> Tenure:
    tenure = await claim(store, clock, holder).try_once()
    assert tenure is not None
    return tenure


@asynccontextmanager
async def keeping(tenure: Tenure) -> AsyncIterator[None]:
    task = asyncio.create_task(tenure.keep())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# Who may take it


@pytest.mark.parametrize(
    ("seconds_left", "holder", "returning", "may"),
    [
        pytest.param(None, ONE, False, True, id="nobody ever had it"),
        pytest.param(2.9, TWO, False, False, id="another one has it"),
        pytest.param(2.9, TWO, True, False, id="another one has it and I have just started"),
        pytest.param(0.0, TWO, False, True, id="it has ended"),
        pytest.param(-900, TWO, False, True, id="it ended long ago"),
        pytest.param(2.9, ONE, True, True, id="my killed predecessor had it"),
        pytest.param(2.9, ONE, False, False, id="a copy of my data_dir has it"),
        pytest.param(3600, TWO, False, True, id="the clock went back by an hour"),
    ],
)
def test_a_lease_may_be_taken(
    seconds_left: float | None, holder: Holder, returning: bool, may: bool, clock: FakeClock
) -> None:
    lease = None
    if seconds_left is not None:
        end = clock.now() + timedelta(seconds=seconds_left)
        lease = Lease(holder=holder, epoch=7, expires_at=end, duration=DURATION)
    assert Sight(lease=lease, now=clock.now()).may_be_taken_by(ONE, returning=returning) is may


def test_a_holder_is_the_same_after_a_restart_and_another_in_another_folder(tmp_path: Path) -> None:
    address = HostPort("127.0.0.1", 8444)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = holder_of(tmp_path / "a", address=address)
    assert holder_of(tmp_path / "a", address=address) == first
    assert "127.0.0.1:8444" in first.name
    assert holder_of(tmp_path / "b", address=address).id != first.id
    (tmp_path / "a" / "holder").write_bytes(b"\xff half a fi")
    assert holder_of(tmp_path / "a", address=address).id != first.id


# Coming by it


async def test_a_free_lease_is_had_at_once(store: FakeLeaseStore, clock: FakeClock) -> None:
    tenure = await won(store, clock)
    assert (tenure.lease.holder, tenure.lease.epoch) == (ONE, 1)


async def test_a_restart_does_not_wait_for_its_own_lease_and_fences_its_predecessor(
    store: FakeLeaseStore, clock: FakeClock
) -> None:
    before = await won(store, clock)
    after = await won(store, clock)
    assert after.lease.epoch > before.lease.epoch


async def test_a_standby_says_whose_and_takes_over_when_the_lease_ends(store: FakeLeaseStore, clock: FakeClock) -> None:
    await won(store, clock, TWO)
    standby = claim(store, clock)
    winning = asyncio.create_task(standby.win())
    await clock.advance(2.9)
    assert not winning.done()
    assert standby.waits_for == "the lease: standby of two"
    await clock.advance(0.2)
    assert (await winning).lease.holder == ONE
    assert standby.waits_for == ""


async def test_a_lease_that_was_given_back_is_taken_soon(store: FakeLeaseStore, clock: FakeClock) -> None:
    first = await won(store, clock, TWO)
    winning = asyncio.create_task(claim(store, clock).win())
    await clock.advance(0.1)
    await first.release()
    await clock.advance(0.6)
    assert (await winning).lease.holder == ONE


async def test_a_store_that_is_away_is_waited_for(store: FakeLeaseStore, clock: FakeClock) -> None:
    store.is_away = True
    waiting = claim(store, clock)
    winning = asyncio.create_task(waiting.win())
    await clock.advance(100)
    assert waiting.waits_for == "the store"
    store.is_away = False
    await clock.advance(1.1)
    assert winning.done()


async def test_of_two_copies_of_one_data_dir_the_second_to_start_wins_once(
    store: FakeLeaseStore, clock: FakeClock
) -> None:
    original = claim(store, clock)
    first = await original.try_once()
    assert first is not None
    second = await won(store, clock)
    async with keeping(first), keeping(second):
        await clock.advance(1.1)
        assert first.lost.is_set()
        assert await original.try_once() is None, "or the two would take it from each other for ever"
        await clock.advance(10)
        assert not second.lost.is_set()


# Keeping it


async def test_a_lease_that_is_renewed_has_no_end(store: FakeLeaseStore, clock: FakeClock) -> None:
    tenure = await won(store, clock)
    async with keeping(tenure):
        await clock.advance(1000)
        assert not tenure.lost.is_set()
        assert await claim(store, clock, TWO).try_once() is None


async def test_a_lease_that_another_took_is_lost_at_the_next_renewal(store: FakeLeaseStore, clock: FakeClock) -> None:
    tenure = await won(store, clock)
    async with keeping(tenure):
        store.lease = Lease(holder=TWO, epoch=2, expires_at=clock.now() + DURATION, duration=DURATION)
        await clock.advance(1.1)
        assert tenure.lost.is_set()
    await tenure.release()
    assert store.lease.expires_at == clock.now() + DURATION - timedelta(seconds=1.1), (
        "another's lease is not mine to end"
    )


@pytest.mark.parametrize("failure", ["is_away", "is_silent"])
async def test_a_store_that_says_nothing_for_as_long_as_the_lease_lasts_is_lost_and_no_sooner(
    store: FakeLeaseStore, clock: FakeClock, failure: str
) -> None:
    tenure = await won(store, clock)
    async with keeping(tenure):
        await clock.advance(1.1)  # one renewal
        setattr(store, failure, True)
        await clock.advance(2.5)
        assert not tenure.lost.is_set()
        await clock.advance(2)
        assert tenure.lost.is_set()


async def test_a_store_that_was_away_for_less_than_that_is_not_lost(store: FakeLeaseStore, clock: FakeClock) -> None:
    tenure = await won(store, clock)
    async with keeping(tenure):
        for _ in range(10):
            store.is_away = True
            await clock.advance(1.5)
            store.is_away = False
            await clock.advance(1.5)
            assert not tenure.lost.is_set()


@pytest.mark.parametrize("failure", ["is_full", "is_locked"])
async def test_a_store_that_takes_nothing_from_anybody_is_not_lost(
    store: FakeLeaseStore, clock: FakeClock, failure: str
) -> None:
    tenure = await won(store, clock)
    async with keeping(tenure):
        setattr(store, failure, True)
        await clock.advance(60)
        assert not tenure.lost.is_set()
        store.lease = Lease(holder=TWO, epoch=2, expires_at=clock.now() + DURATION, duration=DURATION)
        await clock.advance(3)
        assert tenure.lost.is_set(), "what can be read is believed"


async def test_a_server_that_was_paused_asks_before_it_goes_on(store: FakeLeaseStore, clock: FakeClock) -> None:
    unwanted, wanted = await won(store, clock), None
    async with keeping(unwanted):
        await clock.advance(1)
        clock._elapsed += 3600  # the process was stopped; its sleeps are overdue
        await clock.advance(1)
        assert not unwanted.lost.is_set(), "nobody wanted it meanwhile"
        clock._elapsed += 3600
        wanted = await won(store, clock, TWO)
        await clock.advance(1)
        assert unwanted.lost.is_set()
    assert store.lease == wanted.lease


async def test_a_release_of_a_store_that_is_away_is_no_error(store: FakeLeaseStore, clock: FakeClock) -> None:
    tenure = await won(store, clock)
    store.is_away = True
    await tenure.release()
