"""From the policy document as it is written to the rules that decisions are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from citadel.access.document import (
    AuthorizationSettings,
    OperationSettings,
    PolicyFile,
    PolicySettings,
    RuleSettings,
    SourceSettings,
    WhenSettings,
)
from citadel.access.patterns import Pattern
from citadel.access.rules import Action, Alternative, Condition, Policies, Policy, Rule, Subject


def build(document: PolicyFile) -> Policies:
    """All policies of a document that has no problems."""
    return Policies(policies=tuple(_policy(each) for each in document.policies), leeway=document.leeway)


def rule_of(rule: RuleSettings, *, name: str, action: Action) -> Rule:
    """One rule."""
    return Rule(
        name=name,
        action=action,
        sources=tuple(_source(index, each.source) for index, each in enumerate(rule.from_)),
        operations=tuple(_operation(index, each.operation) for index, each in enumerate(rule.to)),
        when=tuple(condition for index, each in enumerate(rule.when) for condition in _when(index, each)),
    )


def _policy(policy: PolicySettings) -> Policy:
    return Policy(
        name=policy.name,
        selectors=frozenset(policy.selectors),
        jwt_rules=policy.jwtRules,
        default=policy.default or Action.DENY,
        rules=tuple(
            rule
            for index, each in enumerate(policy.authorization)
            for rule in _rules(f"{policy.name}/{each.name or f'authorization[{index}]'}", each)
        ),
    )


def _rules(name: str, authorization: AuthorizationSettings) -> Iterator[Rule]:
    for index, each in enumerate(authorization.rules):
        yield rule_of(each, name=f"{name}/rules[{index}]", action=authorization.action)


def _source(index: int, source: SourceSettings) -> Alternative:
    where = f"from[{index}].source"
    return (
        *_pair(where, "principals", Subject.PEER, source.principals, source.notPrincipals),
        *_pair(where, "trustDomains", Subject.TRUST_DOMAIN, source.trustDomains, source.notTrustDomains),
        *_pair(
            where,
            "requestPrincipals",
            Subject.PRINCIPAL,
            [each.pattern for each in source.requestPrincipals],
            [each.pattern for each in source.notRequestPrincipals],
        ),
    )


def _operation(index: int, operation: OperationSettings) -> Alternative:
    where = f"to[{index}].operation"
    return (
        *_pair(where, "hosts", Subject.HOST, operation.hosts, operation.notHosts),
        *_pair(where, "methods", Subject.METHOD, operation.methods, operation.notMethods),
        *_pair(where, "paths", Subject.PATH, operation.paths, operation.notPaths),
    )


def _when(index: int, when: WhenSettings) -> Iterator[Condition]:
    key = when.key
    yield from _pair(
        f"when[{index}]",
        "values",
        key.subject,
        [key.pattern(each) for each in when.values],
        [key.pattern(each) for each in when.notValues],
        names=key.names,
    )


def _pair(
    where: str,
    name: str,
    subject: Subject,
    named: Sequence[Pattern],
    not_named: Sequence[Pattern],
    names: tuple[str, ...] = (),
) -> Iterator[Condition]:
    """The list `name` and the list `notName`, where they are given."""
    if named:
        yield Condition(where=f"{where}.{name}", subject=subject, patterns=tuple(named), names=names)
    if not_named:
        negated = f"{where}.not{name[0].upper()}{name[1:]}"
        yield Condition(where=negated, subject=subject, patterns=tuple(not_named), negated=True, names=names)
