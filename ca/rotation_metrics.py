"""What the server measures of rotation. Labels are bounded: kinds, phases, states and authorities' ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ca.authority.jwt_model import JwtAuthority
from ca.authority.model import Authority
from ca.insight.rotating import Rotating
from citadel.clock import Clock


class RotationCollector(Collector):
    """Reads the rotation that runs, the clock, and how old the authorities are, at each scrape."""

    def __init__(
        self,
        *,
        rotator: Rotating,
        authorities: Callable[[], Sequence[Authority]],
        jwt_authorities: Callable[[], Sequence[JwtAuthority]],
        clock: Clock,
    ) -> None:
        self._rotator = rotator
        self._authorities = authorities
        self._jwt_authorities = jwt_authorities
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        yield self._lives()
        yield from self._rotation()
        yield GaugeMetricFamily(
            "citadel_clock_jump_seconds",
            "By how much the wall clock has jumped since the start.",
            value=self._rotator.time.jump.total_seconds(),
        )

    def _lives(self) -> Metric:
        now = self._clock.now()
        family = GaugeMetricFamily(
            "citadel_authority_life_left_ratio",
            "The share of an authority's life that is left.",
            labels=["kind", "id", "state"],
        )
        for authority in self._authorities():
            family.add_metric([authority.kind.value, *_of(authority)], _left(authority, now))
        for key in self._jwt_authorities():
            family.add_metric(["jwt", *_of(key)], _left(key, now))
        return family

    def _rotation(self) -> Iterator[Metric]:
        running = self._rotator.running
        phase = GaugeMetricFamily(
            "citadel_rotation_running", "1 for the rotation that runs, in its phase.", labels=["kind", "phase"]
        )
        if running is not None:
            phase.add_metric([running.kind.value, running.phase.value], 1)
        yield phase
        yield from (
            GaugeMetricFamily(f"citadel_rotation_{name}", text, value=value) for name, text, value in self._gauges()
        )

    def _gauges(self) -> Iterator[tuple[str, str, float]]:
        """Each is 0 where no rotation runs: rules need series that never vanish."""
        view, running, now = self._rotator.view(), self._rotator.running, self._clock.now()
        late = [since for holder, since in view.holders if not holder.is_mere_time]
        waits = [max(0.0, (now - since).total_seconds()) for since in late]
        age = (now - running.started_at).total_seconds() if running is not None else 0.0
        yield "age_seconds", "How long the rotation has been running.", max(0.0, age)
        yield "holders", "Agents and streams that the rotation waits for.", len(late)
        yield (
            "longest_wait_seconds",
            "How long it has waited for the one that it waits for longest.",
            max([0.0, *waits]),
        )
        yield "paused", "1 where it is paused.", running is not None and running.paused
        yield "alarm", "1 where it went on without everybody.", running is not None and bool(running.alarm)
        behind = view.census.proxies - view.census.proxies_acknowledged
        yield "proxies_behind", "Proxies that have not acknowledged the newest bundle and lists.", behind


def _of(authority: Authority | JwtAuthority) -> tuple[str, str]:
    return authority.id, authority.state.value


def _left(authority: Authority | JwtAuthority, now: datetime) -> float:
    return max(0.0, (authority.not_after - now) / (authority.not_after - authority.not_before))
