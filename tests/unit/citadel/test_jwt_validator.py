"""Which tokens of end users are believed, and which are refused and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from citadel.jwt.settings import JwtRule
from citadel.jwt.user import RequestPrincipal
from citadel.jwt.validator import EndUserValidator
from citadel.request import HttpRequest
from tests.clock import FakeClock
from tests.end_users import AUDIENCE, ISSUER, InlineRing, SigningKey, rule

KEY: Final = SigningKey.p256()
RULE: Final = rule(KEY, audiences=[AUDIENCE])


def validator(*rules: JwtRule) -> EndUserValidator:
    return EndUserValidator(rules or (RULE,), keys=InlineRing(), clock=FakeClock())


def request(headers: Mapping[str, str] | None = None, **fields: Any) -> HttpRequest:
    return HttpRequest(**{"method": "GET", "host": "web.test", "path": "/", **fields}, headers=headers or {})


def bearer(token: str) -> HttpRequest:
    return request({"authorization": f"Bearer {token}"})


async def test_a_good_token_names_the_end_user() -> None:
    token = KEY.token(azp="app", scope="read write")
    verified = await validator().check(bearer(token))
    assert verified is not None
    assert verified.user.principal == RequestPrincipal(ISSUER, "jason")
    assert verified.user.presenter == "app"
    assert verified.user.audiences == (AUDIENCE,)
    assert verified.user.claims["scope"] == ["read", "write"]
    assert verified.token.claims["scope"] == "read write"
    assert verified.token.encoded_payload == token.split(".")[1]
    assert verified.rule is RULE


async def test_no_token_is_nobody() -> None:
    assert await validator().check(request()) is None
