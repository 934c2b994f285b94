"""What a proxy changes in a request before it passes it on, once it is known whose it is.

Headers that tell of an end user are removed from every request, since a stranger may have written them, and written
anew from the token that was believed. The token itself goes no further, unless its rule says so.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from citadel.jwt.places import Place, without_cookies
from citadel.jwt.settings import JwtRule
from citadel.jwt.validator import Verified
from citadel.request import HttpRequest

_MISSING: Final = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Headers in lowercase, none both set and removed; parameters of the query by their decoded names."""

    set_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    remove_headers: tuple[str, ...] = ()
    remove_query_parameters: tuple[str, ...] = ()


def changes(rules: Sequence[JwtRule], request: HttpRequest, verified: Verified | None) -> Changes:
    """What is to be changed in `request`, which `verified` is the end user of; None where it has none.

    `rules` are all of the policy, since a header of any of them may be forged. In a CORS preflight, which nobody
    checks, tokens are removed too.
    """
    to_set = dict(_written(verified)) if verified is not None else {}
    to_remove = [header for rule in rules for header in rule.output_headers]
    gone = _places_to_clear(rules, request, verified)
    to_remove += [place.name for place in gone if place.kind == "header"]
    if cookies := {place.name for place in gone if place.kind == "cookie"}:
        rest = without_cookies(request.headers.get("cookie", ""), cookies)
        if rest:
            to_set["cookie"] = rest
        else:
            to_remove.append("cookie")
    return Changes(
        set_headers=to_set,
        remove_headers=tuple(name for name in dict.fromkeys(to_remove) if name not in to_set),
        remove_query_parameters=tuple(place.name for place in gone if place.kind == "query"),
    )


def _places_to_clear(rules: Sequence[JwtRule], request: HttpRequest, verified: Verified | None) -> list[Place]:
    if verified is not None:
        return [found.place for found in verified.found if not found.rule.forwardOriginalToken]
    places = dict.fromkeys(place for rule in rules for place in rule.places)
    return [place for place in places if place.values(request)]


def _written(verified: Verified) -> Iterator[tuple[str, str]]:
    rule, claims = verified.rule, verified.token.claims
    if rule.outputPayloadToHeader is not None:
        yield rule.outputPayloadToHeader, verified.token.encoded_payload
    for each in rule.outputClaimToHeaders:
        value = _header_value(_claim(claims, each.claim))
        if value is not None:
            yield each.header, value


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """A claim of this very name first: many are URLs. Then the dots go down into objects, as in Istio."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for name in path.split("."):
        value = value.get(name, _MISSING) if isinstance(value, Mapping) else _MISSING
    return value


def _header_value(value: Any) -> str | None:
    """As Envoy writes claims into headers; None for what no header can hold unchanged.

    A control character could end the header. Spaces at the ends are cut off on the way, and what is not ASCII is read
    differently by different programs: either could make one user's name another's.
    """
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return json.dumps(value)
        case list() | dict():
            written = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
            return base64.b64encode(written.encode("utf-8")).decode("ascii")
        case str() if value and value.isascii() and value.isprintable() and value == value.strip():
            return value
        case _:
            return None
