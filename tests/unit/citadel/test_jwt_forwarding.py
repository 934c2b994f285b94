"""What a proxy changes in a request before it passes it on."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

import pytest

from citadel.jwt.forwarding import Changes, changes
from citadel.jwt.settings import JwtRule
from citadel.jwt.validator import EndUserValidator
from citadel.request import HttpRequest
from tests.clock import FakeClock
from tests.end_users import InlineRing, SigningKey, bearer, request, rule

KEY: Final = SigningKey.p256()
OTHER: Final = rule(KEY, issuer="https://other.test", outputClaimToHeaders=[{"header": "X-Other", "claim": "sub"}])


async def changed(asked: HttpRequest, *rules: JwtRule) -> Changes:
    validator = EndUserValidator(rules, keys=InlineRing(), clock=FakeClock())
    return changes(rules, asked, await validator.check(asked))


async def written(value: Any, *, claim: str = "c", path: str = "c") -> str | None:
    """What stands in a header for a claim of this value; None where the header is removed instead."""
    told = rule(KEY, outputClaimToHeaders=[{"header": "X-C", "claim": path}])
    result = await changed(bearer(KEY.token(**{claim: value})), told)
    assert ("x-c" in result.set_headers) is ("x-c" not in result.remove_headers)
    return result.set_headers.get("x-c")


async def test_claims_and_payload_are_written_and_the_token_goes_no_further() -> None:
    told = rule(KEY, outputPayloadToHeader="X-Payload", outputClaimToHeaders=[{"header": "x-end-user", "claim": "sub"}])
    token = KEY.token()
    result = await changed(bearer(token), told)
    assert result == Changes(
        set_headers={"x-payload": token.split(".")[1], "x-end-user": "jason"}, remove_headers=("authorization",)
    )
    assert "jason" not in repr(result)


async def test_what_a_stranger_wrote_is_removed_whether_there_is_a_token_or_not() -> None:
    told = rule(
        KEY, outputPayloadToHeader="x-payload", outputClaimToHeaders=[{"header": "X-End-User", "claim": "nick"}]
    )
    forged = {"x-payload": "forged", "x-end-user": "admin", "x-other": "admin", "x-mine": "kept"}
    assert await changed(request(forged), told, OTHER) == Changes(remove_headers=("x-payload", "x-end-user", "x-other"))
    with_token = await changed(request({**forged, "authorization": f"Bearer {KEY.token()}"}), told, OTHER)
    assert with_token.remove_headers == ("x-end-user", "x-other", "authorization")
    assert list(with_token.set_headers) == ["x-payload"]


async def test_an_original_token_is_left_where_the_rule_says_so() -> None:
    asked = request({"authorization": f"Bearer {KEY.token()}"}, path=f"/?access_token={KEY.token()}")
    assert await changed(asked, rule(KEY, forwardOriginalToken=True)) == Changes()
    assert await changed(asked, rule(KEY)) == Changes(
        remove_headers=("authorization",), remove_query_parameters=("access_token",)
    )


async def test_of_two_tokens_each_goes_by_its_own_rule() -> None:
    rules = (rule(KEY, forwardOriginalToken=True), rule(KEY, fromHeaders=[{"name": "X-Api"}]))
    asked = request({"authorization": f"Bearer {KEY.token()}", "x-api": KEY.token()})
    assert (await changed(asked, *rules)).remove_headers == ("x-api",)


@pytest.mark.parametrize(("before", "after"), [("a=b; session={}; c", "a=b; c"), ("session={}", None)])
async def test_a_token_in_a_cookie_is_taken_out_of_it(before: str, after: str | None) -> None:
    result = await changed(request({"cookie": before.format(KEY.token())}), rule(KEY, fromCookies=["session"]))
    assert result.set_headers == ({"cookie": after} if after else {})
    assert result.remove_headers == (() if after else ("cookie",))


async def test_in_a_preflight_tokens_that_nobody_checked_are_removed() -> None:
    asked = request(
        {
            "origin": "https://web.test",
            "access-control-request-method": "GET",
            "authorization": "Bearer unchecked",
            "x-other": "forged",
        },
        method="OPTIONS",
        path="/?access_token=unchecked",
    )
    assert await changed(asked, rule(KEY, forwardOriginalToken=True), OTHER) == Changes(
        remove_headers=("x-other", "authorization"), remove_query_parameters=("access_token",)
    )


async def test_other_credentials_are_left_alone() -> None:
    assert await changed(request({"authorization": "Basic amFzb246eA=="}), rule(KEY)) == Changes()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("jason", "jason"),
        ('a b,c;d="e"', 'a b,c;d="e"'),
        (7, "7"),
        (-7, "-7"),
        (2**70, str(2**70)),
        (1.5, "1.5"),
        (True, "true"),
        (False, "false"),
    ],
)
async def test_texts_numbers_and_truths_are_written(value: Any, expected: str) -> None:
    assert await written(value) == expected


@pytest.mark.parametrize("value", [["a", "b"], {"k": ["v", 1, None]}, [], {}, ["ü\r\n"]])
async def test_lists_and_objects_are_written_as_json_in_base64(value: Any) -> None:
    text = await written(value)
    assert text is not None
    assert json.loads(base64.b64decode(text, validate=True)) == value


async def test_lists_are_written_as_envoy_does() -> None:
    assert await written(["a", "ü"]) == "WyJhIiwiw7wiXQ=="  # what Envoy 1.40 was seen to write


@pytest.mark.parametrize(
    "value",
    [
        *("a\r\nx-admin: true", "a\nb", "a\rb", "a\0b", "a\tb", "a\x7fb", "a\x0bb", "\x1b[2J"),
        *("J\u00fcrgen", "a\u2028b", "a\u010ab", "\u560a\u560d", "a\u00a0"),  # the last but one end in 0A and 0D
        *(" jason", "jason ", " ", ""),
        None,
    ],
)
async def test_what_no_header_can_hold_unchanged_is_not_written(value: Any) -> None:
    assert await written(value) is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("realm.name", "r"),
        ("realm.roles", "WyJhIl0="),
        ("realm.deep.down", "1"),
        ("realm.name.first", None),
        ("realm.missing", None),
        ("missing", None),
        ("realm..name", None),
        ("https://web.test/group", "g"),
        ("a.b", "literal"),
    ],
)
async def test_a_path_goes_down_into_objects(path: str, expected: str | None) -> None:
    claims = {
        "realm": {"name": "r", "roles": ["a"], "deep": {"down": 1}},
        "https://web.test/group": "g",
        "a.b": "literal",
        "a": {"b": "nested"},
    }
    told = rule(KEY, outputClaimToHeaders=[{"header": "x-c", "claim": path}])
    assert (await changed(bearer(KEY.token(**claims)), told)).set_headers.get("x-c") == expected


async def test_what_the_token_says_is_written_and_not_what_rules_split() -> None:
    told = rule(KEY, outputClaimToHeaders=[{"header": "x-scope", "claim": "scope"}])
    assert (await changed(bearer(KEY.token(scope="a b")), told)).set_headers == {"x-scope": "a b"}
