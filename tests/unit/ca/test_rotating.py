"""What probes, metrics and `status` say of a rotation and of the clock."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from ca.api.status import clock_jump, rotation_status
from ca.authority.jwt_model import JwtAuthority
from ca.authority.model import Authority, AuthorityKind, AuthorityState
from ca.insight.rotating import PATIENCE, clock_check, rotation_check
from ca.rotation.census import Census
from ca.rotation.model import Holder, Phase, Rotation, RotationKind
from ca.rotation.rotator import View
from ca.rotation_metrics import RotationCollector
from ca.steady import SteadyTime
from citadel.probes import Health
from citadel.wire import from_duration
from tests import certificates
from tests.clock import FakeClock
from tests.csrs import new_key

WINDOW = timedelta(minutes=5)


class FakeRotator:
    """One rotation, or none, and whoever it waits for since so long."""

    def __init__(self, clock: FakeClock, rotation: Rotation | None = None, **waits: timedelta) -> None:
        self.clock = clock
        self.time = SteadyTime(clock)
        self.running = rotation
        self.waits = waits

    def view(self) -> View:
        return View(
            rotation=self.running,
            census=Census(agents=3, agents_away=1, proxies=12, proxies_acknowledged=10, svids=11, svids_renewed=7),
            holders=tuple(
                (Holder(name=name, words="refused ROOTCA"), self.clock.now() - since)
                for name, since in self.waits.items()
            ),
        )


def rotation(clock: FakeClock, phase: Phase = Phase.OBSERVE) -> Rotation:
    now = clock.now()
    return Rotation(
        id="r1",
        kind=RotationKind.ROOT,
        phase=phase,
        started_at=now - timedelta(minutes=20),
        phase_since=now - timedelta(minutes=10),
        started_by="local:uid:0",
        window=WINDOW,
        margin=timedelta(seconds=2),
    )


@pytest.mark.parametrize(
    ("change", "waits", "health", "text"),
    [
        ({}, {}, Health.GOOD, "root, in observe, waits for nobody"),
        ({}, {"a": timedelta(seconds=1)}, Health.GOOD, "root, in observe, waits for 1"),
        ({}, {"a": WINDOW + PATIENCE}, Health.GOOD, "root, in observe, waits for 1"),
        (
            {},
            {"a": WINDOW + PATIENCE + timedelta(seconds=1), "b": timedelta(0)},
            Health.DEGRADED,
            "root, in observe, has waited for a for more than 15m",
        ),
        (
            {},
            {name: timedelta(hours=1) for name in "abcde"},
            Health.DEGRADED,
            "root, in observe, has waited for a, b, c and 2 more for more than 15m",
        ),
        (
            {"window": timedelta(hours=2)},
            {"a": timedelta(hours=2)},  # it may be renewing all this time
            Health.GOOD,
            "root, in observe, waits for 1",
        ),
        ({"paused": True}, {}, Health.DEGRADED, "root, in observe, paused"),
        ({"alarm": "went on without a"}, {}, Health.DEGRADED, "root, in observe: went on without a"),
        ({"phase": Phase.DONE, "alarm": "went on without a"}, {}, Health.GOOD, "none runs"),
    ],
)
def test_a_rotation_is_degraded_where_a_person_should_look(
    clock: FakeClock, change: dict[str, object], waits: dict[str, timedelta], health: Health, text: str
) -> None:
    rotator = FakeRotator(clock, replace(rotation(clock), **change), **waits)  # type: ignore[arg-type]  # fields by name
    check = rotation_check(rotator.running, rotator.view().holders, now=clock.now())
    assert (check.name, check.health, check.text) == ("rotation", health, text)


def test_tokens_that_have_to_end_are_nobody_s_delay(clock: FakeClock) -> None:
    long_ago, tokens = clock.now() - timedelta(hours=1), Holder(name="jwt/k", words="signed tokens", is_mere_time=True)
    check = rotation_check(rotation(clock, Phase.DRAIN), [(tokens, long_ago)], now=clock.now())
    assert (check.health, check.text) == (Health.GOOD, "root, in drain, waits for 1")
    rotator = FakeRotator(clock, rotation(clock, Phase.DRAIN))
    view = replace(rotator.view(), holders=((tokens, long_ago),))
    rotator.view = lambda: view  # type: ignore[method-assign]
    told = measured(clock, rotator)
    assert (told["citadel_rotation_holders"], told["citadel_rotation_longest_wait_seconds"]) == (0, 0)


def test_what_keeps_this_server_itself_from_going_on_is_said_at_once(clock: FakeClock) -> None:
    itself = Holder(name="this server", words="the disk is full (store_unavailable)", is_error=True)
    rotator = FakeRotator(clock, replace(rotation(clock), alarm="went on without a"))
    view = replace(rotator.view(), holders=((itself, clock.now()),))
    rotator.view = lambda: view  # type: ignore[method-assign]
    check = rotation_check(rotator.running, view.holders, now=clock.now())
    assert check.health is Health.DEGRADED
    assert check.text == "root, in observe, cannot go on: the disk is full (store_unavailable)"
    told = rotation_status(rotator)
    assert told is not None
    assert told.failing == "the disk is full (store_unavailable)"


def test_no_rotation_is_good(clock: FakeClock) -> None:
    assert rotation_check(None, (), now=clock.now()).health is Health.GOOD


@pytest.mark.parametrize(
    ("jump", "health"),
    [
        (timedelta(0), Health.GOOD),
        (timedelta(seconds=5), Health.GOOD),
        (timedelta(seconds=-5), Health.GOOD),
        (timedelta(hours=1), Health.DEGRADED),
        (timedelta(hours=-1), Health.DEGRADED),
    ],
)
async def test_a_clock_that_jumps_is_said_in_ready_and_in_status(
    clock: FakeClock, jump: timedelta, health: Health
) -> None:
    rotator = FakeRotator(clock)
    await clock.advance(7200)  # time that goes by is no jump
    clock.jump(jump)
    check, told = clock_check(rotator.time.jump), clock_jump(rotator)
    assert check.health is health
    assert (told is not None) == (health is Health.DEGRADED)
    if told is not None:
        assert from_duration(told) == jump
        assert f"{round(jump.total_seconds()):+d} s" in check.text


def test_status_has_the_rotation_that_runs_in_short(clock: FakeClock) -> None:
    assert rotation_status(FakeRotator(clock)) is None
    running = replace(rotation(clock), paused=True, alarm="went on", deadline=clock.now())
    told = rotation_status(FakeRotator(clock, running, a=timedelta(0), b=timedelta(0)))
    assert told is not None
    assert (told.id, told.kind, told.phase, told.holders) == ("r1", "root", "observe", 2)
    assert (told.paused, told.emergency, told.alarm) == (True, True, "went on")
    assert told.phase_since.ToDatetime(clock.now().tzinfo) == clock.now() - timedelta(minutes=10)


def measured(clock: FakeClock, rotator: FakeRotator) -> dict[str, float]:
    certificate = certificates.root().certificate
    root = Authority(
        id="a", kind=AuthorityKind.ROOT, state=AuthorityState.ACTIVE, key_id="k", certificate=certificate,
        parent_id=None, created_at=clock.now(),
    )  # fmt: skip
    registry = CollectorRegistry()
    token_key = JwtAuthority(
        id="t", state=AuthorityState.OLD, key_id="k", public_key=new_key().public_key(),
        not_before=clock.now() - timedelta(days=1), not_after=clock.now() + timedelta(days=3),
    )  # fmt: skip
    registry.register(
        RotationCollector(rotator=rotator, authorities=lambda: [root], jwt_authorities=lambda: [token_key], clock=clock)
    )
    return {
        sample.name + "".join(f"|{value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def test_a_rotation_is_measured(clock: FakeClock) -> None:
    running = replace(rotation(clock), paused=True, alarm="went on")
    told = measured(clock, FakeRotator(clock, running, a=timedelta(seconds=90), b=timedelta(seconds=5)))
    assert {name: value for name, value in told.items() if "rotation" in name} == {
        "citadel_rotation_running|root|observe": 1,
        "citadel_rotation_age_seconds": 1200,
        "citadel_rotation_holders": 2,
        "citadel_rotation_longest_wait_seconds": 90,
        "citadel_rotation_paused": 1,
        "citadel_rotation_alarm": 1,
        "citadel_rotation_proxies_behind": 2,
    }


def test_without_a_rotation_the_series_stay(clock: FakeClock) -> None:
    told = measured(clock, FakeRotator(clock))
    assert told.pop("citadel_rotation_proxies_behind") == 2  # of any change of the bundle
    rest = {name: value for name, value in told.items() if "rotation" in name}
    assert len(rest) == 5
    assert set(rest.values()) == {0}


async def test_the_life_that_an_authority_has_left_is_measured_as_a_share(clock: FakeClock) -> None:
    certificate = certificates.root().certificate
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    await clock.advance((begin + (end - begin) * 3 / 4 - clock.now()).total_seconds())
    rotator = FakeRotator(clock)
    assert measured(clock, rotator)["citadel_authority_life_left_ratio|a|root|active"] == pytest.approx(0.25)
    assert measured(clock, rotator)["citadel_authority_life_left_ratio|t|jwt|old"] == pytest.approx(0.75)
    clock.jump(timedelta(days=3650))
    told = measured(clock, rotator)
    assert told["citadel_authority_life_left_ratio|a|root|active"] == 0
    assert told["citadel_clock_jump_seconds"] == timedelta(days=3650).total_seconds()
