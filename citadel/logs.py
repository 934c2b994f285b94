"""The log: lines of text or JSON on standard error, in UTC; what libraries log takes the same way."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Hashable, MutableMapping
from typing import Any, Final, TextIO

import structlog
from structlog.typing import Processor

from citadel.clock import Clock, SystemClock
from citadel.config.types import LogSettings
from citadel.errors import ResourceExhausted
from citadel.limiter import RateLimiter

# At `debug` these write the parameters of every statement or request, which can be secrets (invariant 10).
_KEPT_QUIET: Final = ("aiosqlite", "sqlalchemy", "httpx", "httpcore", "watchfiles")
# Of one kind of line. A thousand agents may come at once; two a second are some 50 MB a day.
_REPEATS_AT_ONCE: Final = 1000
_REPEATS_PER_SECOND: Final = 2.0
_ALEMBIC: Final = "alembic."
_ALEMBIC_NEWS: Final = "Running "


def configure(settings: LogSettings, *, stream: TextIO | None = None) -> None:
    """Send the log of the whole process to `stream`, by default standard error. The composition root calls it once."""
    stream = stream or sys.stderr
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(_json() if settings.format == "json" else _text(colors=stream.isatty())),
            ],
        )
    )
    handler.addFilter(_is_news)
    handler.addFilter(Repeats(SystemClock()))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _KEPT_QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(capture=True)


def _is_news(record: logging.LogRecord) -> bool:
    """At `info` Alembic also tells how it is set up; what it does to the schema is all that anybody wants to know."""
    is_chatter = record.levelno == logging.INFO and record.name.startswith(_ALEMBIC)
    return not is_chatter or record.getMessage().startswith(_ALEMBIC_NEWS)


class Repeats(logging.Filter):
    """Leaves out what one line of code says too often: strangers can cause some, and must not fill the disk with it.

    The next one that is told says how many were left out.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._limiter = RateLimiter(clock=clock, per_second=_REPEATS_PER_SECOND, burst=_REPEATS_AT_ONCE)
        self._left_out: Counter[Hashable] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        ours: dict[str, Any] | None = record.msg if isinstance(record.msg, dict) else None
        kind = (record.name, ours["event"]) if ours else (record.pathname, record.lineno)
        try:
            self._limiter.admit(kind)
        except ResourceExhausted:
            self._left_out[kind] += 1
            return False
        left_out = self._left_out.pop(kind, 0)
        if left_out and ours:
            ours["left_out"] = left_out
        elif left_out:
            record.left_out = left_out
        return True


# Both forms render tracebacks as Python does. The prettier ones print local variables, and those can be keys.


def _json() -> list[Processor]:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def _text(*, colors: bool) -> list[Processor]:
    return [
        _escape_control_characters,
        structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback),
    ]


def _escape_control_characters(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep a value that a peer chose from starting a new line or steering the terminal."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = value.encode("unicode_escape").decode("ascii")
    return event
