"""`citadel-cli authz`: policies are checked and explained without an agent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_users import ISSUER, SigningKey, jwks_bytes
from tests.issuer_server import IssuerServer, issuer_server, says
from tests.unit.cli.fake_admin import Program

KEY = SigningKey.p256()
POLICIES = """\
policies:
- name: productpage
  selectors: [unix:uid:1001]
  jwtRules:
  - issuer: https://issuer.test
    audiences: [bookinfo]
    jwksUri: http://127.0.0.1:PORT/keys
    allowPrivateAddresses: true
    fromCookies: [session]
    fromParams: [token]
    outputClaimToHeaders: [{header: x-end-user, claim: sub}]
  authorization:
  - name: no-admin
    action: DENY
    rules: [{to: [{operation: {paths: ["/admin*"]}}]}]
  - name: jason-reads
    action: ALLOW
    rules:
    - from:
      - source: {principals: ["spiffe://a.test/web"], requestPrincipals: [{issuer: "https://issuer.test", subject: j*}]}
      to: [{operation: {methods: [GET], hosts: [reviews.test]}}]
- name: ratings
  selectors: [unix:uid:1002]
  default: DENY
"""
ASKED = ("--peer", "spiffe://a.test/web", "--host", "Reviews.test:80", "--path", "/reviews//1")


@pytest.fixture
async def issuer() -> AsyncIterator[IssuerServer]:
    async with issuer_server() as server:
        server.answers["/keys"] = says(jwks_bytes(KEY))
        yield server


@pytest.fixture
def file(issuer: IssuerServer, tmp_path: Path) -> Path:
    path = tmp_path / "authz.yaml"
    path.write_text(POLICIES.replace("PORT", str(issuer.port)))
    return path


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(KEY.token() + "\n")
    return path


async def explained(program: Program, *arguments: str, exit_code: int = 0, stdin: bytes = b"") -> dict[str, Any]:
    result = await program("authz", "explain", *arguments, "-o", "json", stdin=stdin)
    assert result.exit_code == exit_code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


async def reason(program: Program, *arguments: str, exit_code: int) -> str:
    result = await program("authz", "explain", *arguments, "-o", "json")
    assert result.exit_code == exit_code, result.output
    return str(json.loads(result.stderr)["error"]["reason"])


async def test_the_rule_that_allows_and_what_goes_on_to_the_workload(
    program: Program, file: Path, token: Path, issuer: IssuerServer
) -> None:
    found = await explained(program, str(file), "--policy", "productpage", *ASKED, "--token", str(token))
    assert issuer.paths == ["/keys"]
    assert (found["policy"], found["allowed"], found["rule"]) == (
        "productpage",
        True,
        "productpage/jason-reads/rules[0]",
    )
    assert found["judged_as"] == {"method": "GET", "host": "reviews.test", "path": "/reviews/1"}
    assert (found["user"]["issuer"], found["user"]["subject"], found["user"]["verified"]) == (ISSUER, "jason", True)
    assert [(each["rule"], each["matches"]) for each in found["rules"]] == [
        ("productpage/no-admin/rules[0]", False),
        ("productpage/jason-reads/rules[0]", True),
    ]
    assert found["rules"][0]["failed"].startswith("to[0].operation.paths: the path is '/reviews/1', and must be")
    assert found["upstream"] == {
        "set_headers": {"x-end-user": "jason"},
        "remove_headers": [],
        "remove_query_parameters": ["token"],
    }


async def test_a_forged_header_goes_no_further(program: Program, file: Path, token: Path) -> None:
    shown = await program(
        *("authz", "explain", str(file), "--policy", "productpage", *ASKED, "--token", str(token)),
        *("--header", "X-End-User=root"),
    )
    assert shown.exit_code == 0
    assert "set header" in shown.stdout
    assert "root" not in shown.stdout
    assert token.read_text().strip() not in shown.output


async def test_without_a_token_somebody_is_asked_to_sign_in(program: Program, file: Path, issuer: IssuerServer) -> None:
    found = await explained(program, str(file), "--policy", "productpage", *ASKED, exit_code=6)
    assert (found["allowed"], found["reason"], found["user"]) == (False, "sign_in_required", None)
    assert found["upstream"] is None
    assert issuer.paths == []  # nobody's keys are needed
    table = await program("authz", "explain", str(file), "--policy", "productpage", *ASKED)
    assert table.exit_code == 6
    assert "refused: productpage/jason-reads/rules[0] may allow it to somebody who signed in" in table.stdout
    assert "(sign_in_required)" in table.stderr


async def test_the_rule_that_denies(program: Program, file: Path, token: Path) -> None:
    arguments = (str(file), "--policy", "productpage", "--path", "/x/../admin", "--token", str(token))
    found = await explained(program, *arguments, exit_code=6)
    assert (found["reason"], found["rule"]) == ("access_denied", "productpage/no-admin/rules[0]")


async def test_what_has_no_plain_form_has_no_rules(program: Program, file: Path) -> None:
    found = await explained(program, str(file), "--policy", "productpage", "--path", "/a%00", exit_code=6)
    assert (found["reason"], found["judged_as"], found["rules"]) == ("access_denied", None, [])


@pytest.mark.parametrize(
    ("selectors", "policy"),
    [(["unix:uid:1001", "unix:gid:5"], "productpage"), (["unix:uid:1002"], "ratings")],
)
async def test_a_policy_is_chosen_as_the_agent_does(
    program: Program, file: Path, selectors: list[str], policy: str
) -> None:
    chosen = [argument for each in selectors for argument in ("--selector", each)]
    assert (await explained(program, str(file), *chosen, exit_code=6))["policy"] == policy


async def test_a_policy_that_the_agent_may_choose_instead_is_named(program: Program, file: Path) -> None:
    path = "unix:path:/usr/bin/envoy"
    file.write_text(file.read_text().replace("[unix:uid:1001]", f"[unix:uid:1002, '{path}']"))
    asked = (str(file), "--selector", "unix:uid:1002")
    found = await explained(program, *asked, exit_code=6)
    assert (found["policy"], found["perhaps"]) == ("ratings", {"productpage": [path]})
    words = f"productpage comes first if the proxy has {path}, and an agent that cannot see that refuses (not_ready)"
    assert words in (await program("authz", "explain", *asked)).stdout
    other = await explained(program, *asked, "--selector", "unix:path:/other", exit_code=6)
    assert (other["policy"], other["perhaps"]) == ("ratings", {})
    found = await explained(program, *asked, "--selector", path, exit_code=6)
    assert (found["policy"], found["perhaps"]) == ("productpage", {})
    assert (await explained(program, str(file), "--policy", "ratings", exit_code=6))["perhaps"] == {}
    refused = await program("authz", "explain", str(file), "--selector", path)
    assert refused.exit_code == 6
    assert "productpage comes first if the proxy has unix:uid:1002" in refused.stderr


async def test_no_letter_of_a_token_can_turn_round_what_a_terminal_shows(
    program: Program, file: Path, token: Path
) -> None:
    token.write_text(KEY.token(name="\u202eevil\x9b", sub="j\u2066"))
    arguments = ("authz", "explain", str(file), "--policy", "productpage", *ASKED, "--token", str(token))
    for form in ("json", "table"):
        shown = await program(*arguments, "-o", form)
        assert shown.exit_code == 0
        assert shown.stdout.replace("\n", "").isprintable()
    assert json.loads((await program(*arguments, "-o", "json")).stdout)["user"]["claims"]["name"] == "\u202eevil\x9b"


async def test_a_policy_that_there_is_not(program: Program, file: Path) -> None:
    assert await reason(program, str(file), "--selector", "unix:uid:9", exit_code=6) == "no_policy"
    assert await reason(program, str(file), "--policy", "nobody", exit_code=4) == "no_policy"


async def test_keys_can_be_given(
    program: Program, file: Path, token: Path, tmp_path: Path, issuer: IssuerServer
) -> None:
    keys = tmp_path / "jwks.json"
    keys.write_bytes(jwks_bytes(KEY))
    arguments = (str(file), "--policy", "productpage", *ASKED, "--token", str(token), "--jwks", str(keys))
    assert (await explained(program, *arguments))["user"]["verified"] is True
    assert issuer.paths == []
    keys.write_bytes(jwks_bytes(SigningKey.p256()))
    assert await reason(program, *arguments, exit_code=6) == "jwt_bad_signature"
    keys.write_text("{}")
    assert await reason(program, *arguments, exit_code=3) == "jwks_malformed"


async def test_a_token_can_be_explained_whoever_signed_it_and_is_marked(
    program: Program, file: Path, token: Path, issuer: IssuerServer
) -> None:
    token.write_text(SigningKey.p256("other").token())
    arguments = (str(file), "--policy", "productpage", *ASKED, "--token", str(token))
    assert await reason(program, *arguments, exit_code=6) == "jwt_key_unknown"
    found = await explained(program, *arguments, "--unverified")
    assert (found["allowed"], found["user"]["verified"]) == (True, False)
    table = await program("authz", "explain", *arguments, "--unverified")
    assert "NOT VERIFIED: anybody can have written this token" in table.stdout
    assert issuer.paths == ["/keys"]


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"exp": 1}, "jwt_expired"),
        ({"aud": "other"}, "jwt_audience_mismatch"),
        ({"iss": "https://other.test"}, "jwt_issuer_unknown"),
        ({"header": {"typ": "logout+jwt"}}, "jwt_header_refused"),
    ],
)
async def test_all_but_the_signature_is_checked_of_an_unverified_token(
    program: Program, file: Path, token: Path, changes: dict[str, Any], refusal: str
) -> None:
    token.write_text(KEY.token(**changes))
    arguments = (str(file), "--policy", "productpage", "--token", str(token), "--unverified")
    assert await reason(program, *arguments, exit_code=6) == refusal


async def test_an_issuer_that_is_down_is_told_from_a_bad_token(
    program: Program, file: Path, token: Path, issuer: IssuerServer
) -> None:
    issuer.answers.clear()
    arguments = (str(file), "--policy", "productpage", "--token", str(token))
    assert await reason(program, *arguments, exit_code=7) == "jwks_unavailable"
    told = (await program("authz", "explain", *arguments)).stderr
    assert ("/keys answered 404" in told, "--jwks FILE" in told, "--unverified" in told) == (True, True, True)
    token.write_text("non.sense")
    assert await reason(program, *arguments, exit_code=6) == "jwt_malformed"


@pytest.mark.parametrize("written", ["", "s3cret", "Bearer a.b.c", '{"access_token": "a.b.c"}', "a.b.c\na.b.c"])
async def test_a_file_that_holds_no_token_is_named(program: Program, file: Path, token: Path, written: str) -> None:
    token.write_text(written)
    arguments = ("authz", "explain", str(file), "--policy", "productpage", "--token", str(token))
    shown = await program(*arguments)
    assert shown.exit_code == 6
    assert f"{token} holds no token (jwt_malformed)\n  try: write the token into it and nothing else" in shown.output
    assert not written or written not in shown.output


@pytest.mark.parametrize(
    ("rule", "found"),
    [("fromCookies: [session]", "the cookie 'session'"), ("fromHeaders: [{name: x-jwt}]", "the header 'x-jwt'")],
)
async def test_a_token_is_put_where_the_policy_looks(
    program: Program, file: Path, token: Path, rule: str, found: str
) -> None:
    file.write_text(file.read_text().replace("fromCookies: [session]\n    fromParams: [token]", rule))
    arguments = (str(file), "--policy", "productpage", *ASKED, "--token", "-", "--header", "cookie=a=b")
    shown = await explained(program, *arguments, stdin=token.read_bytes())
    assert shown["user"]["found_in"] == [found]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--policy", "productpage", "--selector", "unix:uid:1"],
        ["--policy", "productpage", "--unverified"],
        ["--policy", "productpage", "--header", "x"],
    ],
)
async def test_wrong_usage(program: Program, file: Path, arguments: list[str]) -> None:
    assert (await program("authz", "explain", str(file), *arguments)).exit_code == 2


async def test_lint_takes_what_an_agent_takes_and_warns(program: Program, file: Path) -> None:
    result = await program("authz", "lint", str(file))
    assert result.exit_code == 0
    assert result.stdout == f"{file}: valid; policies: 2, warnings: 0\n"
    file.write_text(file.read_text().replace('"spiffe://a.test/web"', '"*/web"'))
    result = await program("authz", "lint", str(file))
    assert result.exit_code == 0
    assert result.stdout.startswith(
        f"warning: {file}:20: 'policies[0].authorization[1].rules[0].from[0].source.princip"
    )
    plain = await program("-o", "json", "authz", "lint", str(file), "--strict")
    assert plain.exit_code == 3
    assert len(json.loads(plain.stdout)["warnings"]) == 1


async def test_lint_refuses_what_an_agent_refuses_with_the_lines(program: Program, file: Path) -> None:
    file.write_text(file.read_text().replace("[GET]", "[get]").replace("default: DENY", "defualt: DENY"))
    result = await program("authz", "lint", str(file))
    assert result.exit_code == 3
    assert result.stdout == ""
    first, second = result.stderr.splitlines()
    assert first.startswith(f"error: {file}:21: 'policies[0].authorization[1].rules[0].to[0].operation.methods[0]' is")
    assert second.startswith(f"{file}:24: unknown key 'policies[1].defualt' (value 'DENY'); did you mean 'default'?")
    plain = json.loads((await program("authz", "lint", str(file), "-o", "json")).stdout)
    assert plain["valid"] is False
    assert [line.removeprefix(f"{file}:")[:2] for line in plain["errors"]] == ["21", "24"]
