from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from citadel.errors import Reason
from citadel.selector import Selector
from sds.keep.schedule import RETRY_FLOOR, Schedule, call_timeout, renewal_time, retry_delay
from tests.unit.sds.fake_authority import A_TEST, entry

T0 = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


class FixedRandom(Random):
    """Draws the same number each time, and counts."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value
        self.draws = 0

    def random(self) -> float:
        self.draws += 1
        return self.value


def schedule(value: float = 0.5) -> Schedule:
    return Schedule(initial=SECOND, maximum=60 * SECOND, random=FixedRandom(value))


@pytest.mark.parametrize(("drawn", "seconds"), [(0.0, 40), (0.5, 45), (1.0, 50)])
def test_renewal_is_due_at_half_life_or_up_to_a_fifth_earlier(drawn: float, seconds: int) -> None:
    due = renewal_time(received=T0, not_after=T0 + 100 * SECOND, random=FixedRandom(drawn))
    assert due == T0 + seconds * SECOND


@pytest.mark.parametrize(("at", "seconds"), [(0.1, 10), (0.5, 50), (0.9, 90)])
def test_the_share_of_its_life_after_which_an_svid_is_renewed_is_a_setting(at: float, seconds: int) -> None:
    latest = FixedRandom(1.0)
    assert renewal_time(received=T0, not_after=T0 + 100 * SECOND, at=at, random=latest) == T0 + seconds * SECOND
    plan, web = Schedule(initial=SECOND, maximum=60 * SECOND, random=latest, renew_at=at), entry("web")
    plan.follow([web])
    plan.issued(web, received=T0, not_after=T0 + 100 * SECOND)
    assert plan.next_due(T0) == T0 + seconds * SECOND


@pytest.mark.parametrize(
    ("failures", "left", "longest"),
    [
        (1, None, 1.0),
        (2, None, 2.0),
        (4, None, 8.0),
        (10, None, 60.0),
        (10_000, None, 60.0),
        (10, timedelta(seconds=4), 0.4),
        (1, timedelta(milliseconds=10), 0.05),
    ],
)
def test_a_retry_waits_up_to_the_exponential_the_maximum_and_a_tenth_of_what_is_left(
    failures: int, left: timedelta | None, longest: float
) -> None:
    def delay(value: float) -> timedelta:
        return retry_delay(failures, initial=SECOND, maximum=60 * SECOND, left=left, random=FixedRandom(value))

    assert delay(1.0).total_seconds() == pytest.approx(longest)
    assert delay(0.0) == RETRY_FLOOR


@pytest.mark.parametrize(("left", "seconds"), [(None, 15), (3600, 15), (45, 15), (30, 10), (6, 2), (3, 1), (0.5, 1)])
def test_a_call_may_take_a_third_of_what_is_left(left: float | None, seconds: float) -> None:
    assert call_timeout(None if left is None else left * SECOND) == seconds * SECOND


def test_jitter_is_drawn_once_for_a_certificate() -> None:
    random = FixedRandom(0.5)
    plan = Schedule(initial=SECOND, maximum=60 * SECOND, random=random)
    web = entry("web")
    plan.follow([web])
    assert plan.issued(web, received=T0, not_after=T0 + 100 * SECOND)
    for second in range(45):
        plan.follow([web])
        assert plan.due(T0 + second * SECOND) == []
        assert plan.next_due(T0 + second * SECOND) == T0 + 45 * SECOND
    assert plan.due(T0 + 45 * SECOND) == [web]
    assert random.draws == 1


@pytest.mark.parametrize(
    ("change", "is_due"),
    [
        ({"spiffe_id": A_TEST.member("other")}, True),
        ({"x509_svid_ttl": timedelta(minutes=1)}, True),
        ({"dns_names": ("web.local",)}, True),
        ({"selectors": frozenset({Selector("unix", "uid:1")})}, False),
        ({"hint": "other"}, False),
        ({"jwt_svid_ttl": timedelta(minutes=1)}, False),
    ],
)
def test_only_what_stands_in_the_certificate_makes_an_entry_due(change: dict[str, object], is_due: bool) -> None:
    plan, old, new = schedule(), entry("web", revision=1), entry("web", revision=2, **change)
    plan.follow([old])
    plan.issued(old, received=T0, not_after=T0 + 100 * SECOND)
    plan.follow([new])
    assert plan.due(T0 + SECOND) == ([new] if is_due else [])


def test_what_has_no_svid_goes_first_then_what_ends_soonest() -> None:
    plan = schedule()
    late, soon, fresh = entry("late"), entry("soon"), entry("fresh")
    plan.follow([late, soon])
    plan.issued(late, received=T0, not_after=T0 + 20 * SECOND)
    plan.issued(soon, received=T0, not_after=T0 + 10 * SECOND)
    plan.follow([late, soon, fresh])
    assert plan.due(T0 + 15 * SECOND) == [fresh, soon, late]


def test_a_refused_entry_waits_alone_and_is_tried_at_once_when_it_changes() -> None:
    plan, web, api = schedule(1.0), entry("web", revision=1), entry("api")
    plan.follow([web, api])
    assert plan.refused(web, Reason.ENTRY_NOT_AUTHORIZED, T0)
    assert not plan.refused(web, Reason.ENTRY_NOT_AUTHORIZED, T0)
    assert plan.refused(web, Reason.ISSUER_UNAVAILABLE, T0)
    assert plan.due(T0) == [api]
    assert plan.next_due(T0) == T0
    changed = entry("web", revision=2, selectors=frozenset({Selector("unix", "uid:1")}))
    plan.follow([changed])
    assert plan.due(T0) == [changed]


def test_a_clock_that_is_set_back_makes_no_pause_longer() -> None:
    plan, web = schedule(1.0), entry("web")
    plan.follow([web])
    plan.refused(web, Reason.ENTRY_NOT_AUTHORIZED, T0)
    assert plan.due(T0 + 0.9 * SECOND) == []
    assert plan.due(T0 - timedelta(hours=1)) == [web]
    assert plan.refused(web, Reason.ISSUER_UNAVAILABLE, T0 - timedelta(hours=1))
    assert plan.due(T0 - timedelta(hours=1)) == []
    assert plan.next_due(T0 - timedelta(hours=1)) == T0 - timedelta(hours=1) + 2 * SECOND


def test_an_entry_without_an_svid_is_due_whatever_the_clock_says() -> None:
    plan, web = schedule(), entry("web")
    plan.follow([web])
    assert plan.due(T0) == [web]
    assert plan.due(T0 - timedelta(hours=1)) == [web]


def test_a_renewal_that_was_refused_is_tried_at_once_when_the_entry_changes_in_any_way() -> None:
    plan, web = schedule(1.0), entry("web", revision=1)
    plan.follow([web])
    plan.issued(web, received=T0, not_after=T0 + 100 * SECOND)
    plan.refused(web, Reason.ENTRY_NOT_AUTHORIZED, T0 + 50 * SECOND)
    assert plan.due(T0 + 50 * SECOND) == []
    changed = entry("web", revision=2, hint="allowed again")
    plan.follow([changed])
    assert plan.due(T0 + 50 * SECOND) == [changed]


def test_an_answer_for_terms_that_changed_meanwhile_is_not_taken() -> None:
    plan, old, new = schedule(), entry("web", revision=1), entry("web", revision=2, dns_names=("web.local",))
    plan.follow([old])
    plan.follow([new])
    assert not plan.issued(old, received=T0, not_after=T0 + 100 * SECOND)
    assert not plan.refused(old, Reason.INTERNAL, T0)
    assert plan.due(T0) == [new]
    plan.follow([])
    assert not plan.issued(new, received=T0, not_after=T0 + 100 * SECOND)


def test_an_expired_entry_is_never_due() -> None:
    plan = schedule()
    plan.follow([entry("web", expires_at=T0 + SECOND)])
    assert plan.due(T0 + SECOND) == []
    assert plan.next_due(T0 + SECOND) is None


def test_where_an_svid_was_taken_away_another_is_due_at_once_and_after_a_refusal_with_the_usual_pause() -> None:
    plan, web, api = schedule(), entry("web"), entry("api")
    plan.follow([web, api])
    for each in (web, api):
        plan.issued(each, received=T0, not_after=T0 + 100 * SECOND)
    plan.miss_all_but({"api"})
    assert plan.due(T0 + SECOND) == [web]
    assert plan.shortest_left(T0 + SECOND) == 99 * SECOND, "that of the other one"
    assert plan.refused(web, Reason.IDENTITY_REVOKED, T0 + SECOND)
    plan.miss_all_but({"api"})
    assert plan.due(T0 + SECOND) == []
    outlook = plan.outlook("web", T0 + SECOND)
    assert outlook is not None
    assert outlook.next_try > T0 + SECOND
