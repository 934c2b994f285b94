"""What may stand in a policy document, and the line and the advice for each thing that may not."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, get_args

import pytest
import yaml

from citadel.access.document import PolicyFile
from citadel.access.loading import check_policies, load_policies
from citadel.access.rules import Action
from citadel.config.types import Settings
from citadel.errors import InvalidArgument, Reason
from citadel.selector import Selector

EXAMPLE: Final = Path(__file__).parents[3] / "deploy" / "authz.yaml"
GUIDE: Final = Path(__file__).parents[3] / "docs" / "end-users.md"
GOOD = """\
policies:
- name: web
  selectors: [unix:uid:1001]
  jwtRules:
  - issuer: https://issuer.test
    outputClaimToHeaders: [{header: x-end-user, claim: sub}]
  authorization:
  - name: readers
    action: ALLOW
    rules:
    - from:
      - source: {principals: ["spiffe://a.test/*"]}
"""
RULE = "    - "  # one more rule of `readers`, on line 13


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "authz.yaml"
    path.write_text(text)
    return path


def problems(tmp_path: Path, text: str) -> list[str]:
    path = write(tmp_path, text)
    with pytest.raises(InvalidArgument) as refused:
        load_policies(path)
    assert refused.value.reason is Reason.CONFIG_INVALID
    return [line.removeprefix(f"{path}:") for line in refused.value.message.splitlines()]


def test_a_good_one_is_parsed_once(tmp_path: Path) -> None:
    policies = load_policies(write(tmp_path, GOOD + RULE + "to: [{operation: {hosts: [A.Test]}}]\n"))
    assert policies.leeway == timedelta(seconds=10)
    (policy,) = policies.policies
    assert (policy.name, policy.default) == ("web", Action.DENY)
    assert [rule.name for rule in policy.rules] == ["web/readers/rules[0]", "web/readers/rules[1]"]
    assert [str(each) for each in policy.rules[1].operations[0][0].patterns] == ["a.test"]
    assert policy.jwt_rules[0].issuer == "https://issuer.test"


def test_the_first_policy_whose_selectors_a_caller_has_is_the_callers(tmp_path: Path) -> None:
    other = "{}- name: {}\n  selectors: [{}]\n  default: DENY\n"
    text = (
        "leeway: 30s\n"
        + other.format("policies:\n", "both", "unix:uid:1, unix:gid:2")
        + other.format("", "one", "unix:uid:1")
    )
    policies = load_policies(write(tmp_path, text))
    seen = {Selector.parse(each) for each in ("unix:uid:1", "unix:user:web")}
    assert policies.of(frozenset(seen)) is policies.named("one")
    assert policies.of(frozenset({*seen, Selector.parse("unix:gid:2")})) is policies.named("both")
    assert policies.of(frozenset()) is None
    assert policies.named("none") is None


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        # fields
        ("form: []", "13: unknown key 'policies[0].authorization[0].rules[1].form'; did you mean 'from'?"),
        ("from: [{source: {namespace: [x]}}]", "rules[1].from[0].source.namespace'; known here: principals, notPrin"),
        (
            "from: [{source: {namespaces: [x]}}]",
            "13: there is no key 'policies[0].authorization[0].rules[1].",
        ),
        ("from: [{source: {notServiceAccounts: [x]}}]", "of Istio's; name whole SPIFFE IDs under notPrincipals"),
        (
            "from: [{source: {ipBlocks: [10.0.0.0/8]}}]",
            "of Istio's; it knows peers by SPIFFE IDs alone: ",
        ),
        ("to: [{operation: {ports: ['80']}}]", "of Istio's; a policy holds at every port of its proxies"),
        ("to: [{operation: {puts: [/a]}}]", "operation.puts'; known here: hosts, notHosts, methods, notMethods, paths"),
        ("from: []", "rules[1].from' is wrong: an empty list is never met: leave it out, or name something"),
        ("from: [{source: {}}]", "from[0].source' is wrong: it names nothing, which everything matches"),
        ("from: [{source: }]", "from[0].source' is wrong (value ''): it names nothing, which everything matches"),
        ("from: [{}]", "missing key 'policies[0].authorization[0].rules[1].from[0].source'"),
        ("to: [{operation: {paths: []}}]", "operation.paths' is wrong: an empty list is never met"),
        ("to: [{operation: {paths: /a}}]", "operation.paths' is wrong (value '/a'): should be a list: write [/a]"),
        ("to: [{operation: {paths: '*'}}]", """operation.paths' is wrong (value '*'): should be a list: write ["*"]"""),
        ("from: {source: {principals: ['*']}}", "rules[1].from' is wrong: should be a list: begin each of its items"),
        ("to: [{operation: {paths: [{form: any, text: ''}]}}]", "operation.paths[0]' is wrong: is not text"),
        (
            "to: [{operation: {paths: ['']}}]",
            "operation.paths[0]' is wrong (value ''): is empty, which nothing matches",
        ),
        # peers
        ("from: [{source: {principals: [a.test/ns/x/sa/y]}}]", "in full, such as spiffe://a.test/ns/x/sa/y"),
        ("from: [{source: {principals: ['a.test/*']}}]", "in full, such as spiffe://a.test/*"),
        ("from: [{source: {principals: ['spiffe://a.t*']}}]", "behind the whole name of the trust domain, such as"),
        ("from: [{source: {principals: ['spiffe://*']}}]", "behind the whole name of the trust domain, such as"),
        ("from: [{source: {principals: ['spiffe://A.test/b']}}]", "trust domain 'A.test' has uppercase letters"),
        ("from: [{source: {principals: ['spiffe://a.test/b/']}}]", "has an empty path segment or a trailing slash"),
        ("from: [{source: {principals: ['spiffe://a.test//*']}}]", "has an empty path segment"),
        ("from: [{source: {principals: ['*/b/']}}]", "has an empty path segment or a trailing slash"),
        ("from: [{source: {principals: ['spiffe://a.test/*/b']}}]", "a * has a meaning at the beginning or at the end"),
        ("from: [{source: {principals: ['*b*']}}]", "a * has a meaning at the beginning or at the end only"),
        ("from: [{source: {trustDomains: ['a.t*']}}]", "whose name begins like that of another: write it in full"),
        ("from: [{source: {trustDomains: ['spiffe://a.test']}}]", "trust domain 'spiffe://a.test' has a port"),
        ("from: [{source: {principals: ['spiffe://a.test/*'], trustDomains: [b.test]}}]", "is in another trust domain"),
        ("when: [{key: source.principal, values: [a.test/b]}]", "'a.test/b': a SPIFFE ID is written in full"),
        # end users
        ("from: [{source: {requestPrincipals: [https://issuer.test/jason]}}]", "write {issuer: ..., subject: ...}"),
        ("from: [{source: {requestPrincipals: [jason]}}]", "of an issuer: write {issuer: ..., subject: jason}"),
        ("from: [{source: {requestPrincipals: [{subject: jason}]}}]", "missing key 'policies[0].authorization[0]"),
        (
            'from: [{source: {requestPrincipals: [{issuer: "", subject: a}]}}]',
            "requestPrincipals[0].issuer' is wrong (value ''): is empty, which nothing matches",
        ),
        (
            "from: [{source: {requestPrincipals: [{issuer: https://other.test, subject: a}]}}]",
            "requestPrincipals' names the issuer 'https://other.test', which is that of no jwtRule: there are https://is",
        ),
        ("when: [{key: 'request.auth.claims[iss]', values: [x]}]", "names the issuer 'x', which is that of no jwtRule"),
        ("when: [{key: request.auth.principal, values: [a/b]}]", "'a/b': write it as requestPrincipals of a source"),
        ("when: [{key: request.auth.principal, notValues: ['*']}]", "can never be met: "),
        (
            "from: [{source: {notRequestPrincipals: ['*']}}]",
            "notRequestPrincipals' can never be met: * is any, and who",
        ),
        ("from: [{source: {notPrincipals: ['*']}}]", "notPrincipals' can never be met: * is any, and who has none"),
        # what is asked for
        ("to: [{operation: {paths: [a]}}]", "no request that gets here has this path: the path does not begin with /"),
        ("to: [{operation: {paths: [//a]}}]", "no request has this path once it is normalised: write '/a'"),
        ("to: [{operation: {paths: [/a/../b]}}]", "no request has this path once it is normalised: write '/b'"),
        ("to: [{operation: {paths: [/a/./b]}}]", "no request has this path once it is normalised: write '/a/b'"),
        ("to: [{operation: {paths: ['/a?b=c']}}]", "no request has this path once it is normalised: write '/a'"),
        ("to: [{operation: {paths: [/a;b]}}]", "no request has this path once it is normalised: write '/a'"),
        ("to: [{operation: {paths: [/a%2Fb]}}]", "no request has this path once it is normalised: write '/a/b'"),
        ("to: [{operation: {paths: [/café]}}]", "no request has this path once it is normalised: write '/caf%C3%A9'"),
        (
            "to: [{operation: {paths: [/a%252Fb]}}]",
            "no request that gets here has this path: the path has something esc",
        ),
        ("to: [{operation: {paths: ['//a*']}}]", "once it is normalised: write it without escapes, queries, // and .."),
        ("to: [{operation: {paths: ['*//a']}}]", "once it is normalised: write it without escapes, queries, // and .."),
        ("to: [{operation: {paths: ['/a/*/b']}}]", "a * has a meaning at the beginning or at the end only"),
        ("to: [{operation: {paths: ['/{a}/b']}}]", "a template has {*} or {**} as whole segments and no other braces"),
        ("to: [{operation: {paths: ['/a{*}/b']}}]", "a template has {*} or {**} as whole segments and no other braces"),
        ("to: [{operation: {paths: ['/{**}/{*}']}}]", "nothing wild can stand behind {**}"),
        ("to: [{operation: {paths: ['//{*}']}}]", "once it is normalised: write it without escapes"),
        ("to: [{operation: {notPaths: ['*']}}]", "notPaths' can never be met: every request has one, and * is any"),
        (
            "to: [{operation: {paths: [/a], notPaths: ['/a*']}}]",
            "paths' can never be met: the same things are excluded",
        ),
        ("to: [{operation: {paths: ['/a/*'], notPaths: ['/a/*']}}]", "can never be met: the same things are excluded"),
        ("to: [{operation: {methods: [get]}}]", "methods are told apart by their case: write GET"),
        ("to: [{operation: {methods: [GTE]}}]", "no registered method of HTTP (RFC 9110 section 16.1.1)"),
        (
            "to: [{operation: {hosts: ['a.test:80']}}]",
            "without its port: write 'a.test' for every port of it, not '80'",
        ),
        ("to: [{operation: {hosts: ['a.test:*']}}]", "without its port: write 'a.test' for every port of it, not '*'"),
        ("to: [{operation: {hosts: [a.test.]}}]", "no request has this host: write 'a.test'"),
        ("to: [{operation: {hosts: [a@b]}}]", "the host is neither a name nor an address"),
        ("to: [{operation: {hosts: ['*.a/b']}}]", "no host looks like this"),
        # when
        (
            "when: [{key: request.auth.claim, values: [a]}]",
            "there is no such key; known are source.principal, request.",
        ),
        ("when: [{key: source.ip, values: [a]}]", "there is no such key"),
        ("when: [{key: request.auth.claims, values: [a]}]", "there is no such key"),
        ("when: [{key: 'request.auth.claims[]', values: [a]}]", "there is no such key"),
        ("when: [{key: 'request.auth.claims[a]b', values: [a]}]", "there is no such key"),
        ("when: [{key: 'request.headers[a][b]', values: [a]}]", "not the name of a header"),
        ("when: [{key: 'request.headers[:path]', values: [a]}]", "hosts, methods and paths belong into an operation"),
        ("when: [{key: 'request.headers[a]'}]", "when[0]' is wrong: it has neither values nor notValues"),
        ("when: [{key: 'request.headers[a]', values: []}]", "when[0].values' is wrong: an empty list is never met"),
        (
            "when: [{key: 'request.headers[a]', values: [a*b]}]",
            "'a*b': a * has a meaning at the beginning or at the en",
        ),
        (
            "when: [{key: 'request.headers[X-End-User]', values: [jason]}]",
            "anybody may have written it; ask for the cl",
        ),
    ],
)
def test_one_rule_that_is_wrong_gives_one_line(tmp_path: Path, rule: str, problem: str) -> None:
    (found,) = problems(tmp_path, GOOD + RULE + rule + "\n")
    assert found.startswith("13: ")
    assert problem in found


