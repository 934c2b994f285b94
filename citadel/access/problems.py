"""What is wrong with a policy document whose single fields are right: rules that contradict each other or the rest.

A rule that can never match, or makes others so, was meant otherwise by whoever wrote it: it is refused, since nobody
would notice the gap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from citadel.access import spelling
from citadel.access.building import rule_of
from citadel.access.document import AuthorizationSettings, PolicyFile, PolicySettings, RuleSettings
from citadel.access.patterns import Form, Pattern, PrincipalPattern, TextPattern
from citadel.access.rules import PROVEN, Action, Condition, Rule, Subject
from citadel.config.loader import Location
from citadel.jwt.settings import check_together

Finding = tuple[Location, str]

_ALWAYS_THERE: Final = frozenset({Subject.HOST, Subject.METHOD, Subject.PATH})


def problems(document: PolicyFile) -> Iterator[Finding]:
    """Each with its place in the document, the words following its name."""
    yield from _of_policies(document.policies)
    for index, policy in enumerate(document.policies):
        at: Location = ("policies", index)
        yield from _of_default(policy, at)
        yield from _of_issuers(policy, at)
        yield from _repeated([each.name for each in policy.authorization], (*at, "authorization"))
        for number, authorization in enumerate(policy.authorization):
            for place, rule in enumerate(authorization.rules):
                here = (*at, "authorization", number, "rules", place)
                yield from _of_rule(policy, authorization, rule, here)


def _of_policies(policies: Sequence[PolicySettings]) -> Iterator[Finding]:
    yield from _repeated([each.name for each in policies], ("policies",))
    for index, policy in enumerate(policies):
        earlier = next((each for each in policies[:index] if set(each.selectors) <= set(policy.selectors)), None)
        if earlier is not None:
            whose = f"are never looked at: whoever has them all has those of {earlier.name!r} above"
            yield ("policies", index, "selectors"), f"{whose}; move this policy up, or ask for more in that one"


def _repeated(names: Sequence[str | None], at: Location) -> Iterator[Finding]:
    for index, name in enumerate(names):
        if name is not None and name in names[:index]:
            yield (*at, index, "name"), f"is {name!r}, as of one above: refusals would not tell which one is meant"


def _of_default(policy: PolicySettings, at: Location) -> Iterator[Finding]:
    allows = any(each.action is Action.ALLOW for each in policy.authorization)
    if policy.default is None and not allows:
        yield at, "has no ALLOW rule: say `default: DENY` to refuse everything, or `default: ALLOW` to refuse no more"
    if policy.default is Action.ALLOW and allows:
        yield (
            (*at, "default"),
            "is ALLOW, so that the ALLOW rules change nothing: leave them out, or leave out the default",
        )


def _of_issuers(policy: PolicySettings, at: Location) -> Iterator[Finding]:
    try:
        check_together(policy.jwtRules)
    except ValueError as error:
        yield (*at, "jwtRules"), f"contradict each other: {error}"


def _of_rule(
    policy: PolicySettings, authorization: AuthorizationSettings, written: RuleSettings, at: Location
) -> Iterator[Finding]:
    rule = rule_of(written, name="", action=authorization.action)
    if authorization.action is Action.DENY and not (rule.sources or rule.operations or rule.when):
        yield at, "denies everything, so that no other rule counts: name what it denies, or say `default: DENY` alone"
    for condition, here in _conditions(rule, at):
        problem = (
            _never(condition, rule.action)
            or _without_issuer(condition, policy)
            or _of_written_header(condition, policy)
        )
        if problem:
            yield here, problem
    for alternative in (*rule.sources, *rule.operations, rule.when):
        for one in alternative:
            if not one.negated and any(_excludes(other, one) for other in alternative):
                yield place_of(at, one), "can never be met: the same things are excluded beside it"
            if any(_is_elsewhere(other, one) for other in alternative):
                yield place_of(at, one), "can never be met: each of them is in another trust domain than is asked for"


def _conditions(rule: Rule, at: Location) -> Iterator[tuple[Condition, Location]]:
    for alternative in (*rule.sources, *rule.operations, rule.when):
        for condition in alternative:
            yield condition, place_of(at, condition)


def place_of(at: Location, condition: Condition) -> Location:
    """Where the document has a condition of the rule `at`: its own `where` is that as text."""
    parts = condition.where.replace("[", ".").replace("]", "").split(".")
    return (*at, *(int(part) if part.isdigit() else part for part in parts))


def _never(condition: Condition, action: Action) -> str:
    """Why a negated list can never be met."""
    matches_all = any(isinstance(each, TextPattern) and each.form is Form.ANY for each in condition.patterns) or any(
        isinstance(each, PrincipalPattern) and each.issuer.form is each.subject.form is Form.ANY
        for each in condition.patterns
    )
    if not (condition.negated and matches_all):
        return ""
    if condition.subject in _ALWAYS_THERE:
        return "can never be met: every request has one, and * is any"
    if condition.subject in PROVEN and action is Action.ALLOW:
        return (
            "can never be met: * is any, and who has none proved nothing; to allow requests without, "
            "name no source, and deny the others"
        )
    return ""


def _without_issuer(condition: Condition, policy: PolicySettings) -> str:
    """Why nobody is ever an end user that this condition is about."""
    if not condition.is_of_end_users:
        return ""
    if not policy.jwtRules:
        return "is about end users, and the policy has no jwtRules: name the issuers of their tokens there"
    issuers = [rule.issuer for rule in policy.jwtRules]
    for pattern in condition.patterns:
        named = pattern.issuer if isinstance(pattern, PrincipalPattern) else _issuer_claim(condition, pattern)
        if named is not None and not any(named.matches(issuer) for issuer in issuers):
            return f"names the issuer {str(named)!r}, which is that of no jwtRule: there are {', '.join(issuers)}"
    return ""


def _issuer_claim(condition: Condition, pattern: Pattern) -> TextPattern | None:
    is_issuer = condition.subject is Subject.CLAIM and condition.names == ("iss",)
    return pattern if is_issuer and isinstance(pattern, TextPattern) else None


def _of_written_header(condition: Condition, policy: PolicySettings) -> str:
    written = {header for rule in policy.jwtRules for header in rule.output_headers}
    if condition.subject is Subject.HEADER and condition.names[0] in written:
        return (
            f"asks for {condition.names[0]}, which Citadel writes from the token when all rules are through: "
            "before that anybody may have written it; ask for the claim"
        )
    return ""


def _excludes(other: Condition, one: Condition) -> bool:
    """Whether the negated list names everything that the positive one does."""
    same = (other.subject, other.names) == (one.subject, one.names)
    return other.negated and same and all(_covered(each, other.patterns) for each in one.patterns)


def _covered(pattern: Pattern, by: Sequence[Pattern]) -> bool:
    if isinstance(pattern, TextPattern) and pattern.form is Form.EXACT:
        return any(each.matches(pattern.text) for each in by)
    return pattern in by


def _is_elsewhere(other: Condition, one: Condition) -> bool:
    """Whether `other` asks for trust domains, and every peer that `one` names is in none of them."""
    if other.subject is not Subject.TRUST_DOMAIN or one.subject is not Subject.PEER or other.negated or one.negated:
        return False
    domains = [spelling.trust_domain_of(each) for each in one.patterns]
    return not any(domain is None or any(each.matches(domain) for each in other.patterns) for domain in domains)
