"""What nobody expected: an error as any other for those who wait for it, and no end of work that is to go on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from citadel.errors import CitadelError, Reason

# What asks whoever runs to end. All else is a fault: what is written in Rust raises its panics past `Exception`.
ASKS_TO_END: Final = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)

_log = structlog.get_logger(__name__)


@contextmanager
def nothing_unexpected(what: str, *, kind: type[CitadelError] = CitadelError) -> Iterator[None]:
    """Whatever is raised within is a `CitadelError`; what was none is one of `kind`, and logged with its trace.

    What it says is not repeated to people: it can hold what a stranger wrote, or a secret.
    """
    try:
        yield
    except (CitadelError, *ASKS_TO_END):
        raise
    except BaseException as error:
        _log.exception("work met with something unexpected", what=what)
        raise kind(Reason.INTERNAL, f"the server's own fault, {type(error).__name__}: see its log") from error
