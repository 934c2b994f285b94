"""Who may do what: each field of a rule, what is missing, the order of rules, and when signing in would help."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citadel.access.decision import Decision, decide, explain
from citadel.access.patterns import PrincipalPattern, TextPattern
from citadel.access.rules import Policy
from citadel.errors import Reason
from citadel.jwt.user import EndUser, RequestPrincipal
from citadel.request import HttpRequest
from tests.policies import ISSUER, WEB, allow, deny, operation, policy, request, source, user, when, when_not
from tests.spellings import HOSTS, NO_PATHS, PATHS, Spelling

ANYBODY = allow()
PATH_POLICIES = [
    policy(*rules)
    for pattern in ("/admin/keys", "/admin/*", "*/keys", "/admin/{*}", "/public*", "*.css", "/")
    for rules in ([allow(to=operation(paths=[pattern]))], [ANYBODY, deny(to=operation(paths=[pattern]))])
]
HOST_POLICIES = [
    policy(*rules)
    for pattern in ("reviews.test", "Reviews.Test", "*.test", "reviews.*", "10.0.0.1", "[::1]", "*")
    for rules in ([allow(to=operation(hosts=[pattern]))], [ANYBODY, deny(to=operation(hosts=[pattern]))])
]


def allows(rule: dict[str, Any], asked: HttpRequest, who: EndUser | None = None) -> bool:
    """Whether an ALLOW rule alone lets it through, which a DENY rule like it must then stop."""
    return decide(policy(allow(**rule)), asked, who).allowed


def denies(rule: dict[str, Any], asked: HttpRequest, who: EndUser | None = None) -> bool:
    return not decide(policy(ANYBODY, deny(**rule)), asked, who).allowed


# --- each field


@pytest.mark.parametrize(
    ("patterns", "peer", "matches"),
    [
        ([WEB], WEB, True),
        ([WEB], f"{WEB}2", False),
        ([WEB], "spiffe://example.com/web", False),
        (["spiffe://a.test/x", WEB], WEB, True),
        (["spiffe://example.org/*"], WEB, True),
        (["spiffe://example.org/w*"], WEB, True),
        (["spiffe://example.org/web/*"], WEB, False),
        (["spiffe://example.org/*"], "spiffe://example.org.evil.test/web", False),
        (["spiffe://example.org/*"], "spiffe://example.org", False),
        (["*/web"], WEB, True),
        (["*/web"], "spiffe://example.org/a/web", True),
        (["*/web"], "spiffe://example.org/a-web", False),
        (["*"], WEB, True),
        (["*"], None, False),
        ([WEB], None, False),
    ],
)
def test_principals(patterns: list[str], peer: str | None, matches: bool) -> None:
    for rule in ({"from_": source(principals=patterns)}, {"when": when("source.principal", *patterns)}):
        assert allows(rule, request(peer=peer)) is matches
        assert denies(rule, request(peer=peer)) is matches


@pytest.mark.parametrize(
    ("patterns", "peer", "matches"),
    [
        (["example.org"], WEB, True),
        (["example.com"], WEB, False),
        (["*.example.org"], "spiffe://west.example.org/web", True),
        (["*.example.org"], WEB, False),
        (["*"], WEB, True),
        (["*"], None, False),
    ],
)
def test_trust_domains(patterns: list[str], peer: str | None, matches: bool) -> None:
    rule = {"from_": source(trustDomains=patterns)}
    assert allows(rule, request(peer=peer)) is matches
    assert denies(rule, request(peer=peer)) is matches


@pytest.mark.parametrize(
    ("issuer", "subject", "who", "matches"),
    [
        (ISSUER, "jason", user("jason"), True),
        (ISSUER, "jason", user("jason2"), False),
        (ISSUER, "jas*", user("jason"), True),
        (ISSUER, "*@x.test", user("jason@x.test"), True),
        (ISSUER, "*", user("jason"), True),
        ("*", "jason", user("jason"), True),
        ("https://*", "jason", user("jason"), True),
        # The two parts are never one text.
        (ISSUER, "a/b", user("a/b"), True),
        (ISSUER, "b", user("b", issuer=f"{ISSUER}/a"), False),
        (f"{ISSUER}/a", "b", user("a/b", issuer=ISSUER), False),
        # Nobody is named by a part that is empty.
        ("*", "*", user(""), False),
        ("*", "*", user("jason", issuer=""), False),
        (ISSUER, "*", user(""), False),
        ("*", "*", None, False),
    ],
)
def test_request_principals(issuer: str, subject: str, who: EndUser | None, matches: bool) -> None:
    rule = {"from_": source(requestPrincipals=[{"issuer": issuer, "subject": subject}])}
    two = [ISSUER, f"{ISSUER}/a"]
    assert decide(policy(allow(**rule), issuers=two), request(), who).allowed is matches
    assert decide(policy(ANYBODY, deny(**rule), issuers=two), request(), who).allowed is not matches


@pytest.mark.parametrize(
    "rule", [{"from_": source(requestPrincipals=["*"])}, {"when": when("request.auth.principal", "*")}]
)
def test_a_star_is_any_end_user_who_is_named(rule: dict[str, Any]) -> None:
    assert allows(rule, request(), user("jason"))
    assert not allows(rule, request(), user(""))
    assert not allows(rule, request(), None)


@pytest.mark.parametrize("spelling", PATHS, ids=lambda spelling: spelling.sent)
def test_a_path_is_judged_as_its_plain_form(spelling: Spelling) -> None:
    asked = request(spelling.sent)
    if spelling.plain is None:
        assert refusal(ANYBODY, asked=asked) == (Reason.ACCESS_DENIED, "p/normalisation")
        return
    plain = request(spelling.plain)
    for judged in PATH_POLICIES:
        if spelling.names is None:
            assert decide(judged, asked, None) == decide(judged, plain, None)
        else:
            assert decide(judged, plain, None).allowed or not decide(judged, asked, None).allowed


@pytest.mark.parametrize(
    ("field", "pattern", "path", "allowed", "denied"),
    [
        ("paths", "/questions/1", "/questions/1;2;3", False, True),
        ("paths", "/questions/1", "/questions/1%3B2", False, True),
        ("paths", "/questions/1", "/questions/1;", False, True),
        ("paths", "/questions/*", "/questions/1;2;3", True, True),
        ("paths", "/questions/{*}", "/questions/1%3b2", True, True),
        ("paths", "/questions/*", "/questions;x/1", False, True),
        ("paths", "*.css", "/admin;.css", False, True),
        ("paths", "*.css", "/a.css;v=1", False, True),
        ("paths", "/other", "/questions;x", False, False),
        ("notPaths", "/admin", "/admin;x", False, True),
        ("notPaths", "*.css", "/admin;.css", False, True),
        ("notPaths", "/admin*", "/admin;x", False, False),
        ("notPaths", "/other", "/questions;x", True, True),
    ],
)
def test_a_path_with_parameters_is_allowed_in_both_of_its_readings_and_denied_in_either(
    field: str, pattern: str, path: str, *, allowed: bool, denied: bool
) -> None:
    assert allows({"to": operation(**{field: [pattern]})}, request(path)) is allowed
    assert denies({"to": operation(**{field: [pattern]})}, request(path)) is denied


@pytest.mark.parametrize("spelling", NO_PATHS, ids=lambda spelling: spelling.sent)
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "CONNECT"])
def test_what_names_no_path_is_refused_whatever_the_rules(spelling: Spelling, method: str) -> None:
    assert refusal(default="ALLOW", asked=request(spelling.sent, method=method)) == (
        Reason.ACCESS_DENIED,
        "p/normalisation",
    )


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/a", "/a", True),
        ("/a", "/a/", False),
        ("/a", "/A", False),
        ("/a/*", "/a/", True),
        ("/a/*", "/a", False),
        ("/a*", "/ab", True),
        ("*/a", "/b/a", True),
        ("*", "/", True),
        ("/u/{*}/f", "/u/1/f", True),
        ("/u/{*}/f", "/u/1/2/f", False),
        ("/u/{*}/f", "/u//f", False),
        ("/u/{*}", "/u/", False),
        ("/u/{**}", "/u/", True),
        ("/u/{**}", "/u/1/2", True),
        ("/u/{**}", "/u", False),
        ("/u/{*}/{**}", "/u/1/2/3", True),
        ("/{**}/f.x", "/u/1/f.x", True),
        ("/{**}/f.x", "/u/1/fux", False),
    ],
)
def test_paths(pattern: str, path: str, matches: bool) -> None:
    assert allows({"to": operation(paths=[pattern])}, request(path)) is matches
    assert denies({"to": operation(paths=[pattern])}, request(path)) is matches


@pytest.mark.parametrize("spelling", HOSTS, ids=lambda spelling: spelling.sent)
def test_a_host_is_judged_as_its_plain_form(spelling: Spelling) -> None:
    asked = request(host=spelling.sent)
    if spelling.plain is None:
        assert refusal(ANYBODY, asked=asked) == (Reason.ACCESS_DENIED, "p/normalisation")
        return
    plain = request(host=spelling.plain)
    for judged in HOST_POLICIES:
        assert decide(judged, asked, None) == decide(judged, plain, None)


def test_hosts_and_methods() -> None:
    assert allows({"to": operation(hosts=["*.TEST"])}, request(host="a.test"))
    assert not allows({"to": operation(hosts=["*"])}, request(host=""))
    assert not allows({"to": operation(notHosts=["b.test"])}, request(host=""))
    assert denies({"to": operation(notHosts=["b.test"])}, request(host=""))
    assert allows({"to": operation(notHosts=["b.test"])}, request(host="a.test"))
    assert allows({"to": operation(methods=["GET", "HEAD"])}, request(method="HEAD"))
    assert not allows({"to": operation(methods=["GET"])}, request(method="POST"))
    assert allows({"to": operation(methods=["*"])}, request(method="POST"))
    assert refusal(ANYBODY, asked=request(method="get")) == (Reason.ACCESS_DENIED, "p/normalisation")


@pytest.mark.parametrize(
    ("claim", "pattern", "matches"),
    [
        ("readers", "readers", True),
        ("readers", "read*", True),
        ("readers", "*ers", True),
        ("readers", "*", True),
        ("readers", "reader", False),
        (["guests", "readers"], "readers", True),
        (["guests"], "readers", False),
        ([], "*", False),
        ("", "*", False),
        ([""], "*", False),
        (None, "*", False),
        (None, "None", False),
        (True, "true", True),
        (True, "True", False),
        (False, "false", True),
        (1, "true", False),
        (42, "42", True),
        (2**64 + 1, "18446744073709551617", True),
        ([1, 2], "2", True),
        (4.0, "4.0", False),
        ([["readers"]], "readers", False),
        ({"readers": True}, "readers", False),
        ([{"readers": 1}], "*", False),
    ],
)
def test_claims(claim: Any, pattern: str, matches: bool) -> None:
    who = user(claims={"groups": claim})
    rule = {"when": when("request.auth.claims[groups]", pattern)}
    assert allows(rule, request(), who) is matches
    assert denies(rule, request(), who) is matches


@pytest.mark.parametrize(
    ("key", "matches"),
    [
        ("request.auth.claims[realm][roles]", True),
        ("request.auth.claims[realm]", False),
        ("request.auth.claims[realm][roles][reader]", False),
        ("request.auth.claims[realm.roles]", False),
        ("request.auth.claims[https://x.test/roles]", True),
        ("request.auth.claims[https://x.test/roles][a]", False),
        ("request.auth.claims[a.b]", True),
        ("request.auth.claims[a][b]", False),
        ("request.auth.claims[missing][roles]", False),
    ],
)
def test_claims_are_named_by_their_own_names_from_the_outside_in(key: str, matches: bool) -> None:
    who = user(claims={"realm": {"roles": ["reader"]}, "https://x.test/roles": "reader", "a.b": "reader"})
    assert allows({"when": when(key, "reader")}, request(), who) is matches


def test_audiences_and_presenter() -> None:
    who = user(audiences=("bookinfo", "other"), presenter="app")
    assert allows({"when": when("request.auth.audiences", "other")}, request(), who)
    assert not allows({"when": when("request.auth.audiences", "oth")}, request(), who)
    assert not allows({"when": when("request.auth.audiences", "*")}, request(), user())
    assert allows({"when": when("request.auth.presenter", "app")}, request(), who)
    assert not allows({"when": when("request.auth.presenter", "*")}, request(), user())


def test_headers() -> None:
    rule = {"when": when("request.headers[X-Version]", "v1*")}
    assert allows(rule, request(headers={"x-version": "v1.2"}))
    assert not allows(rule, request(headers={"x-version": "v2"}))
    assert not allows(rule, request())


@pytest.mark.parametrize("pattern", ["*", "a*", "*a", "a"])
def test_no_pattern_matches_what_is_empty(pattern: str) -> None:
    assert not TextPattern.parse(pattern).matches("")
    for nobody in (RequestPrincipal("", "a"), RequestPrincipal("a", ""), RequestPrincipal("", "")):
        assert not PrincipalPattern(TextPattern.parse(pattern), TextPattern.parse(pattern)).matches(nobody)


# --- how conditions, entries and rules come together


def test_fields_must_all_be_met_and_entries_one_of_them() -> None:
    both = {"from_": source(principals=[WEB], requestPrincipals=["*"])}
    assert allows(both, request(), user())
    assert not allows(both, request(), None)
    assert not allows(both, request(peer=None), user())
    either = {"from_": [*source(principals=[WEB]), *source(requestPrincipals=["*"])]}
    assert allows(either, request(), None)
    assert allows(either, request(peer=None), user())
    assert not allows(either, request(peer=None), None)
    to = {"to": [*operation(methods=["GET"], paths=["/a"]), *operation(methods=["POST"], paths=["/b"])]}
    assert allows(to, request("/b", method="POST"))
    assert not allows(to, request("/b", method="GET"))
    all_three = {**both, **to, "when": when("request.headers[x]", "1")}
    assert allows(all_three, request("/a", headers={"x": "1"}), user())
    assert not allows(all_three, request("/a"), user())


def test_denied_stays_denied_wherever_the_rule_stands() -> None:
    for order in ((ANYBODY, deny(to=operation(paths=["/a"]))), (deny(to=operation(paths=["/a"])), ANYBODY)):
        assert refusal(*order, asked=request("/a"))[0] is Reason.ACCESS_DENIED
        assert decide(policy(*order), request("/b"), None).allowed


def test_one_line_denies_everything() -> None:
    assert refusal(asked=request(), who=user(), default="DENY") == (Reason.ACCESS_DENIED, "p/default")


def test_by_default_nothing_is_allowed_that_no_rule_allows() -> None:
    assert refusal(allow(to=operation(paths=["/a"])), asked=request("/b")) == (Reason.ACCESS_DENIED, "p/default")


def test_with_default_allow_only_what_is_denied_is_refused() -> None:
    only = policy(deny(name="no-admin", to=operation(paths=["/admin"])), default="ALLOW")
    assert decide(only, request("/"), None) == Decision(
        allowed=True, reason=None, rule="p/default", words="no rule denies it"
    )
    assert decide(only, request("/admin"), None).rule == "p/no-admin/rules[0]"


def test_the_rule_that_decides_is_named() -> None:
    judged = policy(deny(to=operation(paths=["/no"])), allow(name="web", from_=source(principals=[WEB])))
    assert decide(judged, request("/no"), None).rule == "p/authorization[0]/rules[0]"
    assert decide(judged, request(), None).rule == "p/web/rules[0]"


# --- what is not there

BAD = "spiffe://bad.test/bad"
NEGATED_PROOFS = [
    {"from_": source(notPrincipals=[BAD])},
    {"from_": source(notTrustDomains=["bad.test"])},
    {"from_": source(notRequestPrincipals=[{"issuer": ISSUER, "subject": "bad"}])},
    {"when": when_not("source.principal", BAD)},
    {"when": when_not("request.auth.audiences", "bad")},
    {"when": when_not("request.auth.presenter", "bad")},
    {"when": when_not("request.auth.claims[groups]", "bad")},
    {"when": when_not("request.auth.claims[a][b]", "bad")},
]


@pytest.mark.parametrize("rule", NEGATED_PROOFS)
def test_whoever_proved_nothing_is_among_the_others_where_others_are_denied_not_where_they_are_allowed(
    rule: dict[str, Any],
) -> None:
    unknown = request(peer=None)
    assert denies(rule, unknown)  # as in Istio
    assert not allows(rule, unknown)  # in Istio it would be allowed
    known = user("good", audiences=("x",), presenter="x", claims={"groups": "x", "a": {"b": "x"}})
    assert allows(rule, request(), known)


def test_what_is_empty_is_not_there() -> None:
    empty = user(audiences=("",), claims={"groups": [""]})
    assert not allows({"when": when_not("request.auth.audiences", "bad")}, request(), empty)
    assert not allows({"when": when_not("request.auth.claims[groups]", "bad")}, request(), empty)


@pytest.mark.parametrize("rule", NEGATED_PROOFS)
def test_whoever_is_excluded_by_name_is_not_among_the_others(rule: dict[str, Any]) -> None:
    bad = user("bad", audiences=("x", "bad"), presenter="bad", claims={"groups": ["x", "bad"], "a": {"b": "bad"}})
    assert not allows(rule, request(peer=BAD), bad)
    assert not denies(rule, request(peer=BAD), bad)


def test_nobody_may_be_asked_to_have_a_header_by_what_it_must_not_be() -> None:
    rule = {"when": when_not("request.headers[x-debug]", "1")}
    assert allows(rule, request())
    assert allows(rule, request(headers={"x-debug": "0"}))
    assert not allows(rule, request(headers={"x-debug": "1"}))


def test_the_usual_rule_that_everybody_must_sign_in() -> None:
    judged = policy(ANYBODY, deny(from_=source(notRequestPrincipals=["*"])))
    assert decide(judged, request(), user()).allowed
    assert not decide(judged, request(), user("")).allowed
    assert decide(judged, request(), None).reason is Reason.ACCESS_DENIED


# --- when signing in would help


@pytest.mark.parametrize(
    ("rules", "who", "reason"),
    [
        ([allow(from_=source(requestPrincipals=["*"]))], None, Reason.SIGN_IN_REQUIRED),
        ([allow(when=when("request.auth.claims[groups]", "x"))], None, Reason.SIGN_IN_REQUIRED),
        ([allow(when=when_not("request.auth.claims[groups]", "x"))], None, Reason.SIGN_IN_REQUIRED),
        ([allow(when=when("request.auth.audiences", "x"))], None, Reason.SIGN_IN_REQUIRED),
        ([allow(from_=source(principals=[WEB], requestPrincipals=["*"]))], None, Reason.SIGN_IN_REQUIRED),
        (
            [allow(from_=[*source(principals=["spiffe://x/y"]), *source(requestPrincipals=["*"])])],
            None,
            Reason.SIGN_IN_REQUIRED,
        ),
        # Somebody did sign in, and may not.
        ([allow(when=when("request.auth.claims[groups]", "x"))], user(), Reason.ACCESS_DENIED),
        ([allow(from_=source(requestPrincipals=["*"]))], user(""), Reason.ACCESS_DENIED),
        # It would not help.
        ([allow(from_=source(principals=["spiffe://x/y"], requestPrincipals=["*"]))], None, Reason.ACCESS_DENIED),
        ([allow(from_=source(requestPrincipals=["*"]), to=operation(methods=["POST"]))], None, Reason.ACCESS_DENIED),
        (
            [allow(from_=source(requestPrincipals=["*"]), when=when("request.headers[x]", "1"))],
            None,
            Reason.ACCESS_DENIED,
        ),
        ([allow(from_=source(requestPrincipals=["*"])), deny(to=operation(paths=["/"]))], None, Reason.ACCESS_DENIED),
        ([allow(from_=source(principals=["spiffe://x/y"]))], None, Reason.ACCESS_DENIED),
        ([deny(from_=source(requestPrincipals=["*"])), allow(to=operation(paths=["/a"]))], None, Reason.ACCESS_DENIED),
    ],
)
def test_a_refusal_asks_for_a_token_exactly_where_one_could_be_enough(
    rules: list[dict[str, Any]], who: EndUser | None, reason: Reason
) -> None:
    assert refusal(*rules, asked=request(), who=who)[0] is reason


def test_the_rule_that_asks_for_it_is_named() -> None:
    asked = refusal(allow(name="jason", from_=source(requestPrincipals=["*"])), asked=request())
    assert asked == (Reason.SIGN_IN_REQUIRED, "p/jason/rules[0]")


# --- what holds of all rules

patterns = st.sampled_from([WEB, "spiffe://example.org/*", "*/web", "*"])
sources = st.fixed_dictionaries(
    {},
    optional={
        "principals": st.lists(patterns, min_size=1, max_size=2),
        "notPrincipals": st.just(["spiffe://example.org/bad"]),
        "requestPrincipals": st.just(["*"]),
        "trustDomains": st.just(["example.org"]),
    },
).filter(bool)
operations = st.fixed_dictionaries(
    {},
    optional={
        "paths": st.lists(st.sampled_from(["/a", "/a/*", "*/b", "/{*}/b"]), min_size=1, max_size=2),
        "notPaths": st.just(["/c"]),
        "methods": st.just(["GET"]),
        "hosts": st.just(["reviews.test"]),
    },
).filter(bool)
rules = st.fixed_dictionaries(
    {"to": st.lists(st.builds(lambda one: {"operation": one}, operations), min_size=1, max_size=2)},
    optional={"from_": st.lists(st.builds(lambda one: {"source": one}, sources), min_size=1, max_size=2)},
)
requests = st.builds(
    request,
    st.sampled_from(["/a", "/a/b", "//a", "/c/../a", "/c", "/a%2Fb", "/%2e", "/a;x", "/a/..;/b"]),
    peer=st.sampled_from([WEB, "spiffe://example.org/bad", "spiffe://other.test/web", None]),
    method=st.sampled_from(["GET", "POST"]),
    host=st.sampled_from(["reviews.test", "Reviews.test:80", "x.test"]),
)
users = st.sampled_from([None, user(), user("")])


def with_rules(allowing: list[dict[str, Any]], denying: list[dict[str, Any]]) -> Policy:
    return policy(*(allow(**each) for each in allowing), *(deny(**each) for each in denying), default="DENY")


@given(st.lists(rules, max_size=3), st.lists(rules, max_size=2), rules, requests, users)
def test_one_more_deny_rule_never_allows_more(
    allowing: list[dict[str, Any]],
    denying: list[dict[str, Any]],
    more: dict[str, Any],
    asked: HttpRequest,
    who: EndUser | None,
) -> None:
    before = decide(with_rules(allowing, denying), asked, who)
    after = decide(with_rules(allowing, [*denying, more]), asked, who)
    assert before.allowed or not after.allowed


@given(st.lists(rules, max_size=3), st.lists(rules, max_size=2), requests, users)
def test_the_explanation_decides_as_the_decision_does(
    allowing: list[dict[str, Any]], denying: list[dict[str, Any]], asked: HttpRequest, who: EndUser | None
) -> None:
    judged = with_rules(allowing, denying)
    explained = explain(judged, asked, who)
    assert explained.decision == decide(judged, asked, who)
    assert explained.decision.allowed is (explained.decision.reason is None)
    matching = [report for report in explained.rules if report.matches]
    if matching:
        assert explained.decision.rule == matching[0].rule


@given(st.lists(patterns, min_size=1), requests)
def test_who_is_not_there_is_on_no_list(listed: list[str], asked: HttpRequest) -> None:
    nobody = HttpRequest(method=asked.method, host=asked.host, path=asked.path)
    assert not allows({"from_": source(principals=listed)}, nobody)
    assert not allows({"from_": source(requestPrincipals=["*"])}, nobody, None)


# --- words


def test_an_explanation_has_each_rule_with_the_first_condition_that_is_not_met() -> None:
    judged = policy(
        allow(
            name="staff", from_=source(principals=[WEB]), when=when("request.auth.claims[groups]", "staff", "admins")
        ),
        deny(name="bad", from_=source(principals=["spiffe://example.org/bad"])),
        allow(name="post", to=operation(methods=["POST"]), from_=source(notPrincipals=[WEB])),
    )
    explained = explain(judged, request(), user(claims={"groups": ["guests"]}))
    assert [(report.rule, report.failed) for report in explained.rules] == [
        (
            "p/bad/rules[0]",
            f"from[0].source.principals: the peer is '{WEB}', and must be 'spiffe://example.org/bad'",
        ),
        (
            "p/staff/rules[0]",
            "when[0].values: the claim[groups] is 'guests', and must be 'staff' or 'admins'",
        ),
        ("p/post/rules[0]", f"from[0].source.notPrincipals: the peer is '{WEB}', and must not be '{WEB}'"),
    ]
    assert explain(judged, request(), None).rules[1].failed == (
        "when[0].values: the claim[groups] is not there, and must be 'staff' or 'admins'"
    )


@pytest.mark.parametrize("name", ["Authorization", "cookie", "proxy-authorization", "x-jwt"])
def test_an_explanation_repeats_no_credential(name: str) -> None:
    jwt_rule = {"issuer": ISSUER, "fromHeaders": [{"name": "X-Jwt"}]}
    judged = policy(
        allow(when=when(f"request.headers[{name}]", "asked-for")),
        allow(when=when_not(f"request.headers[{name}]", "s3cret*")),
        allow(when=when("request.headers[x-other]", "asked-for")),
        jwtRules=[jwt_rule],
    )
    lower = name.lower()

    def failed(**headers: str) -> list[str]:
        asked = request(headers={key.replace("_", "-"): value for key, value in headers.items()})
        return [report.failed for report in explain(judged, asked, None).rules]

    assert failed(**{lower: "s3cret", "x-other": "shown"}) == [
        f"when[0].values: the header[{lower}] is there, and is another one",
        f"when[0].notValues: the header[{lower}] is there, and is one it must not be",
        "when[0].values: the header[x-other] is 'shown', and must be 'asked-for'",
    ]
    assert failed()[0] == f"when[0].values: the header[{lower}] is not there"


def test_nothing_of_a_token_is_in_a_decision() -> None:
    judged = policy(allow(when=when("request.auth.claims[groups]", "staff")))
    assert "guests" not in repr(decide(judged, request(), user(claims={"groups": "guests"})))


def test_an_explanation_of_what_has_no_plain_form_says_so() -> None:
    explained = explain(policy(ANYBODY), request("/a%00"), None)
    assert explained.facts is None
    assert "control character" in explained.decision.words


def refusal(
    *authorization: dict[str, Any], asked: HttpRequest, who: EndUser | None = None, **fields: Any
) -> tuple[Reason | None, str]:
    decision = decide(policy(*authorization, **fields), asked, who)
    assert not decision.allowed
    return decision.reason, decision.rule