@pytest.mark.parametrize(
    ("changed", "to", "problem"),
    [
        ("web", "we b", "2: 'policies[0].name' is wrong (value 'we b'): a name has letters, digits,"),
        ("[unix:uid:1001]", "[]", "3: 'policies[0].selectors' is wrong: an empty list is never met: name something"),
        ("unix:uid:1001", "1001", "3: 'policies[0].selectors[0]' is wrong (value '1001'): selector '1001:' needs "),
        ("unix:uid:1001", "node:rack:a1", "is of nodes, and no caller has it"),
        (
            "unix:uid:1001",
            "unix:usr:x",
            "3: 'policies[0].selectors[0]' is wrong (value 'unix:usr:x'): selector unix:usr",
        ),
        ("unix:uid:1001", "user:web", "selector user:web can never match: no attestor says this; there are unix:uid, "),
        ("unix:uid:1001", "unix:uid:web", "can never match: it is a number, such as unix:uid:1000"),
        ("unix:uid:1001", "unix:uid:1, unix:uid:2", "3: 'policies[0].selectors' is wrong: selector unix:uid:2 can nev"),
        (
            "  - issuer: https://issuer.test\n    output",
            "  - output",
            "5: missing key 'policies[0].jwtRules[0].issuer'",
        ),
        ("ALLOW", "AUDIT", "9: 'policies[0].authorization[0].action' is wrong (value 'AUDIT'): should be 'ALLOW' or "),
        ("    action: ALLOW\n", "", "8: missing key 'policies[0].authorization[0].action'"),
        ("action: ALLOW", "action: DENY", "2: 'policies[0]' has no ALLOW rule: say `default: DENY` to refuse"),
        ("  authorization", "  default: ALLOW\n  authorization", "7: 'policies[0].default' is ALLOW, so that the ALL"),
        ("policies:", "leeway: 6m\npolicies:", "1: 'leeway' is wrong (value '6m'): must be 5m or less"),
        ("policies:", "leaway: 1s\npolicies:", "1: unknown key 'leaway' (value '1s'); did you mean 'leeway'?"),
        ('\n      - source: {principals: ["spiffe://a.test/*"]}', " [*]", "11: aliases (*) and tags (!) are not taken"),
    ],
)
def test_what_is_wrong_around_the_rules(tmp_path: Path, changed: str, to: str, problem: str) -> None:
    assert changed in GOOD
    (found,) = problems(tmp_path, GOOD.replace(changed, to, 1))
    assert problem in found


