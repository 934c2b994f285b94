"""For whom a token may be: the audiences that an agent may ask for (pure; the lines JWT-12, JWT-16, JWT-17)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from citadel.errors import InvalidArgument, Reason

MOST_AUDIENCES: Final = 16
# A SPIFFE ID may have 2048 bytes, and a token must fit into a header of HTTP.
MOST_BYTES: Final = 4096


def checked_audiences(audiences: Sequence[str]) -> tuple[str, ...]:
    """The audiences without those that stand twice, exactly as they were asked for: none is ever added.

    Raises `InvalidArgument` (`request_malformed`) for none, an empty one, one that cannot be printed, and too many.
    """
    wanted = tuple(dict.fromkeys(audiences))
    if not wanted:
        raise _malformed("a token must be for somebody: name an audience")
    if len(wanted) > MOST_AUDIENCES:
        raise _malformed(f"{len(wanted)} audiences for one token; {MOST_AUDIENCES} are allowed")
    for audience in wanted:
        if not audience or not audience.isprintable():
            raise _malformed(f"{audience[:50]!r} is not an audience")
    size = len(json.dumps(wanted))
    if size > MOST_BYTES:
        raise _malformed(f"the audiences of one token have {size} bytes as JSON; {MOST_BYTES} are allowed")
    return wanted


def _malformed(message: str) -> InvalidArgument:
    return InvalidArgument(Reason.REQUEST_MALFORMED, message)
