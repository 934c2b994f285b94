"""What a rule for end users' tokens may say, and what `load` says about each thing that is wrong."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from citadel.config.loader import load
from citadel.errors import InvalidArgument, Reason
from citadel.jwt.jwks import KeySet
from citadel.jwt.places import DEFAULT_PLACES, Place
from citadel.jwt.settings import JwtRule, check_together
from citadel.jwt.validator import EndUserValidator
from tests.clock import FakeClock
from tests.end_users import InlineRing, SigningKey, jwks, rule

KEY: Final = SigningKey.p256()
ISSUER: Final = "issuer: https://issuer.test\n"


def loaded(tmp_path: Path, text: str) -> JwtRule:
    path = tmp_path / "rule.yaml"
    path.write_text(text)
    return load(path, JwtRule)


def test_the_least_is_an_issuer() -> None:
    least = JwtRule.model_validate({"issuer": "https://issuer.test"})
    assert (least.jwks, least.jwksUri, least.timeout) == (None, None, timedelta(seconds=5))
    assert (least.forwardOriginalToken, least.allowPrivateAddresses, least.output_headers) == (False, False, ())
    assert least.places == DEFAULT_PLACES


def test_every_field_is_read_from_yaml(tmp_path: Path) -> None:
    text = (
        ISSUER
        + """\