DENIES = "- {name: web, selectors: [unix:uid:9], default: DENY}\n"


@pytest.mark.parametrize(
    ("added", "problem"),
    [
        (DENIES, "13: 'policies[1].name' is 'web', as of one above: refusals would not tell which one is meant"),
        (DENIES.replace("web", "b").replace("uid:9", "uid:1001, unix:gid:2"), "13: 'policies[1].selectors' are never"),
        (DENIES.replace("web", "b").replace("uid:9", "uid:1001"), "13: 'policies[1].selectors' are never looked at"),
        ("  - {name: readers, action: DENY, rules: [{to: [{operation: {paths: [/a]}}]}]}\n", "[1].name' is 'readers'"),
        ("  - action: DENY\n    rules: [{}]\n", "14: 'policies[0].authorization[1].rules[0]' denies everything"),
    ],
)
def test_what_makes_the_rest_of_the_document_dead(tmp_path: Path, added: str, problem: str) -> None:
    (found,) = problems(tmp_path, GOOD + added)
    assert problem in found


def test_end_users_need_issuers(tmp_path: Path) -> None:
    text = "".join(line for line in GOOD.splitlines(keepends=True) if line[:14] not in JWT_LINES)
    for rule in (
        "when: [{key: 'request.auth.claims[a]', values: [b]}]",
        "when: [{key: request.auth.audiences, notValues: [b]}]",
        "from: [{source: {requestPrincipals: ['*']}}]",
    ):
        (found,) = problems(tmp_path, text + RULE + rule + "\n")
        assert "is about end users, and the policy has no jwtRules" in found


