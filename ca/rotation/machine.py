"""The state machine of a rotation: pure, so that every way through it can be walked in a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
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
    # Every verifier finds the new issuer in the chain, but one that checks revocation lists must have the issuer's own.
    RotationKind.ISSUER: (
        Phase.PREPARE,
        Phase.OBSERVE,
        Phase.ACTIVATE,
        Phase.RENEW,
        Phase.DRAIN,
        Phase.RETIRE,
        Phase.DONE,
    ),
    RotationKind.SVID: (Phase.RENEW, Phase.DONE),
    # Tokens are not renewed: their agents ask for new ones long before they end, and the old ones end by themselves.
    RotationKind.JWT: (Phase.PREPARE, Phase.OBSERVE, Phase.ACTIVATE, Phase.DRAIN, Phase.RETIRE, Phase.DONE),
}
_AFTER_ABORT: Final = (Phase.UNDO, Phase.ABORTED)
_WAITING: Final = frozenset({Phase.OBSERVE, Phase.RENEW, Phase.DRAIN, Phase.SETTLE})
_OBSERVING: Final = frozenset({Phase.OBSERVE, Phase.SETTLE})
_LONGEST_SETTLING: Final = 30.0  # seconds
# Until here what is new has signed nothing, and what is old is as it was.
_CAN_BE_UNDONE: Final = frozenset({Phase.PREPARE, Phase.OBSERVE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the next phase depends on; `now` and seconds are counted by a clock that never jumps.

    `clear_for` is for how long nobody has been waited for, `lasts_for` how long the phase has lasted. `is_pressing`
    where what signs now is so near its end that an observation goes on without everybody.
    """

    now: datetime
    holders: Sequence[Holder]
    clear_for: float
    lasts_for: float
    is_pressing: bool


def first_phase(kind: RotationKind) -> Phase:
    """Where a rotation of this kind begins."""
    return COURSE[kind][0]


def can_be_undone(rotation: Rotation) -> bool:
    """Whether nothing has been signed by what is new."""
    return rotation.phase in _CAN_BE_UNDONE


def has_margin(kind: RotationKind, phase: Phase) -> bool:
    """Whether more must pass in this phase than that nobody is waited for.

    Envoy uses a bundle a moment after its ACK, and who polls the keys for tokens acknowledges nothing at all. What a
    drain of tokens waits for has its own leeway.
    """
    return phase is Phase.OBSERVE or (phase is Phase.DRAIN and kind is not RotationKind.JWT)


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
    return f"what signed until now nears its end: went on from {rotation.phase.value} without {names}{more}"


def _may_go_on(rotation: Rotation, facts: Facts) -> bool:
    # Nobody waits for an observation in an emergency: until the new root signs, the tainted one does.
    if rotation.deadline is not None and (rotation.phase in _OBSERVING or facts.now >= rotation.deadline):
        return True
    if not facts.holders:
        return not has_margin(rotation.kind, rotation.phase) or facts.clear_for >= rotation.margin.total_seconds()
    if rotation.phase is Phase.OBSERVE:
        return facts.is_pressing
    # What has gone cannot be depended on any more: nobody is worse off where a proxy has not heard of it.
    return rotation.phase is Phase.SETTLE and facts.lasts_for >= _LONGEST_SETTLING
