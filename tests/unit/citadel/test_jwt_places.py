"""Where tokens are found in a request, and where they are not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from citadel.errors import Reason, Unauthenticated
from citadel.jwt.places import DEFAULT_PLACES, Place, without_cookies
from citadel.jwt.validator import EndUserValidator, is_preflight
from citadel.request import HttpRequest
from tests.clock import FakeClock
from tests.end_users import InlineRing, SigningKey, request, rule

BEARER, QUERY = DEFAULT_PLACES
CUSTOM = Place("header", "x-jwt", "Token=")
BARE = Place("header", "x-jwt")
COOKIE = Place("cookie", "session")
PREFLIGHT = {"origin": "https://web.test", "access-control-request-method": "GET"}


@pytest.mark.parametrize(
    ("place", "asked", "found"),
    [
        (BEARER, request(), []),
        (BEARER, request({"authorization": "Bearer T"}), ["T"]),
        (BEARER, request({"authorization": "bearer T"}), ["T"]),
        (BEARER, request({"authorization": "BEARER    T"}), ["T"]),
        (BEARER, request({"authorization": "Bearer\tT"}), ["T"]),
        (BEARER, request({"authorization": "  Bearer T  "}), ["T"]),
        (BEARER, request({"authorization": "Bearer"}), [""]),
        (BEARER, request({"authorization": "Bearer "}), [""]),
        (BEARER, request({"authorization": "BearerT"}), []),
        (BEARER, request({"authorization": "T"}), []),
        (BEARER, request({"authorization": "Basic Bearer T"}), []),
        (BEARER, request({"authorization": "Digest a=b, realm=Bearer"}), []),
        (BEARER, request({"authorization": ""}), []),
        (BEARER, request({"authorization": "Bearer T T"}), ["T T"]),
        (BEARER, request({"authorization": "Bearer T,Bearer U"}), ["T", "U"]),
        (BEARER, request({"authorization": "Basic X, Bearer T"}), ["", "T"]),
        (CUSTOM, request({"x-jwt": "Token=T"}), ["T"]),
        (CUSTOM, request({"x-jwt": "token= T"}), ["T"]),
        (CUSTOM, request({"x-jwt": "T"}), []),
        (BARE, request({"x-jwt": "T"}), ["T"]),
        (BARE, request({"x-jwt": ""}), [""]),
        (BARE, request({"x-jwt": "Bearer T"}), ["Bearer T"]),
        (BARE, request({"x-jwt": "T,U"}), ["T", "U"]),
        (QUERY, request(path="/access_token=T"), []),
        (QUERY, request(path="/?access_token=T"), ["T"]),
        (QUERY, request(path="/a?b=c&access_token=T&d"), ["T"]),
        (QUERY, request(path="/?access_token=T%2E"), ["T."]),
        (QUERY, request(path="/?access%5Ftoken=T"), []),
        (QUERY, request(path="/?access_token=T;access_token=U"), ["T;access_token=U"]),
        (QUERY, request(path="/?access_token"), [""]),
        (QUERY, request(path="/?access_token="), [""]),
        (QUERY, request(path="/?Access_token=T&xaccess_token=U"), []),
        (QUERY, request(path="/?a=?access_token=T"), []),
        (QUERY, request(path="/?access_token=T&access_token=U"), ["T", "U"]),
        (COOKIE, request({"cookie": "session=T"}), ["T"]),
        (COOKIE, request({"cookie": 'a=b; session="T" ;c'}), ["T"]),
        (COOKIE, request({"cookie": " session = T "}), ["T"]),
        (COOKIE, request({"cookie": "Session=T; xsession=U; a=session=V"}), []),
        (COOKIE, request({"cookie": "session"}), [""]),
        (COOKIE, request({"cookie": "session=T;session=U"}), ["T", "U"]),
        (COOKIE, request({"cookie": "a=b,session=U"}), ["U"]),
    ],
)
def test_what_stands_in_a_place(place: Place, asked: HttpRequest, found: list[str]) -> None:
    assert place.values(asked) == found


OTHER_SPELLINGS = [
    request(path="/?access%5Ftoken=T"),
    request(path="/?a=b&%61ccess_token"),
    request(path="/?Access_Token=T"),
    request(path="/?acce%C5%BFs_token=T"),
    request(path="/?a=1;access_token=T"),
    request(path="/?;access_token=T"),
    request(path="/?access_token=T;access_token=U"),
    request(path="/?+access_token=T"),
    request(path="/?access_token%20=T"),
    request(path="/?access_token=T&access%5ftoken=U"),
    request({"cookie": "Session=T"}),
    request({"cookie": "a=b,SESSION=T"}),
    request({"cookie": "s%65ssion=T"}),
    request({"cookie": "session=T; Session=U"}),
]


@pytest.mark.parametrize("asked", OTHER_SPELLINGS, ids=lambda asked: asked.headers.get("cookie", asked.path))
@pytest.mark.parametrize("preflight", [False, True])
async def test_what_others_may_read_as_a_token_is_refused_where_a_proxy_cannot_take_it_out(
    asked: HttpRequest, *, preflight: bool
) -> None:
    key = SigningKey.p256()
    validator = EndUserValidator(
        [rule(key, fromParams=["access_token"], fromCookies=["session"])], keys=InlineRing(), clock=FakeClock()
    )
    good = key.token()
    headers = {name: value.replace("T", good) for name, value in asked.headers.items()}
    spelled = request({**headers, **(PREFLIGHT if preflight else {})}, path=asked.path.replace("=T", f"={good}"))
    with pytest.raises(Unauthenticated, match="another spelling") as refused:
        await validator.check(replace(spelled, method="OPTIONS" if preflight else "GET"))
    assert refused.value.reason is Reason.JWT_MALFORMED


@pytest.mark.parametrize(
    "asked",
    [
        request(
            path="/access%5Ftoken=T?a=access%5Ftoken&xaccess_token=T;b=Access_token&my;access_tokens=T&accesstoken"
        ),
        request({"cookie": "xsession=T; a=Session; sessions=T", "session": "T", "Access_token": "T"}),
    ],
)
async def test_other_names_are_no_spellings_of_a_place(asked: HttpRequest) -> None:
    key = SigningKey.p256()
    places = {"fromParams": ["access_token"], "fromCookies": ["session"]}
    validator = EndUserValidator([rule(key, **places)], keys=InlineRing(), clock=FakeClock())
    assert await validator.check(asked) is None


@pytest.mark.parametrize(
    ("header", "rest"),
    [
        ("session=T", ""),
        ("a=b; session=T; c=d", "a=b; c=d"),
        ("a=b;session=T;c=d", "a=b; c=d"),
        (" session = T ", ""),
        ('a="x; session=T', 'a="x'),
        ("a=1,2; session=T", "a=1,2"),
        ("a=1,session=T", "a=1"),
        ("session=T; session=U; ", ""),
        ("Session=T; xsession=U", "Session=T; xsession=U"),
    ],
)
def test_a_cookie_is_taken_out_and_the_others_stay(header: str, rest: str) -> None:
    assert without_cookies(header, {"session"}) == rest
    assert not COOKIE.values(request({"cookie": rest}))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (request(PREFLIGHT, method="OPTIONS"), True),
        (request(PREFLIGHT, method="GET"), False),
        (request(PREFLIGHT, method="options"), False),
        (request({**PREFLIGHT, "origin": ""}, method="OPTIONS"), False),
        (request({"origin": "https://web.test"}, method="OPTIONS"), False),
        (request({"access-control-request-method": "GET"}, method="OPTIONS"), False),
    ],
)
async def test_a_preflight_is_not_judged(asked: HttpRequest, *, expected: bool) -> None:
    assert is_preflight(asked) is expected
    bad = request({**asked.headers, "authorization": "Bearer bad"}, method=asked.method)
    validator = EndUserValidator([rule(SigningKey.p256())], keys=InlineRing(), clock=FakeClock())
    if expected:
        assert await validator.check(bad) is None
    else:
        with pytest.raises(Exception, match="parts"):
            await validator.check(bad)


@pytest.mark.parametrize(
    "asked",
    [
        request(),
        request({"authorization": "Basic amFzb246eA=="}),
        request({"x-jwt": "bad", "cookie": "access_token=bad"}),
        request(path="/access_token=bad"),
    ],
)
async def test_a_token_that_is_not_there_passes(asked: HttpRequest) -> None:
    validator = EndUserValidator([rule(SigningKey.p256())], keys=InlineRing(), clock=FakeClock())
    assert await validator.check(asked) is None


async def test_named_places_take_the_place_of_the_default_ones() -> None:
    key = SigningKey.p256()
    validator = EndUserValidator([rule(key, fromCookies=["session"])], keys=InlineRing(), clock=FakeClock())
    ignored = request({"authorization": "Bearer bad"}, path="/?access_token=bad")
    assert await validator.check(ignored) is None
    assert await validator.check(request({"cookie": f"session={key.token()}"})) is not None