def test_the_policies_to_paste_are_good(tmp_path: Path) -> None:
    pasted = re.search(r"<<'END'\n(.*?)\nEND\n", GUIDE.read_text(), re.DOTALL)
    assert pasted is not None
    assert check_policies(write(tmp_path, pasted[1])).doubts == []


RESOURCE = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec: {action: ALLOW}\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (RESOURCE, 1),
        (RESOURCE.replace("security.istio.io/v1", '"security.istio.io/v1beta1"'), 1),
        (f"{RESOURCE}---\n{RESOURCE}", 1),
        (f"# mine\n---\nkind: X\n---\n{RESOURCE}", 5),
        (GOOD + RESOURCE, 13),
    ],
)
def test_resources_for_istio_are_told_once_where_their_parts_go(tmp_path: Path, text: str, line: int) -> None:
    (found,) = problems(tmp_path, text)
    assert found.startswith(f"{line}: this is a resource for Istio")
    assert "put spec.jwtRules under jwtRules of a policy, and spec.action with spec.rules" in found


def test_a_text_about_a_resource_is_none(tmp_path: Path) -> None:
    rule = "when: [{key: 'request.headers[x]', values: ['apiVersion: security.istio.io/v1']}]\n"
    assert load_policies(write(tmp_path, GOOD + RULE + rule)).policies


