"""Whether a request is allowed: all DENY rules first, then the ALLOW rules, then the policy's default.

Pure: what the proxy, the kernel and the issuers said is given.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Final

from citadel.access.matching import Facts, holds, values_of
from citadel.access.patterns import Value
from citadel.access.rules import Action, Alternative, Condition, Policy, Rule, Subject
from citadel.errors import Reason
from citadel.jwt.user import EndUser
from citadel.printable import printable
from citadel.request import HttpRequest

_SHOWN_VALUES: Final = 5
_SHOWN_LETTERS: Final = 200
_CREDENTIALS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`rule` is the one that decided, such as `productpage/jason-reads/rules[0]` or `productpage/default`.

    `reason` is None where the request is allowed. `words` say why; they repeat nothing of a token.
    """

    allowed: bool
    reason: Reason | None
    rule: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleReport:
    """How one rule fares: `failed` is the first condition that is not met, in words; empty where it matches."""

    rule: str
    action: Action
    failed: str

    @property
    def matches(self) -> bool:
        """Whether every condition is met."""
        return not self.failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A decision, what the rules saw (None where the request has no plain form), and each rule in their order."""

    decision: Decision
    facts: Facts | None
    rules: Sequence[RuleReport]


def decide(policy: Policy, request: HttpRequest, user: EndUser | None) -> Decision:
    """Judge a request; `user` is who a token that was believed names, None where there was none."""
    try:
        facts = Facts.of(request, user)
    except ValueError as error:
        return _without_plain_form(policy, error)
    return _decide(policy, facts)


def explain(policy: Policy, request: HttpRequest, user: EndUser | None) -> Explanation:
    """The decision, and how each rule fares."""
    try:
        facts = Facts.of(request, user)
    except ValueError as error:
        return Explanation(decision=_without_plain_form(policy, error), facts=None, rules=())
    places = (place for rule in policy.jwt_rules for place in rule.places)
    secrets = _CREDENTIALS.union(place.name for place in places if place.kind == "header")
    return Explanation(
        decision=_decide(policy, facts),
        facts=facts,
        rules=[_report(rule, facts, secrets) for rule in policy.in_order],
    )


def _decide(policy: Policy, facts: Facts) -> Decision:
    for rule in policy.in_order:
        if _first_failing(rule, facts) is None:
            if rule.action is Action.ALLOW:
                return Decision(allowed=True, reason=None, rule=rule.name, words=f"{rule.name} allows it")
            return _refused(Reason.ACCESS_DENIED, rule.name, f"{rule.name} denies it")
    default = f"{policy.name}/default"
    if policy.default is Action.ALLOW:
        return Decision(allowed=True, reason=None, rule=default, words="no rule denies it")
    for rule in policy.rules:
        if facts.user is None and rule.action is Action.ALLOW and _first_failing(rule, facts, signed_in=True) is None:
            return _refused(Reason.SIGN_IN_REQUIRED, rule.name, f"{rule.name} may allow it to somebody who signed in")
    return _refused(Reason.ACCESS_DENIED, default, "no rule allows it")


def _first_failing(rule: Rule, facts: Facts, *, signed_in: bool = False) -> Condition | None:
    """The first condition that is not met, None where the rule matches. `signed_in` takes those of end users as met."""
    for alternatives in rule.parts:
        first: Condition | None = None
        for alternative in alternatives:
            failing = _failing_in(alternative, facts, rule.action, signed_in=signed_in)
            if failing is None:
                break
            first = first or failing
        else:
            return first
    return None


def _failing_in(alternative: Alternative, facts: Facts, action: Action, *, signed_in: bool) -> Condition | None:
    for condition in alternative:
        if not (signed_in and condition.is_of_end_users) and not holds(condition, facts, action):
            return condition
    return None


def _report(rule: Rule, facts: Facts, secrets: Container[str]) -> RuleReport:
    failing = _first_failing(rule, facts)
    return RuleReport(
        rule=rule.name, action=rule.action, failed=_in_words(failing, facts, secrets) if failing is not None else ""
    )


def _in_words(failing: Condition, facts: Facts, secrets: Container[str]) -> str:
    """`secrets` are headers that are told of without a word of what is in them, or in the policy about them."""
    values = [printable(_shown(value), _SHOWN_LETTERS) for value in values_of(failing, facts)]
    name = "".join(f"[{each}]" for each in failing.names)
    if failing.subject is Subject.HEADER and failing.names[0] in secrets:
        another = "one it must not be" if failing.negated else "another one"
        state = f"is there, and is {another}" if values else "is not there"
        return f"{failing.where}: {failing.subject}{name} {state}"
    seen = f"{failing.subject}{name} is {_listed(values)}" if values else f"{failing.subject}{name} is not there"
    return f"{failing.where}: {seen}, and must {'not ' if failing.negated else ''}be {_listed(failing.patterns)}"


def _shown(value: Value) -> str:
    return value if isinstance(value, str) else f"issuer {value.issuer}, subject {value.subject}"


def _listed(things: Sequence[object]) -> str:
    shown = [repr(str(each)) for each in things[:_SHOWN_VALUES]]
    return " or ".join(shown) + (f" or {len(things) - len(shown)} more" if len(things) > len(shown) else "")


def _without_plain_form(policy: Policy, error: ValueError) -> Decision:
    return _refused(
        Reason.ACCESS_DENIED, f"{policy.name}/normalisation", f"programs would read it in different ways: {error}"
    )


def _refused(reason: Reason, rule: str, words: str) -> Decision:
    return Decision(allowed=False, reason=reason, rule=rule, words=words)
