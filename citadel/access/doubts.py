"""What a policy document may say, and yet is often not meant: told by `citadel-cli authz lint`, refused nowhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from citadel.access.building import rule_of
from citadel.access.document import PolicyFile, PolicySettings
from citadel.access.patterns import Form, PrincipalPattern, TextPattern
from citadel.access.problems import Finding, place_of
from citadel.access.rules import Action, Alternative, Condition, Rule, Subject
from citadel.config.loader import Location

_FOR_ANYBODY: Final = (
    "names no audiences: a token that its issuer made for any other program is believed too, and if the issuer is the "
    "mesh's own, every workload has such tokens made; name what the tokens are for"
)


def doubts(document: PolicyFile) -> Iterator[Finding]:
    """Each with its place in the document, the words following its name."""
    yield from _of_what_is_left_over(document.policies)
    yield from _of_unchecked_tokens(document.policies)
    for index, policy in enumerate(document.policies):
        at: Location = ("policies", index)
        if policy.default is Action.ALLOW:
            yield (
                (*at, "default"),
                f"is ALLOW: whatever no DENY rule names is allowed, to everybody{_in_capitals(policy)}",
            )
        for number, issuer in enumerate(policy.jwtRules):
            if not issuer.audiences:
                yield (*at, "jwtRules", number), _FOR_ANYBODY
        asks_for_users = False
        for number, authorization in enumerate(policy.authorization):
            for place, written in enumerate(authorization.rules):
                rule = rule_of(written, name="", action=authorization.action)
                asks_for_users = asks_for_users or rule.is_of_end_users
                yield from _of_rule(policy, rule, (*at, "authorization", number, "rules", place))
        if policy.jwtRules and not asks_for_users:
            yield (*at, "jwtRules"), "let requests without a token pass, and no rule asks who the end user is"


def _in_capitals(policy: PolicySettings) -> str:
    operations = [each.operation for entry in policy.authorization for rule in entry.rules for each in rule.to]
    path = next((str(path) for each in operations for path in each.paths if str(path).lower() != str(path).upper()), "")
    return f"; {path.upper()} too, which some programs serve as {path}" if path else ""


def _of_unchecked_tokens(policies: Sequence[PolicySettings]) -> Iterator[Finding]:
    """Not asked of a file without end users: there nobody sends tokens."""
    checks = next((each.name for each in policies if each.jwtRules), "")
    for index, policy in enumerate(policies):
        if checks and _allows(policy) and not policy.jwtRules:
            words = f"has no jwtRules, unlike {checks!r}: it checks no token and passes it on"
            yield ("policies", index), words


def _allows(policy: PolicySettings) -> bool:
    return Action.ALLOW in (policy.default, *(each.action for each in policy.authorization))


def _of_what_is_left_over(policies: Sequence[PolicySettings]) -> Iterator[Finding]:
    for index, policy in enumerate(policies):
        earlier = next((each for each in policies[:index] if set(each.selectors) > set(policy.selectors)), None)
        if _allows(policy) and earlier is not None:
            words = f"are some of {earlier.name!r} above, so that whoever lacks the rest of those gets in by this one"
            yield ("policies", index, "selectors"), f"{words}: ask for something that those have not"


def _of_rule(policy: PolicySettings, rule: Rule, at: Location) -> Iterator[Finding]:
    if rule.action is Action.DENY:
        for alternative in rule.operations:
            for condition in alternative:
                yield from _at(at, condition, _of_denied_paths(condition))
        return
    if not (rule.sources or rule.operations or rule.when):
        yield at, "has no conditions: it allows everything, to everybody"
    for alternative in rule.sources or ((),):
        yield from _of_source(policy, alternative, rule.when, at)
    for alternative in (*rule.operations, rule.when):
        for condition in alternative:
            yield from _at(at, condition, _of_what_anybody_says(condition))


def _of_source(policy: PolicySettings, source: Alternative, when: Alternative, at: Location) -> Iterator[Finding]:
    met_together = (*source, *when)
    if not any(each.subject is Subject.TRUST_DOMAIN and not each.negated for each in source):
        for condition in met_together:
            yield from _at(at, condition, _of_peers_anywhere(condition))
    if len(policy.jwtRules) > 1 and not any(map(_names_issuers, met_together)):
        about_users = next(filter(_tells_users_apart, met_together), None)
        if about_users is not None:
            words = "is met by tokens of every issuer, and each writes what it likes: name the issuer as well"
            yield place_of(at, about_users), words


def _names_issuers(condition: Condition) -> bool:
    if condition.negated:
        return False
    if condition.subject is Subject.PRINCIPAL:
        principals = [each for each in condition.patterns if isinstance(each, PrincipalPattern)]
        return all(each.issuer.form is not Form.ANY for each in principals)
    return condition.subject is Subject.CLAIM and condition.names == ("iss",)


def _tells_users_apart(condition: Condition) -> bool:
    """Not so a plain `*`: it is about there being a token."""
    if not condition.is_of_end_users or condition.negated:
        return False
    texts = [each.subject if isinstance(each, PrincipalPattern) else each for each in condition.patterns]
    return any(isinstance(each, TextPattern) and each.form is not Form.ANY for each in texts)


def _of_peers_anywhere(condition: Condition) -> str:
    suffix = _first(condition, Subject.PEER, Form.SUFFIX)
    return f"has {suffix}, which matches in every trust domain: name the trustDomains as well" if suffix else ""


def _of_what_anybody_says(condition: Condition) -> str:
    if condition.negated:
        return ""
    if condition.subject is Subject.HEADER:
        return f"trusts the header {condition.names[0]}, which whoever sends the request can write"
    if (prefix := _first(condition, Subject.HOST, Form.PREFIX)) is not None:
        return f"has {prefix}, which matches names of others that begin so"
    if (suffix := _first(condition, Subject.HOST, Form.SUFFIX)) is not None and not suffix.text.startswith("."):
        return f"has {suffix}, which matches other names that end so: write *.{suffix.text} and {suffix.text}"
    prefix = _first(condition, Subject.PATH, Form.PREFIX)
    if prefix is not None and not prefix.text.endswith("/"):
        return f"has {prefix}, which matches other names that begin so: write {prefix.text} and {prefix.text}/*"
    return ""


def _of_denied_paths(condition: Condition) -> str:
    exact = _first(condition, Subject.PATH, Form.EXACT)
    if exact is None or condition.negated or exact.text.endswith("/"):
        return ""
    below = f"{exact.text}/"
    if any(each.matches(below) for each in condition.patterns):
        return ""
    return f"has {exact}, and many programs serve the same as {below}: name {below}* as well"


def _first(condition: Condition, subject: Subject, form: Form) -> TextPattern | None:
    if condition.subject is not subject or condition.negated:
        return None
    found = (each for each in condition.patterns if isinstance(each, TextPattern) and each.form is form)
    return next(found, None)


def _at(at: Location, condition: Condition, words: str) -> Iterator[Finding]:
    if words:
        yield place_of(at, condition), words