JWT_LINES = {"  jwtRules:\n", "  - issuer: ht", "    outputClai"}


def test_jwt_rules_that_contradict_each_other(tmp_path: Path) -> None:
    twice = GOOD.replace("  - issuer: https://issuer.test\n", "  - issuer: https://issuer.test\n" * 2)
    (found,) = problems(tmp_path, twice)
    assert found.startswith("5: 'policies[0].jwtRules' contradict each other: two rules look for tokens of https://")


def test_all_problems_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    text = GOOD + RULE + "to: [{operation: {methods: [get]}}]\n" + RULE + "to: [{operation: {paths: [//a]}}]\n"
    assert [line[:3] for line in problems(tmp_path, text.replace("unix:uid:1001", "x"))] == ["3: ", "13:", "14:"]


def keys_of(model: type[Settings]) -> set[str]:
    """Every key that can stand in a section, and in those inside it."""
    inner = [kind for field in model.model_fields.values() for kind in sections(field.annotation)]
    own = {field.alias or name for name, field in model.model_fields.items()}
    return own.union(*(keys_of(each) for each in inner))


def sections(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [each for argument in get_args(annotation) for each in sections(argument)]


def test_the_file_that_ships_shows_every_key_and_raises_no_doubt() -> None:
    assert list(check_policies(EXAMPLE).doubts) == []
    shown = set(re.findall(r"(?:^|[\s#{-])(\w+): ", EXAMPLE.read_text("utf-8").replace(":\n", ": \n")))
    assert keys_of(PolicyFile) - shown == {"jwks"}  # in the place of jwksUri, and told there


def test_the_example_writes_the_headers_that_the_routes_of_its_proxy_ask_for() -> None:
    bootstrap = yaml.safe_load((EXAMPLE.parent / "envoy" / "authorizing.yaml").read_text("utf-8"))
    (listener,) = bootstrap["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    asked = {header["name"] for route in routes for header in route["match"].get("headers", [])}
    policy = load_policies(EXAMPLE).named(bootstrap["node"]["id"])
    assert policy is not None
    assert asked == {each.header for rule in policy.jwt_rules for each in rule.outputClaimToHeaders}


def test_rules_without_conditions_allow_everything(tmp_path: Path) -> None:
    (policy,) = load_policies(write(tmp_path, GOOD + RULE + "{}\n")).policies
    assert policy.rules[1].sources == policy.rules[1].operations == policy.rules[1].when == ()


@pytest.mark.parametrize("principal", ["spiffe://a.test/x", "*/x", "*"])
def test_peers_of_the_trust_domains_that_are_asked_for(tmp_path: Path, principal: str) -> None:
    rule = f"from: [{{source: {{principals: ['spiffe://b.test/x', '{principal}'], trustDomains: [a.test]}}}}]\n"
    assert load_policies(write(tmp_path, GOOD + RULE + rule)).policies


def test_what_is_excluded_of_something_else_is_no_contradiction(tmp_path: Path) -> None:
    rule = "when: [{key: 'request.headers[a]', values: ['1']}, {key: 'request.headers[b]', notValues: ['1']}]\n"
    (policy,) = load_policies(write(tmp_path, GOOD + RULE + rule)).policies
    assert [each.negated for each in policy.rules[1].when] == [False, True]
