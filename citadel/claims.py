"""The registered claims of a token (RFC 7519 section 4.1), each of the type that it must have.

PyJWT would check them against the machine's clock alone; here the time is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from citadel.errors import CitadelError, Reason, Unauthenticated

DEFAULT_LEEWAY: Final = timedelta(seconds=10)  # between machines that keep time; JWT-20 asks for a small one


def check_times(claims: Mapping[str, Any], *, now: datetime, leeway: timedelta) -> datetime:
    """When the token ends, which it must say (JWT-19).

    Raises `Unauthenticated`: `jwt_expired` and `jwt_not_yet_valid` where it is not valid at `now`, with `leeway` on
    both sides; `jwt_malformed` for an `exp` that is missing, and an `exp`, `nbf` or `iat` that is not a number.
    """
    moment, slack = now.timestamp(), leeway.total_seconds()
    expires = numeric_date(claims, "exp")
    if expires is None:
        raise _malformed("the token has no exp")
    if expires + slack <= moment:
        raise Unauthenticated(Reason.JWT_EXPIRED, f"the token expired at {_shown(expires)}")
    begins = numeric_date(claims, "nbf")
    if begins is not None and begins - slack > moment:
        raise Unauthenticated(Reason.JWT_NOT_YET_VALID, f"the token is not valid before {_shown(begins)}")
    issued = numeric_date(claims, "iat")
    if issued is not None and issued - slack > moment:
        raise Unauthenticated(Reason.JWT_NOT_YET_VALID, f"the token was issued in the future, at {_shown(issued)}")
    return _moment(expires)


def audiences(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """What `aud` says, as one text or many (RFC 7519 section 4.1.3); empty where it is missing or null.

    Raises `Unauthenticated` (`jwt_malformed`) for anything else.
    """
    found = claims.get("aud")
    match found:
        case None:
            return ()
        case str():
            return (found,)
        case list() if all(isinstance(each, str) for each in found):
            return tuple(found)
        case _:
            raise _malformed("aud is neither text nor a list of texts")


def text(claims: Mapping[str, Any], name: str) -> str | None:
    """A claim that must be text where it is there at all. Raises `Unauthenticated` (`jwt_malformed`)."""
    value = claims.get(name)
    if value is not None and not isinstance(value, str):
        raise _malformed(f"{name} is not text")
    return value


def numeric_date(claims: Mapping[str, Any], name: str) -> float | None:
    """Seconds since 1970, as RFC 7519 section 2 has it. Raises `Unauthenticated` (`jwt_malformed`)."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _malformed(f"{name} is not a number")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise _malformed(f"{name} is not a time")
    return seconds


def moment_of(claims: Mapping[str, Any], name: str) -> datetime | None:
    """The moment that a claim names, None where it is missing. Raises `Unauthenticated` (`jwt_malformed`)."""
    seconds = numeric_date(claims, name)
    return None if seconds is None else _moment(seconds)


def _moment(seconds: float) -> datetime:
    """The latest one that there is for what is later still: nothing is refused for living long."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.max.replace(tzinfo=UTC)


def _shown(seconds: float) -> str:
    return _moment(seconds).isoformat(timespec="seconds")


def _malformed(message: str) -> CitadelError:
    return Unauthenticated(Reason.JWT_MALFORMED, message)
