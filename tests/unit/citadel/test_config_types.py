"""Durations and addresses as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citadel.config.types import Duration, HostPort, Settings, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("250ms", 0.25), ("30s", 30), ("1h30m", 5400), ("7d", 604_800), ("1.5h", 5400), ("1m1m", 120)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "30", "s", "-1s", "1 h", "1H", "1w", "1s\n", "٣s", "1e3s", "999999999999d", ".5s"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**13))
def test_a_formatted_duration_is_parsed_back(milliseconds: int) -> None:
    value = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(value)) == value


@pytest.mark.parametrize("text", ["127.0.0.1:8443", "[::1]:0", "citadel.example:65535"])
def test_addresses_are_written_as_they_are_read(text: str) -> None:
    assert str(HostPort.parse(text)) == text


@pytest.mark.parametrize("text", ["", "host", ":1", "host:", "host:65536", "host:-1", "host:x", "host:٣", "host:1\n"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        HostPort.parse(text)


@pytest.mark.parametrize(
    ("address", "is_loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.8.0.1:1", True),
        ("[::1]:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("localhost:1", False),
    ],
)
def test_loopback_addresses(address: str, is_loopback: bool) -> None:
    assert HostPort.parse(address).is_loopback is is_loopback


class Timed(Settings):
    span: Duration


@pytest.mark.parametrize("span", ["0s", "36525d", timedelta(days=36_525)])
def test_a_setting_takes_up_to_a_century(span: object) -> None:
    Timed.model_validate({"span": span})


@pytest.mark.parametrize("span", ["36525d1ms", "9999999d", timedelta(seconds=-1), timedelta.max])
def test_a_setting_takes_no_span_that_a_date_could_not_bear(span: object) -> None:
    with pytest.raises(ValueError, match="between 0s and 36525d"):
        Timed.model_validate({"span": span})
