"""The registered claims: what type each must have, and when a token is valid."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citadel.claims import DEFAULT_LEEWAY, audiences, check_times, moment_of, numeric_date, text
from citadel.errors import Reason, Unauthenticated
from tests.certificates import NOW

T = int(NOW.timestamp())
LEEWAY = timedelta(seconds=10)


def checked(*, leeway: timedelta = LEEWAY, **claims: Any) -> datetime:
    return check_times(claims, now=NOW, leeway=leeway)


def refused(**claims: Any) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as refusal:
        checked(**claims)
    return refusal.value


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": T - 3600}, Reason.JWT_EXPIRED),
        ({"exp": T - 10}, Reason.JWT_EXPIRED),
        ({"exp": T - 9}, None),
        ({"exp": T - 9.999}, None),
        ({"exp": T}, None),
        ({"exp": 0}, Reason.JWT_EXPIRED),
        ({"exp": -1}, Reason.JWT_EXPIRED),
        ({"exp": -1e300}, Reason.JWT_EXPIRED),
        ({"exp": 1e300}, None),
        ({"exp": 10**300}, None),
        ({"exp": T + 1, "nbf": T + 10}, None),
        ({"exp": T + 1, "nbf": T + 10.5}, Reason.JWT_NOT_YET_VALID),
        ({"exp": T + 1, "nbf": T + 11}, Reason.JWT_NOT_YET_VALID),
        ({"exp": T + 1, "iat": T + 10}, None),
        ({"exp": T + 1, "iat": T + 11}, Reason.JWT_NOT_YET_VALID),
        ({"exp": T + 1, "nbf": 1e300}, Reason.JWT_NOT_YET_VALID),
        ({"exp": T + 1, "nbf": -1e300, "iat": 0}, None),
    ],
)
def test_a_token_is_valid_between_its_times_and_a_little_beside_them(claims: Any, reason: Reason | None) -> None:
    if reason is None:
        checked(**claims)
    else:
        assert refused(**claims).reason == reason


def test_without_leeway_the_second_of_the_end_is_over() -> None:
    with pytest.raises(Unauthenticated):
        checked(exp=T, leeway=timedelta())
    checked(exp=T + 0.001, leeway=timedelta())


def test_the_end_is_told() -> None:
    assert checked(exp=T + 300) == NOW + timedelta(minutes=5)
    assert checked(exp=T + 0.5) == NOW + timedelta(seconds=0.5)
    assert checked(exp=1e300) == datetime.max.replace(tzinfo=UTC)
    assert timedelta(minutes=1) >= DEFAULT_LEEWAY


NO_NUMBER = [str(T), "", "1e3", True, False, None, [T], {"exp": T}]
NO_TIME = [math.nan, math.inf, -math.inf, 10**400]


@pytest.mark.parametrize("value", [*NO_NUMBER, *NO_TIME])
@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
def test_a_time_is_a_number_and_nothing_else(name: str, value: object) -> None:
    claims = {"exp": T + 300, name: value}
    assert refused(**claims).reason == Reason.JWT_MALFORMED
    with pytest.raises(Unauthenticated):
        moment_of(claims, name)


def test_a_token_says_when_it_ends() -> None:
    assert refused().reason == Reason.JWT_MALFORMED
    assert refused(nbf=T, iat=T).reason == Reason.JWT_MALFORMED


def test_times_that_are_missing_are_none() -> None:
    assert numeric_date({}, "iat") is None
    assert moment_of({}, "iat") is None
    assert moment_of({"iat": T}, "iat") == NOW


@pytest.mark.parametrize(
    ("value", "found"),
    [("a", ("a",)), (["a"], ("a",)), (["a", "b"], ("a", "b")), ([], ()), (None, ()), ("", ("",)), ("a b", ("a b",))],
)
def test_audiences_are_a_text_or_a_list(value: object, found: tuple[str, ...]) -> None:
    assert audiences({"aud": value}) == found


def test_no_audience_is_none() -> None:
    assert audiences({}) == ()


@pytest.mark.parametrize("value", [1, True, {}, {"a": "a"}, ["a", 1], [None], [["a"]]])
def test_no_other_audience_is_taken(value: object) -> None:
    with pytest.raises(Unauthenticated) as refusal:
        audiences({"aud": value})
    assert refusal.value.reason == Reason.JWT_MALFORMED


@pytest.mark.parametrize("value", [1, True, [], {}, ["a"]])
def test_a_text_is_a_text(value: object) -> None:
    assert text({"sub": "a"}, "sub") == "a"
    assert text({}, "sub") is None
    with pytest.raises(Unauthenticated) as refusal:
        text({"sub": value}, "sub")
    assert refusal.value.reason == Reason.JWT_MALFORMED


@given(
    st.dictionaries(
        st.sampled_from(["exp", "nbf", "iat"]),
        st.floats() | st.integers() | st.text() | st.none() | st.booleans() | st.integers().map(lambda n: n**40),
    )
)
def test_any_claims_are_judged_in_order(claims: Any) -> None:
    try:
        check_times(claims, now=NOW, leeway=LEEWAY)
    except Unauthenticated:
        return
    assert "exp" in claims
