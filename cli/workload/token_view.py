"""A token as people and programs are shown it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from citadel.claims import audiences, check_times, moment_of, text
from citadel.errors import CitadelError, Unauthenticated
from citadel.jws import Jws
from cli.admin.tables import moment, moment_and_distance

_REGISTERED: Final = ("iss", "sub", "aud", "exp", "nbf", "iat", "jti")


def problem_of(jws: Jws, now: datetime) -> str | None:
    """What is wrong with it for everybody, as far as it shows without keys and audience."""
    try:
        check_times(jws.claims, now=now, leeway=timedelta())
        audiences(jws.claims)
        text(jws.claims, "sub")
    except Unauthenticated as error:
        return error.message
    return None


def plain(jws: Jws) -> dict[str, Any]:
    """Header, claims and times, for programs."""
    return {
        "header": {"alg": jws.algorithm, "kid": jws.key_id or None, "typ": jws.token_type},
        "claims": dict(jws.claims),
        **{f"{name}_at": _moment(jws.claims, claim) for name, claim in (("issued", "iat"), ("expires", "exp"))},
    }


def _moment(claims: Mapping[str, Any], name: str) -> str | None:
    try:
        found = moment_of(claims, name)
    except CitadelError:
        return None
    return None if found is None else moment(found)


def fields(jws: Jws, now: datetime) -> Sequence[tuple[str, object]]:
    """The same, for people."""
    claims = jws.claims
    others = [(f"claim {name}", _shown(value)) for name, value in claims.items() if name not in _REGISTERED]
    return (
        ("subject", _shown(claims.get("sub"))),
        ("audience", _shown(claims.get("aud"))),
        ("issuer", _shown(claims.get("iss"))),
        ("issued", _time(claims, "iat", now)),
        ("not before", _time(claims, "nbf", now)),
        ("expires", _time(claims, "exp", now)),
        ("id", _shown(claims.get("jti"))),
        ("algorithm", jws.algorithm),
        ("key id", jws.key_id),
        ("type", jws.token_type),
        *others,
    )


def _time(claims: Mapping[str, Any], name: str, now: datetime) -> object:
    try:
        found = moment_of(claims, name)
    except CitadelError as error:
        return f"{_shown(claims[name])}: {error.message}"
    return None if found is None else moment_and_distance(found, now)


def _shown(value: object) -> object:
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return value
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