audiences: [bookinfo]
jwksUri: https://issuer.test/keys
fromHeaders: [{name: X-Jwt, prefix: "Token "}, {name: authorization}]
fromParams: [token]
fromCookies: [session]
forwardOriginalToken: true
outputPayloadToHeader: X-Payload
outputClaimToHeaders: [{header: X-End-User, claim: sub}, {header: x-group, claim: realm.group}]
timeout: 2s
spaceDelimitedClaims: [groups]
allowPrivateAddresses: true
caFile: issuer-ca.pem
"""
    )
    read = loaded(tmp_path, text)
    assert read.places == (
        Place("header", "x-jwt", "Token "),
        Place("header", "authorization"),
        Place("query", "token"),
        Place("cookie", "session"),
    )
    assert read.output_headers == ("x-payload", "x-end-user", "x-group")
    assert (read.forwardOriginalToken, read.allowPrivateAddresses) == (True, True)
    assert (read.timeout, read.caFile) == (timedelta(seconds=2), tmp_path / "issuer-ca.pem")


@pytest.mark.parametrize("form", ["text", "mapping", "flow"])
def test_keys_stand_in_the_rule_as_text_or_as_yaml(tmp_path: Path, form: str) -> None:
    document = json.dumps(jwks(KEY))
    member = "\n".join(f"      {name}: {value}" for name, value in KEY.jwk().items())
    written = {
        "text": f"jwks: '{document}'",
        "mapping": f"jwks:\n  keys:\n    -\n{member}",
        "flow": f"jwks: {document}",
    }
    read = loaded(tmp_path, ISSUER + written[form])
    assert isinstance(read.jwks, KeySet)
    assert [each.key for each in read.jwks.keys] == [KEY.key.public_key()]


BAD: list[tuple[str, str]] = [
    ("audiences: [a]", "missing key 'issuer'"),
    ("issuer: ''", "'issuer' is wrong"),
    ("issuer:", "'issuer' has no value"),
    (ISSUER + "audience: [a]", "unknown key 'audience'"),
    (ISSUER + "from_headers: []", "did you mean 'fromHeaders'"),
    (ISSUER + "audiences: ['']", "at least 1 character"),
    (ISSUER + "jwks: {keys: []}", "no key can be used"),
    (ISSUER + "jwks: {key: []}", "`keys` is missing"),
    (ISSUER + "jwks: '{'", "not JSON"),
    (ISSUER + "jwks: x", "not JSON"),
    (ISSUER + "jwks: " + json.dumps(jwks(KEY.jwk(d="AA"))), "holds a private key"),
    (ISSUER + "jwks: " + json.dumps(jwks(KEY, {"kty": "oct", "k": "AA"})), "holds a private key"),
    (ISSUER + "jwksUri: https://a.test/\njwks: " + json.dumps(jwks(KEY)), "exclude each other"),
    (ISSUER + "jwksUri: http://a.test/", "begins with http://"),
    (ISSUER + "jwksUri: ftp://a.test/", "not an https URL"),
    (ISSUER + "jwksUri: file:///etc/passwd", "not an https URL"),
    (ISSUER + "jwksUri: https:///keys", "not an https URL"),
    (ISSUER + "jwksUri: https://user@a.test/", "holds a user"),
    (ISSUER + "jwksUri: https://user:word@a.test/", "no key or join string belongs here"),
    (ISSUER + "jwksUri: https://a.test/#x", "a fragment"),
    (ISSUER + 'jwksUri: "https://a.test/ x"', "a space"),
    (ISSUER + 'jwksUri: "https://[::1"', "Invalid IPv6"),
    ("issuer: accounts@a.test", "name jwks or jwksUri"),
    ("issuer: http://a.test", "begins with http://"),
    ('issuer: "https://a.test\\u200b"', "cannot be seen"),
    (ISSUER + "fromHeaders: [{name: 'a b'}]", "not the name of a header"),
    (ISSUER + "fromHeaders: [{name: ':path'}]", "not the name of a header"),
    (ISSUER + "fromHeaders: [{prefix: x}]", "missing key"),
    (ISSUER + "fromHeaders: [{name: a, prefixes: x}]", "fromHeaders"),
    (ISSUER + "fromHeaders: [{name: Cookie}]", "named in fromCookies"),
    (ISSUER + "fromHeaders: [{name: host}]", "no token is looked for"),
    (ISSUER + "fromParams: ['']", "at least 1 character"),
    (ISSUER + "fromCookies: ['a b']", "not the name of a cookie"),
    (ISSUER + "fromCookies: ['a;b']", "not the name of a cookie"),
    (ISSUER + 'outputPayloadToHeader: "a\\r\\nb"', "not the name of a header"),
    (ISSUER + "outputPayloadToHeader: ''", "not the name of a header"),
    (ISSUER + "outputClaimToHeaders: [{header: x-a}]", "missing key"),
    (ISSUER + "outputClaimToHeaders: [{header: x-a, claim: ''}]", "at least 1 character"),
    (ISSUER + "outputClaimToHeaders: [{header: x-a, claim: a}, {header: X-A, claim: b}]", "x-a is written twice"),
    (ISSUER + "outputPayloadToHeader: x-a\noutputClaimToHeaders: [{header: x-a, claim: a}]", "x-a is written twice"),
    (ISSUER + "outputPayloadToHeader: x_user", "others are mistaken for these"),
    (ISSUER + "outputClaimToHeaders: [{header: x.user, claim: sub}]", "others are mistaken for these"),
    (ISSUER + "fromParams: [a b]", "that proxies can take out"),
    (ISSUER + "fromParams: ['a%5F']", "that proxies can take out"),
    (ISSUER + "timeout: 0s", "above 0s"),
    (ISSUER + "timeout: 61s", "60s at most"),
    (ISSUER + "timeout: 5", "not a duration"),
    (ISSUER + "forwardOriginalToken: maybe", "forwardOriginalToken"),
]


@pytest.mark.parametrize(("text", "why"), BAD)
def test_what_is_wrong_is_said_with_the_file(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        loaded(tmp_path, text)
    assert refused.value.reason is Reason.CONFIG_INVALID
    assert why in refused.value.message
    assert "rule.yaml" in refused.value.message


@pytest.mark.invariant(10)
@pytest.mark.parametrize("written", ["{}", "'{}'"])
def test_a_private_key_in_the_wrong_file_is_not_repeated(tmp_path: Path, written: str) -> None:
    text = '{"keys":[{"d":"SECRET","kty":"EC"}]}'
    with pytest.raises(InvalidArgument, match="holds a private key") as refused:
        loaded(tmp_path, ISSUER + "jwks: " + written.format(text))
    assert "SECRET" not in refused.value.message


def test_what_is_wrong_in_a_list_is_said_with_its_own_line(tmp_path: Path) -> None:
    text = ISSUER + "fromHeaders:\n  - name: x-jwt\n  - {name: x-other,\n     prefx: a}\n  - name: Cookie\n"
    with pytest.raises(InvalidArgument) as refused:
        loaded(tmp_path, text)
    unknown, wrong = refused.value.message.splitlines()
    assert unknown.startswith(f"{tmp_path}/rule.yaml:5: unknown key 'fromHeaders[1].prefx'")
    assert wrong.startswith(f"{tmp_path}/rule.yaml:6: 'fromHeaders[2].name' is wrong (value 'Cookie')")


@pytest.mark.parametrize(
    "header",
    [
        *("Host", "authorization", "Cookie", "TE", "Connection", "Transfer-Encoding", "Content-Length", "Upgrade"),
        *("X-Forwarded-Client-Cert", "x-forwarded-for", "x-envoy-original-path", "Proxy-Authorization", "Forwarded"),
        *("Sec-Fetch-Site", "Access-Control-Request-Method", "Origin", "X-Real-IP", "X-Forwarded", "X-Forwarded-User"),
        *("X-Original-URL", "X-Rewrite-URL", "X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"),
        *("X-SSL-Client-Verify", "SSL-Client-Cert", "X-Client-Cert", "grpc-timeout", "Content-Range", "Content-Type"),
        *("Range", "If-Match", "Accept-Encoding"),
    ],
)
def test_headers_that_others_rely_on_are_never_written(header: str) -> None:
    for fields in ({"outputPayloadToHeader": header}, {"outputClaimToHeaders": [{"header": header, "claim": "sub"}]}):
        with pytest.raises(ValueError, match="others rely on"):
            rule(KEY, **fields)


def test_private_addresses_may_be_asked_without_tls_where_that_is_allowed() -> None:
    JwtRule.model_validate({"issuer": "http://127.0.0.1:9000", "allowPrivateAddresses": True})


OTHER: Final[dict[str, Any]] = {"issuer": "https://other.test"}


def _after(prefix: str) -> JwtRule:
    """Takes tokens from one header, after this."""
    return rule(KEY, fromHeaders=[{"name": "X-Jwt", "prefix": prefix}])


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ((rule(KEY), rule(KEY)), "two rules look for tokens of https://issuer.test in the header 'authorization'"),
        ((rule(KEY, fromCookies=["a", "b"]), rule(KEY, fromCookies=["b"])), "the cookie 'b'"),
        (
            (rule(KEY, outputPayloadToHeader="x-a"), rule(KEY, outputPayloadToHeader="X-A", **OTHER)),
            "write the header x-a",
        ),
        *(
            (
                (_after("Bearer "), rule(KEY, fromHeaders=[{"name": "X-Jwt", "prefix": prefix}], **OTHER)),
                "looked for twice",
            )
            for prefix in ("bearer ", "Bearer", "BEARER  ", "B", "", "Bearer x")
        ),
        (
            (rule(KEY, fromParams=["token"]), rule(KEY, fromParams=["Token"], **OTHER)),
            "parameter 'token' and in the qu",
        ),
        ((rule(KEY, fromCookies=["a", "A"]),), "looked for twice, in the cookie 'a' and in the cookie 'A'"),
        ((rule(KEY, outputPayloadToHeader="x-a", fromHeaders=[{"name": "X-A"}]),), "x-a is written, and looked into"),
        ((rule(KEY, outputPayloadToHeader="x-a"), rule(KEY, fromHeaders=[{"name": "x-a"}], **OTHER)), "looked into"),
    ],
)
def test_rules_that_contradict_each_other_are_refused(rules: tuple[JwtRule, ...], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_together(rules)
    with pytest.raises(ValueError, match=why):
        EndUserValidator(rules, keys=InlineRing(), clock=FakeClock())


def test_rules_that_fit_together() -> None:
    check_together(
        (rule(KEY), rule(KEY, **OTHER), rule(KEY, fromHeaders=[{"name": "authorization", "prefix": "JWT "}]))
    )
    check_together((_after("Bearer "), _after("BearerX "), _after("Token=")))
    check_together((rule(KEY, fromParams=["a"], fromCookies=["A"], fromHeaders=[{"name": "a"}]),))
