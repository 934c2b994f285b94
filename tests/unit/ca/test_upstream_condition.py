"""What probes and `status` say of where the issuing authority comes from."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from ca.upstream.condition import UpstreamCondition
from ca.upstream.metrics import UpstreamCollector
from citadel.errors import Reason, Unavailable
from citadel.probes import Check, Health
from tests.unit.ca.values import NOW

AWAY = Unavailable(Reason.UPSTREAM_UNAVAILABLE, "the parent at p:8444 cannot be reached")
BAD = UpstreamCondition(kind="citadel", source="p:8444", trouble=AWAY, since=NOW, lasts_until=NOW + timedelta(hours=3))


def test_what_is_good_is_short() -> None:
    good = UpstreamCondition(kind="citadel", source="p:8444")
    assert good.check(NOW) == Check("upstream", Health.GOOD, "citadel")
    status = good.status()
    assert (status.kind, status.source, status.good, status.reason) == ("citadel", "p:8444", True, "")
    assert not status.HasField("since")


@pytest.mark.parametrize(
    ("passed", "countdown"),
    [
        (timedelta(minutes=30), "; nothing is issued from 2026-01-01T03:00:00+00:00, in 2h30m"),
        (timedelta(hours=2, minutes=59, seconds=59.5), "; nothing is issued now"),
        (timedelta(hours=5), "; nothing is issued now"),
    ],
)
def test_what_is_not_good_counts_down_and_is_no_reason_to_be_taken_for_dead(passed: timedelta, countdown: str) -> None:
    assert BAD.check(NOW + passed) == Check("upstream", Health.DEGRADED, AWAY.message + countdown)


def test_status_has_the_reason_and_both_times() -> None:
    status = BAD.status()
    assert (status.good, status.reason, status.message) == (False, "upstream_unavailable", AWAY.message)
    assert status.since.ToDatetime() == NOW.replace(tzinfo=None)
    assert status.lasts_until.ToDatetime() == (NOW + timedelta(hours=3)).replace(tzinfo=None)


def test_status_has_the_notes_whether_it_is_good_or_not() -> None:
    for condition in (BAD, UpstreamCondition(kind="vault")):
        assert replace(condition, notes=("a", "b")).status().notes == ["a", "b"]


@pytest.mark.parametrize(("condition", "value"), [(BAD, 0.0), (UpstreamCondition(kind="citadel"), 1.0)])
def test_what_is_measured_is_whether_something_new_would_come(condition: UpstreamCondition, value: float) -> None:
    registry = CollectorRegistry()
    registry.register(UpstreamCollector(lambda: condition))
    assert registry.get_sample_value("citadel_upstream_good", {"kind": "citadel"}) == value
