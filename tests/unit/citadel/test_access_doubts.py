"""What `authz lint` asks about: allowed, and yet often not what was meant."""

from __future__ import annotations

from typing import Any

import pytest

from citadel.access.document import PolicyFile
from citadel.access.doubts import doubts
from tests.policies import ISSUER, WEB, allow, deny, operation, source, when, written

OTHER = "https://other.test"
JASON = {"issuer": ISSUER, "subject": "jason"}
GROUP = when("request.auth.claims[group]", "admins")
SIGNED_IN = allow(from_=source(requestPrincipals=["*"]))


def found(*authorization: dict[str, Any], **fields: Any) -> list[str]:
    document = PolicyFile.model_validate({"policies": [written(*authorization, **fields)]})
    return [f"{'.'.join(map(str, at[2:]))} {words}" for at, words in doubts(document)]


@pytest.mark.parametrize(
    ("rule", "doubt"),
    [
        (allow(), "authorization.1.rules.0 has no conditions: it allows everything, to everybody"),
        (allow(from_=source(principals=["*/web"])), "from.0.source.principals has */web, which matches in every trust"),
        (allow(when=when("source.principal", "*/web")), "when.0.values has */web, which matches in every trust domain"),
        (allow(when=when("request.headers[x-a]", "1")), "when.0.values trusts the header x-a, which whoever sends the"),
        (allow(to=operation(hosts=["a.*"])), "to.0.operation.hosts has a.*, which matches names of others"),
        (
            allow(to=operation(hosts=["*a.test"])),
            "hosts has *a.test, which matches other names that end so: write *.a.",
        ),
        (
            allow(to=operation(paths=["/a*"])),
            "paths has /a*, which matches other names that begin so: write /a and /a/*",
        ),
        (deny(to=operation(paths=["/a"])), "paths has /a, and many programs serve the same as /a/: name /a/* as well"),
    ],
)
def test_one_doubt(rule: dict[str, Any], doubt: str) -> None:
    (one,) = found(SIGNED_IN, rule)
    assert doubt in one


@pytest.mark.parametrize(
    "rule",
    [
        allow(from_=source(principals=["*/web"], trustDomains=["example.org"])),
        allow(from_=source(principals=[WEB, "spiffe://example.org/*"])),
        allow(from_=source(principals=[WEB], notPrincipals=["*/bad"])),
        allow(to=operation(hosts=["*.a.test", "a.test"], paths=["/a", "/a/*", "*.css", "/a/{*}"])),
        allow(to=operation(paths=["/a/*"], notPaths=["/a/b*"])),
        deny(to=operation(paths=["/a", "/a/*"])),
        deny(to=operation(paths=["/a*"])),
        deny(to=operation(paths=["/a", "/a/"])),
        deny(to=operation(notPaths=["/a"])),
        deny(when=when("request.headers[x-a]", "1")),
    ],
)
def test_no_doubt(rule: dict[str, Any]) -> None:
    assert found(SIGNED_IN, rule) == []


@pytest.mark.parametrize(
    ("rule", "place"),
    [
        (allow(when=GROUP), "when.0.values"),
        (allow(from_=source(requestPrincipals=["*"]), when=GROUP), "when.0.values"),
        (allow(from_=source(requestPrincipals=[{"issuer": "*", "subject": "jason"}])), "source.requestPrincipals"),
        (allow(from_=[*source(requestPrincipals=[JASON]), *source(principals=[WEB])], when=GROUP), "when.0.values"),
        (allow(from_=source(requestPrincipals=["*"])), ""),
        (allow(from_=source(requestPrincipals=[JASON]), when=GROUP), ""),
        (allow(when=[*GROUP, *when("request.auth.claims[iss]", ISSUER)]), ""),
        (deny(when=GROUP), ""),
    ],
)
def test_with_several_issuers_each_can_write_every_claim(rule: dict[str, Any], place: str) -> None:
    one = found(SIGNED_IN, rule, issuers=[ISSUER, OTHER])
    assert found(SIGNED_IN, rule) == []
    assert [each for each in one if "every issuer" not in each] == []
    assert len(one) == bool(place)
    assert place in "".join(one)


def test_a_token_for_somebody_else() -> None:
    issuers = [{"issuer": ISSUER, "audiences": ["us"]}, {"issuer": OTHER}]
    (one,) = found(SIGNED_IN, jwtRules=issuers)
    assert one.startswith(
        "jwtRules.1 names no audiences: a token that its issuer made for any other program is believed"
    )


def test_denied_paths_in_other_letters() -> None:
    for path, more in (("/admin/*", "; /ADMIN/* too, which some programs serve as /admin/*"), ("/1/*", "")):
        (one,) = found(deny(from_=source(notRequestPrincipals=["*"]), to=operation(paths=[path])), default="ALLOW")
        assert one == f"default is ALLOW: whatever no DENY rule names is allowed, to everybody{more}"


def test_what_lets_everybody_in() -> None:
    no_users = deny(to=operation(paths=["/a/*"]))
    assert [each.partition(":")[0] for each in found(no_users, default="ALLOW")] == [
        "default is ALLOW",
        "jwtRules let requests without a token pass, and no rule asks who the end user is",
    ]


@pytest.mark.parametrize(
    ("selectors", "fields", "doubtful"),
    [
        (["unix:uid:1"], {"default": "ALLOW"}, True),
        (["unix:user:edge"], {"authorization": [allow(from_=source(principals=[WEB]))]}, True),
        (["unix:uid:1"], {"default": "DENY"}, False),
        (["unix:uid:2"], {"authorization": [allow(from_=source(principals=[WEB]))]}, False),
        (["unix:uid:1", "unix:gid:1"], {"authorization": [allow(from_=source(principals=[WEB]))]}, False),
    ],
)
def test_a_policy_for_whoever_lacks_something_of_another(
    selectors: list[str], fields: dict[str, Any], *, doubtful: bool
) -> None:
    strict = written(SIGNED_IN, name="strict", selectors=["unix:uid:1", "unix:user:edge"])
    document = PolicyFile.model_validate({"policies": [strict, {"name": "rest", "selectors": selectors, **fields}]})
    about = [words for at, words in doubts(document) if at == ("policies", 1, "selectors")]
    assert ["are some of 'strict' above" in each for each in about] == ([True] if doubtful else [])


@pytest.mark.parametrize(
    ("first", "fields", "doubtful"),
    [
        (written(SIGNED_IN), {"authorization": [allow(from_=source(principals=[WEB]))]}, True),
        (written(SIGNED_IN), {"default": "ALLOW"}, True),
        (written(SIGNED_IN), {"default": "DENY"}, False),
        (
            written(SIGNED_IN),
            {"authorization": [SIGNED_IN], "jwtRules": [{"issuer": ISSUER, "audiences": ["us"]}]},
            False,
        ),
        (
            {"name": "p", "selectors": ["unix:uid:1"], "default": "DENY"},
            {"authorization": [allow(from_=source(principals=[WEB]))]},
            False,
        ),
    ],
)
def test_a_policy_that_passes_on_tokens_which_another_checks(
    first: dict[str, Any], fields: dict[str, Any], *, doubtful: bool
) -> None:
    second = {"name": "second", "selectors": ["unix:uid:2"], **fields}
    document = PolicyFile.model_validate({"policies": [first, second]})
    about = [words for at, words in doubts(document) if at == ("policies", 1)]
    assert about == (["has no jwtRules, unlike 'p': it checks no token and passes it on"] if doubtful else [])
