"""How long a leaf lives: the smallest wins, and the answer says which."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest

from ca.issuance.lifetime import LifetimePolicy, LimitedBy, Validity, settle
from citadel.errors import CitadelError, FailedPrecondition, Reason, Unavailable
from tests.unit.ca.values import NOW

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
POLICY = LifetimePolicy(default=HOUR, own=HOUR, cap=DAY, backdate=timedelta(seconds=10))


@dataclass(frozen=True)
class Case:
    name: str
    lives: timedelta
    by: LimitedBy
    asked: timedelta | None = None
    entry_ends_in: timedelta | None = None
    issuer_ends_in: timedelta = 7 * DAY


CASES = [
    Case("nothing asked: the default", HOUR, LimitedBy.DEFAULT),
    Case("the entry asks for less than the default", MINUTE, LimitedBy.ENTRY, asked=MINUTE),
    Case("the entry asks for more than the default", 2 * HOUR, LimitedBy.ENTRY, asked=2 * HOUR),
    Case("the entry asks for the cap", DAY, LimitedBy.ENTRY, asked=DAY),
    Case("the entry asks for more than the cap", DAY, LimitedBy.CAP, asked=DAY + MINUTE),
    Case("the entry asks for more than a date can hold", DAY, LimitedBy.CAP, asked=timedelta.max),
    Case("the issuer ends first", MINUTE, LimitedBy.ISSUER, issuer_ends_in=MINUTE),
    Case("the issuer ends before what was asked", MINUTE, LimitedBy.ISSUER, asked=HOUR, issuer_ends_in=MINUTE),
    Case("the issuer ends with the default", HOUR, LimitedBy.DEFAULT, issuer_ends_in=HOUR),
    Case("the entry expires first", MINUTE, LimitedBy.ENTRY_EXPIRY, entry_ends_in=MINUTE),
    Case("the entry expires with what was asked", MINUTE, LimitedBy.ENTRY, asked=MINUTE, entry_ends_in=MINUTE),
    Case("the entry expires with the issuer", MINUTE, LimitedBy.ISSUER, entry_ends_in=MINUTE, issuer_ends_in=MINUTE),
    Case("the entry expires later", HOUR, LimitedBy.DEFAULT, entry_ends_in=2 * HOUR),
]


def settled(
    *,
    now: datetime = NOW,
    policy: LifetimePolicy = POLICY,
    asked: timedelta | None = None,
    entry_ends_in: timedelta | None = None,
    issuer_age: timedelta = DAY,
    issuer_ends_in: timedelta = 7 * DAY,
) -> Validity:
    return settle(
        now=now,
        policy=policy,
        asked=asked,
        entry_expires_at=None if entry_ends_in is None else now + entry_ends_in,
        issuer_not_before=now - issuer_age,
        issuer_not_after=now + issuer_ends_in,
    )


@pytest.mark.invariant(6)
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_the_smallest_limit_wins_and_is_named(case: Case) -> None:
    validity = settled(asked=case.asked, entry_ends_in=case.entry_ends_in, issuer_ends_in=case.issuer_ends_in)
    assert (validity.not_after - NOW, validity.limited_by) == (case.lives, case.by)


def test_the_default_is_capped_too() -> None:
    strict = LifetimePolicy(default=HOUR, own=HOUR, cap=MINUTE, backdate=timedelta())
    assert settled(policy=strict).limited_by is LimitedBy.CAP


def test_the_start_is_backdated_but_never_before_the_issuer() -> None:
    assert settled().not_before == NOW - POLICY.backdate
    assert settled(issuer_age=timedelta(seconds=3)).not_before == NOW - timedelta(seconds=3)


def test_fractions_of_a_second_shorten_and_never_lengthen_the_end() -> None:
    now = NOW + timedelta(microseconds=700_000)
    validity = settled(now=now, issuer_ends_in=timedelta(seconds=30))
    assert validity.not_after == NOW + timedelta(seconds=30)
    assert validity.not_before == NOW - POLICY.backdate


@pytest.mark.parametrize(
    ("limits", "error", "reason"),
    [
        ({"issuer_ends_in": timedelta()}, Unavailable, Reason.ISSUER_UNAVAILABLE),
        ({"issuer_ends_in": -MINUTE}, Unavailable, Reason.ISSUER_UNAVAILABLE),
        ({"issuer_ends_in": timedelta(milliseconds=999)}, Unavailable, Reason.ISSUER_UNAVAILABLE),
        ({"entry_ends_in": timedelta()}, FailedPrecondition, Reason.ENTRY_EXPIRED),
        ({"entry_ends_in": timedelta(milliseconds=999)}, FailedPrecondition, Reason.ENTRY_EXPIRED),
    ],
)
def test_where_no_life_is_left_nothing_is_settled(
    limits: dict[str, timedelta], error: type[CitadelError], reason: Reason
) -> None:
    with pytest.raises(error) as refused:
        settled(**limits)  # type: ignore[arg-type] # a table of one argument each
    assert refused.value.reason is reason
