"""The state machine of a rotation: pure, so that every way through it can be walked in a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from ca.rotation.model import Holder, Phase, Rotation, RotationKind

COURSE: Final[Mapping[RotationKind, tuple[Phase, ...]]] = {
    RotationKind.ROOT: (
        Phase.PREPARE,
        Phase.OBSERVE,
        Phase.ACTIVATE,
        Phase.RENEW,
        Phase.DRAIN,
        Phase.RETIRE,
        Phase.SETTLE,
        Phase.DONE,
    ),
    # Every verifier finds the new issuer in the chain, so nobody must have heard of it before it signs.
    RotationKind.ISSUER: (Phase.ACTIVATE, Phase.RENEW, Phase.DRAIN, Phase.RETIRE, Phase.DONE),
    RotationKind.SVID: (Phase.RENEW, Phase.DONE),
}
_AFTER_ABORT: Final = (Phase.UNDO, Phase.ABORTED)
_WAITING: Final = frozenset({Phase.OBSERVE, Phase.RENEW, Phase.DRAIN, Phase.SETTLE})
# Proxies acknowledge a moment before they use what they acknowledged.
_WITH_MARGIN: Final = frozenset({Phase.OBSERVE, Phase.DRAIN})
_LONGEST_SETTLING: Final = timedelta(seconds=30)
# Until here the new root has signed nothing, and the old one is as it was.
_CAN_BE_UNDONE: Final = frozenset({Phase.PREPARE, Phase.OBSERVE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the next phase depends on. `clear_for` is for how many seconds nobody has been waited for.

    `goes_on_at` is when an observation goes on without everybody: the old root's remaining life is that of a leaf.
    """

    now: datetime
    holders: Sequence[Holder]
    clear_for: float
    goes_on_at: datetime | None = None


def first_phase(kind: RotationKind) -> Phase:
    """Where a rotation of this kind begins."""
    return COURSE[kind][0]


def can_be_undone(rotation: Rotation) -> bool:
    """Whether nothing has been signed by what is new."""
    return rotation.phase in _CAN_BE_UNDONE


def next_phase(rotation: Rotation, facts: Facts) -> Phase | None:
    """The phase to enter now that the act of the current one is done; None while it must wait."""
    if rotation.phase.is_over or rotation.paused:
        return None
    if rotation.phase in _WAITING and not _may_go_on(rotation, facts):
        return None
    course = _AFTER_ABORT if rotation.phase in _AFTER_ABORT else COURSE[rotation.kind]
    return course[course.index(rotation.phase) + 1]


def alarm(rotation: Rotation, facts: Facts) -> str:
    """Why it goes on without those who are waited for; empty where nobody is."""
    if not facts.holders or rotation.phase not in _WAITING or rotation.phase is Phase.SETTLE:
        return ""
    names = ", ".join(holder.name for holder in facts.holders[:5])
    more = f" and {len(facts.holders) - 5} more" if len(facts.holders) > 5 else ""
    if rotation.is_emergency:
        return f"emergency: went on from {rotation.phase.value} without {names}{more}"
    return f"the old root nears its end: went on from {rotation.phase.value} without {names}{more}"


def _may_go_on(rotation: Rotation, facts: Facts) -> bool:
    if not facts.holders:
        # Envoy uses a bundle a moment after its ACK, so an ACK alone opens no gate.
        return rotation.phase not in _WITH_MARGIN or facts.clear_for >= rotation.margin.total_seconds()
    if rotation.deadline is not None:
        # Nobody waits for an observation here: until the new root signs, the tainted one does.
        return rotation.phase in (Phase.OBSERVE, Phase.SETTLE) or facts.now >= rotation.deadline
    if rotation.phase is Phase.OBSERVE:
        return facts.goes_on_at is not None and facts.now >= facts.goes_on_at
    # What has gone cannot be depended on any more: nobody is worse off where a proxy has not heard of it.
    return rotation.phase is Phase.SETTLE and facts.now - rotation.phase_since >= _LONGEST_SETTLING
