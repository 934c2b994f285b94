"""One log for ours and the libraries', and what never gets into it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import structlog

from citadel import logs
from citadel.config.types import LogSettings
from tests.clock import FakeClock


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def configured(settings: LogSettings) -> io.StringIO:
    stream = io.StringIO()
    logs.configure(settings, stream=stream)
    return stream


def test_json_lines_of_ours_and_of_libraries_look_alike() -> None:
    stream = configured(LogSettings(format="json"))
    structlog.get_logger("sds.link").info("connected", server="127.0.0.1:1")
    logging.getLogger("alembic.runtime").info("Running %s", "upgrade")
    ours, theirs = map(json.loads, stream.getvalue().splitlines())
    assert (ours["event"], ours["level"], ours["logger"], ours["server"]) == (
        "connected",
        "info",
        "sds.link",
        "127.0.0.1:1",
    )
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("Running upgrade", "info", "alembic.runtime")
    for line in (ours, theirs):
        assert datetime.fromisoformat(line["timestamp"]).utcoffset() == datetime.now(UTC).utcoffset()


def test_text_lines_hold_key_and_value_without_colours() -> None:
    stream = configured(LogSettings())
    structlog.get_logger("x").warning("refused", reason="entry_not_found")
    (line,) = stream.getvalue().splitlines()
    assert "refused" in line
    assert "reason=entry_not_found" in line
    assert "\x1b" not in line


@pytest.mark.parametrize(("level", "seen"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_holds_for_both(level: str, seen: int) -> None:
    stream = configured(LogSettings.model_validate({"level": level}))
    for logger in (structlog.get_logger("ours"), logging.getLogger("theirs")):
        for say in (logger.debug, logger.info, logger.warning, logger.error):
            say("said")
    assert len(stream.getvalue().splitlines()) == 2 * seen


@pytest.mark.invariant(10)
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_shows_no_local_variables(form: str) -> None:
    stream = configured(LogSettings.model_validate({"format": form}))

    def fail(given: list[str]) -> None:
        token = given[0] + given[1]
        assert token
        raise ValueError("broken")

    try:
        fail(["t0", "ken"])
    except ValueError as error:
        structlog.get_logger("x").error("unexpected", exc_info=error)
    assert "ValueError: broken" in stream.getvalue()
    assert "t0ken" not in stream.getvalue()


@pytest.mark.invariant(10)
@pytest.mark.parametrize("name", ["aiosqlite", "sqlalchemy.engine"])
def test_libraries_that_log_parameters_stay_quiet_at_debug(name: str) -> None:
    stream = configured(LogSettings(level="debug"))
    logging.getLogger(name).debug("INSERT %s", "s3cret")
    logging.getLogger(name).info("INSERT %s", "s3cret")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_peer_cannot_forge_a_line_or_steer_the_terminal(form: str) -> None:
    stream = configured(LogSettings.model_validate({"format": form}))
    structlog.get_logger("x").info("stream opened", node="a\n2026 forged\x1b[31m")
    logging.getLogger("theirs").info("bad\nforged")
    assert len(stream.getvalue().splitlines()) == 2
    assert "\x1b" not in stream.getvalue()


def test_of_alembic_only_what_it_does_is_news() -> None:
    stream = configured(LogSettings())
    logging.getLogger("alembic.runtime.plugins").info("setting up autogenerate plugin alembic.autogenerate.schemas")
    logging.getLogger("alembic.runtime.migration").info("Context impl SQLiteImpl.")
    logging.getLogger("alembic.runtime.migration").info("Running upgrade  -> 0001, first")
    logging.getLogger("alembic.runtime.migration").warning("something is wrong")
    first, second = stream.getvalue().splitlines()
    assert "Running upgrade  -> 0001, first" in first
    assert "something is wrong" in second


@pytest.mark.invariant(10)
@pytest.mark.parametrize("who", ["ours", "a library's"])
def test_what_repeats_without_end_is_told_a_bounded_number_of_times(monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    monkeypatch.setattr(logs, "_REPEATS_AT_ONCE", 3)
    monkeypatch.setattr(logs, "_REPEATS_PER_SECOND", 1e-9)
    stream = configured(LogSettings(format="json"))
    for number in range(10):
        if who == "ours":
            structlog.get_logger("citadel.relay").warning("connection refused", number=number)
        else:
            logging.getLogger("grpc").error("Cannot read %s", number)
    structlog.get_logger("citadel.relay").warning("something else")
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(told) == 4
    assert told[-1]["event"] == "something else"


async def test_the_next_line_says_how_many_were_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_REPEATS_AT_ONCE", 1)
    clock = FakeClock()
    repeats = logs.Repeats(clock)
    told = []
    for seconds in (0, 0, 0, 1):
        await clock.advance(seconds)
        record = logging.LogRecord("grpc", logging.ERROR, "file.py", 7, "Cannot read", None, None)
        if repeats.filter(record):
            told.append(getattr(record, "left_out", None))
    assert told == [None, 2]
