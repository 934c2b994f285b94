"""Every way through a rotation: what may follow which phase, and what each phase waits for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca.rotation.machine import COURSE, Facts, alarm, can_be_undone, first_phase, next_phase
from ca.rotation.model import Holder, Phase, Rotation, RotationKind
from tests.unit.ca.values import NOW

ROOT, ISSUER, SVID, JWT = RotationKind.ROOT, RotationKind.ISSUER, RotationKind.SVID, RotationKind.JWT
MARGIN: Final = 2.0
SECOND: Final = timedelta(seconds=1)
SOMEBODY: Final = (Holder(name="node-1", words="the agent has not acknowledged the bundle"),)
NOBODY: Final[Sequence[Holder]] = ()
WAIT: Final = None


def rotation(phase: Phase, kind: RotationKind = ROOT, **changes: Any) -> Rotation:
    profile: dict[str, Any] = {
        "id": "r",
        "kind": kind,
        "phase": phase,
        "started_at": NOW,
        "phase_since": NOW,
        "started_by": "local:0",
        "window": timedelta(minutes=5),
        "margin": timedelta(seconds=MARGIN),
    }
    return Rotation(**(profile | changes))


def facts(holders: Sequence[Holder] = NOBODY, **changes: Any) -> Facts:
    """Nobody is waited for, and has not been for long."""
    profile: dict[str, Any] = {
        "now": NOW,
        "holders": holders,
        "clear_for": 0.0 if holders else 60.0,
        "lasts_for": 0.0,
        "is_pressing": False,
    }
    return Facts(**(profile | changes))


@pytest.mark.parametrize(
    ("kind", "course"),
    [
        (ROOT, "prepare observe activate renew drain retire settle done"),
        (ISSUER, "prepare observe activate renew drain retire done"),
        (SVID, "renew done"),
        (JWT, "prepare observe activate drain retire done"),
    ],
)
def test_where_nobody_is_waited_for_each_kind_walks_its_course_to_the_end(kind: RotationKind, course: str) -> None:
    current, walked = rotation(first_phase(kind), kind), [first_phase(kind).value]
    while (entered := next_phase(current, facts())) is not None:
        current = replace(current, phase=entered)
        walked.append(entered.value)
    assert walked == course.split()
    assert current.phase.is_over


EMERGENCY: Final = {"deadline": NOW + 30 * SECOND}
SINCE_DEADLINE: Final = {"now": NOW + 30 * SECOND}
JUST_BEFORE: Final = {"now": NOW + 29.9 * SECOND}
PRESSING: Final = {"is_pressing": True}


@pytest.mark.parametrize(
    ("phase", "changes", "found", "entered"),
    [
        # Nobody is waited for: two phases ask that it stays so for the margin, since Envoy uses things after its ACK.
        (Phase.OBSERVE, {}, facts(clear_for=MARGIN - 0.1), WAIT),
        (Phase.OBSERVE, {}, facts(clear_for=MARGIN), Phase.ACTIVATE),
        (Phase.DRAIN, {}, facts(clear_for=MARGIN - 0.1), WAIT),
        (Phase.DRAIN, {}, facts(clear_for=MARGIN), Phase.RETIRE),
        (Phase.RENEW, {}, facts(clear_for=0.0), Phase.DRAIN),
        (Phase.SETTLE, {}, facts(clear_for=0.0), Phase.DONE),
        # Somebody is.
        (Phase.OBSERVE, {}, facts(SOMEBODY, lasts_for=1e9), WAIT),
        (Phase.RENEW, {}, facts(SOMEBODY, lasts_for=1e9), WAIT),
        (Phase.DRAIN, {}, facts(SOMEBODY, lasts_for=1e9), WAIT),
        (Phase.SETTLE, {}, facts(SOMEBODY, lasts_for=29.9), WAIT),
        (Phase.SETTLE, {}, facts(SOMEBODY, lasts_for=30.0), Phase.DONE),
        # These wait for nobody.
        (Phase.PREPARE, {}, facts(SOMEBODY), Phase.OBSERVE),
        (Phase.ACTIVATE, {}, facts(SOMEBODY), Phase.RENEW),
        (Phase.RETIRE, {}, facts(SOMEBODY), Phase.SETTLE),
        (Phase.UNDO, {}, facts(SOMEBODY), Phase.ABORTED),
        # What signs now nears its end: worth an observation, and no certificate that somebody depends on.
        (Phase.OBSERVE, {}, facts(SOMEBODY, **PRESSING), Phase.ACTIVATE),
        (Phase.OBSERVE, {}, facts(clear_for=MARGIN - 0.1, **PRESSING), WAIT),
        (Phase.RENEW, {}, facts(SOMEBODY, **PRESSING), WAIT),
        (Phase.DRAIN, {}, facts(SOMEBODY, **PRESSING), WAIT),
        (Phase.SETTLE, {}, facts(SOMEBODY, **PRESSING), WAIT),
        # An emergency observes nothing, and is over at its deadline, whatever else is asked for.
        (Phase.OBSERVE, EMERGENCY, facts(SOMEBODY), Phase.ACTIVATE),
        (Phase.OBSERVE, EMERGENCY, facts(clear_for=0.0), Phase.ACTIVATE),
        (Phase.SETTLE, EMERGENCY, facts(SOMEBODY), Phase.DONE),
        (Phase.RENEW, EMERGENCY, facts(SOMEBODY, **JUST_BEFORE), WAIT),
        (Phase.RENEW, EMERGENCY, facts(SOMEBODY, **SINCE_DEADLINE), Phase.DRAIN),
        (Phase.DRAIN, EMERGENCY, facts(SOMEBODY, **JUST_BEFORE), WAIT),
        (Phase.DRAIN, EMERGENCY, facts(SOMEBODY, **SINCE_DEADLINE), Phase.RETIRE),
        (Phase.DRAIN, EMERGENCY, facts(clear_for=0.0, **JUST_BEFORE), WAIT),
        (Phase.DRAIN, EMERGENCY, facts(clear_for=0.0, **SINCE_DEADLINE), Phase.RETIRE),
        (Phase.DRAIN, EMERGENCY, facts(clear_for=MARGIN, **JUST_BEFORE), Phase.RETIRE),
    ],
)
def test_what_a_root_rotation_waits_for(
    phase: Phase, changes: dict[str, Any], found: Facts, entered: Phase | None
) -> None:
    assert next_phase(rotation(phase, **changes), found) is entered


@pytest.mark.parametrize(
    ("phase", "found", "entered"),
    [
        (Phase.OBSERVE, facts(SOMEBODY), WAIT),
        (Phase.OBSERVE, facts(SOMEBODY, **PRESSING), Phase.ACTIVATE),
        (Phase.RETIRE, facts(SOMEBODY), Phase.DONE),
    ],
)
def test_what_the_rotation_of_an_issuing_authority_waits_for(phase: Phase, found: Facts, entered: Phase | None) -> None:
    assert next_phase(rotation(phase, ISSUER), found) is entered


def test_a_rotation_of_svids_waits_until_they_are_renewed() -> None:
    assert next_phase(rotation(Phase.RENEW, SVID), facts(SOMEBODY, lasts_for=1e9)) is WAIT
    assert next_phase(rotation(Phase.RENEW, SVID), facts(clear_for=0.0)) is Phase.DONE


@pytest.mark.parametrize("phase", Phase)
def test_paused_it_stays_wherever_it_is(phase: Phase) -> None:
    paused = rotation(phase, paused=True)
    for found in (facts(), facts(SOMEBODY, lasts_for=1e9, is_pressing=True)):
        assert next_phase(paused, found) is WAIT
        assert next_phase(replace(paused, deadline=NOW), found) is WAIT


@pytest.mark.parametrize("phase", [Phase.DONE, Phase.ABORTED])
def test_what_is_over_stays_over(phase: Phase) -> None:
    assert next_phase(rotation(phase), facts()) is WAIT


def test_it_can_be_undone_until_something_new_signs() -> None:
    assert [phase for phase in Phase if can_be_undone(rotation(phase))] == [Phase.PREPARE, Phase.OBSERVE]


@pytest.mark.invariant(3)
@pytest.mark.parametrize(
    ("phase", "changes", "found", "told"),
    [
        (Phase.OBSERVE, {}, facts(), ""),
        (Phase.OBSERVE, {}, facts(SOMEBODY, **PRESSING), "what signed until now nears its end: went on from observe"),
        (Phase.DRAIN, EMERGENCY, facts(SOMEBODY, **SINCE_DEADLINE), "emergency: went on from drain"),
        (Phase.PREPARE, {}, facts(SOMEBODY), ""),
        (Phase.SETTLE, {}, facts(SOMEBODY, lasts_for=30.0), ""),
    ],
)
def test_whoever_is_gone_on_without_is_named(phase: Phase, changes: dict[str, Any], found: Facts, told: str) -> None:
    assert alarm(rotation(phase, **changes), found) == (told and f"{told} without node-1")


def test_of_very_many_that_are_gone_on_without_some_are_named_and_all_counted() -> None:
    many = [Holder(name=f"node-{number}", words="") for number in range(1, 8)]
    words = alarm(rotation(Phase.OBSERVE), facts(many, is_pressing=True))
    assert words.endswith("without node-1, node-2, node-3, node-4, node-5 and 2 more")


@pytest.mark.invariant(3, 4)
@pytest.mark.parametrize(
    ("phase", "changes", "found", "entered"),
    [
        # Who polls for the keys acknowledges nothing: the margin is the time for which it may keep them.
        (Phase.OBSERVE, {"margin": timedelta(minutes=5)}, facts(clear_for=299.9), WAIT),
        (Phase.OBSERVE, {"margin": timedelta(minutes=5)}, facts(clear_for=300.0), Phase.ACTIVATE),
        (Phase.OBSERVE, {}, facts(SOMEBODY), WAIT),
        (Phase.OBSERVE, {}, facts(SOMEBODY, **PRESSING), Phase.ACTIVATE),
        (Phase.OBSERVE, EMERGENCY, facts(SOMEBODY), Phase.ACTIVATE),
        # Tokens have a leeway of their own.
        (Phase.DRAIN, {"margin": timedelta(minutes=5)}, facts(clear_for=0.0), Phase.RETIRE),
        (Phase.DRAIN, {}, facts(SOMEBODY, **PRESSING), WAIT),
        (Phase.DRAIN, EMERGENCY, facts(SOMEBODY, **JUST_BEFORE), WAIT),
        (Phase.DRAIN, EMERGENCY, facts(SOMEBODY, **SINCE_DEADLINE), Phase.RETIRE),
    ],
)
def test_a_key_for_tokens_goes_on(phase: Phase, changes: dict[str, Any], found: Facts, entered: Phase | None) -> None:
    assert next_phase(rotation(phase, JWT, **changes), found) is entered


def _moments() -> st.SearchStrategy[datetime]:
    return st.timedeltas(min_value=-60 * SECOND, max_value=60 * SECOND).map(NOW.__add__)


def _facts() -> st.SearchStrategy[Facts]:
    seconds = st.floats(min_value=0, max_value=120)
    return st.builds(
        Facts,
        now=_moments(),
        holders=st.sampled_from([NOBODY, SOMEBODY]),
        clear_for=seconds,
        lasts_for=seconds,
        is_pressing=st.booleans(),
    )


_BEGUN: Final = st.builds(
    lambda kind, deadline, margin: rotation(
        first_phase(kind), kind, deadline=deadline if kind in (ROOT, JWT) else None, margin=margin * SECOND
    ),
    st.sampled_from(RotationKind),
    st.none() | _moments(),
    st.floats(min_value=0.5, max_value=60),
)


@pytest.mark.invariant(3, 4)
@given(begun=_BEGUN, found=st.lists(_facts(), max_size=40))
def test_whatever_is_found_nothing_is_skipped_and_nothing_retired_while_somebody_holds(
    begun: Rotation, found: list[Facts]
) -> None:
    current, walked = begun, [begun.phase]
    for each in found:
        entered = next_phase(current, each)
        if entered is None:
            continue
        if entered is Phase.RETIRE:
            assert not each.holders or (begun.deadline is not None and each.now >= begun.deadline)
        if entered is Phase.ACTIVATE and each.holders:
            assert each.is_pressing or begun.is_emergency
            assert alarm(current, each)
        current = replace(current, phase=entered)
        walked.append(entered)
    assert tuple(walked) == COURSE[begun.kind][: len(walked)], "each phase of the course, in its order"


@given(begun=_BEGUN, found=st.lists(_facts(), max_size=20))
def test_wherever_it_stands_it_ends_once_the_holders_are_gone(begun: Rotation, found: list[Facts]) -> None:
    current = begun
    for each in (*found, *[facts(clear_for=60.0)] * len(Phase)):
        entered = next_phase(current, each)
        current = replace(current, phase=entered) if entered is not None else current
    assert current.phase is Phase.DONE
