"""Policies for tests, made of the same document that people write."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from citadel.access.building import build
from citadel.access.document import PolicyFile
from citadel.access.problems import problems
from citadel.access.rules import Policy
from citadel.jwt.user import EndUser
from citadel.request import HttpRequest
from citadel.spiffe import SpiffeId

ISSUER: Final = "https://issuer.test"
WEB: Final = "spiffe://example.org/web"


def written(*authorization: dict[str, Any], issuers: Sequence[str] = (ISSUER,), **fields: Any) -> dict[str, Any]:
    """One policy `p` as it stands in a document; each of `authorization` is one entry, of one rule."""
    least = {
        "name": "p",
        "selectors": ["unix:uid:1"],
        "jwtRules": [{"issuer": each, "audiences": ["us"]} for each in issuers],
    }
    return {**least, **({"authorization": list(authorization)} if authorization else {}), **fields}


def policy(*authorization: dict[str, Any], issuers: Sequence[str] = (ISSUER,), **fields: Any) -> Policy:
    """The same, parsed."""
    document = PolicyFile.model_validate({"policies": [written(*authorization, issuers=issuers, **fields)]})
    assert list(problems(document)) == []
    return build(document).policies[0]


def allow(**rule: Any) -> dict[str, Any]:
    return _entry("ALLOW", rule)


def deny(**rule: Any) -> dict[str, Any]:
    return _entry("DENY", rule)


def source(**fields: Any) -> list[dict[str, Any]]:
    return [{"source": fields}]


def operation(**fields: Any) -> list[dict[str, Any]]:
    return [{"operation": fields}]


def when(key: str, *values: str) -> list[dict[str, Any]]:
    return [{"key": key, "values": list(values)}]


def when_not(key: str, *values: str) -> list[dict[str, Any]]:
    return [{"key": key, "notValues": list(values)}]


def request(path: str = "/", *, peer: str | None = WEB, **fields: Any) -> HttpRequest:
    named = {"method": "GET", "host": "reviews.test", **fields}
    return HttpRequest(path=path, peer=SpiffeId.parse(peer) if peer else None, **named)


def user(subject: str = "jason", *, issuer: str = ISSUER, **fields: Any) -> EndUser:
    claims = {"iss": issuer, **({"sub": subject} if subject else {}), **fields.pop("claims", {})}
    named = {"audiences": (), "presenter": "", "expires_at": datetime(2030, 1, 1, tzinfo=UTC), **fields}
    return EndUser(issuer=issuer, subject=subject, claims=claims, **named)


def _entry(action: str, rule: dict[str, Any]) -> dict[str, Any]:
    name = {"name": rule.pop("name")} if "name" in rule else {}
    return {**name, "action": action, "rules": [{key.removesuffix("_"): value for key, value in rule.items()}]}
