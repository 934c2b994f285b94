"""How a rotation and the clock are doing, for probes (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol

from ca.rotation.model import Holder, Rotation
from ca.rotation.rotator import View
from ca.steady import TOLERANCE, SteadyTime
from citadel.config.types import format_duration
from citadel.probes import Check, Health

# Beyond the window, in which SVIDs are renewed, whoever is well has answered within seconds. What mends itself, such as
# a node that boots or an agent that is updated, is back within this; what is not back needs a person.
PATIENCE: Final = timedelta(minutes=10)
_MOST_NAMES: Final = 3


class Rotating(Protocol):
    """What those who watch ask of the rotator."""

    @property
    def running(self) -> Rotation | None:
        """The rotation that has not ended."""
        ...

    @property
    def time(self) -> SteadyTime:
        """The clock that rotation goes by."""
        ...

    def view(self) -> View:
        """How it stands, counted over the whole mesh."""
        ...


def clock_check(jump: timedelta) -> Check:
    """Degraded while the wall clock is not where time has brought it since the start."""
    if abs(jump) <= TOLERANCE:
        return Check("clock", Health.GOOD, "in step")
    seconds = round(jump.total_seconds())
    text = f"has jumped by {seconds:+d} s since the start; nothing is retired before its time"
    return Check("clock", Health.DEGRADED, text)


def rotation_check(rotation: Rotation | None, holders: Sequence[tuple[Holder, datetime]], *, now: datetime) -> Check:
    """Degraded where it is paused, went on without everybody, cannot go on, or waits beyond its window and patience."""
    if rotation is None or rotation.phase.is_over:
        return Check("rotation", Health.GOOD, "none runs")
    where = f"{rotation.kind.value}, in {rotation.phase.value}"
    if rotation.paused:
        return Check("rotation", Health.DEGRADED, f"{where}, paused")
    failing = next((holder for holder, _ in holders if holder.is_error), None)
    if failing is not None:
        return Check("rotation", Health.DEGRADED, f"{where}, cannot go on: {failing.words}")
    if rotation.alarm:
        return Check("rotation", Health.DEGRADED, f"{where}: {rotation.alarm}")
    late = [
        holder.name for holder, since in holders if not holder.is_mere_time and now - since > rotation.window + PATIENCE
    ]
    if late:
        names = ", ".join(late[:_MOST_NAMES]) + (f" and {len(late) - _MOST_NAMES} more" if late[_MOST_NAMES:] else "")
        waited = format_duration(rotation.window + PATIENCE)
        return Check("rotation", Health.DEGRADED, f"{where}, has waited for {names} for more than {waited}")
    return Check("rotation", Health.GOOD, f"{where}, waits for {len(holders) or 'nobody'}")
