"""The access rules of policies, parsed once: what the policy document comes to, and what decisions are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from itertools import takewhile
from typing import Final

from citadel.access.patterns import Pattern
from citadel.jwt.settings import JwtRule
from citadel.selector import Selector


class Action(StrEnum):
    """What comes of a rule that matches."""

    ALLOW = "ALLOW"
    DENY = "DENY"


class Subject(StrEnum):
    """What a condition is about, in the words of a refusal."""

    PEER = "the peer"
    TRUST_DOMAIN = "the peer's trust domain"
    PRINCIPAL = "the end user"
    AUDIENCES = "the token's audience"
    PRESENTER = "the token's presenter (azp)"
    CLAIM = "the claim"
    HEADER = "the header"
    HOST = "the host"
    METHOD = "the method"
    PATH = "the path"


OF_END_USERS: Final = frozenset({Subject.PRINCIPAL, Subject.AUDIENCES, Subject.PRESENTER, Subject.CLAIM})
PROVEN: Final = frozenset({*OF_END_USERS, Subject.PEER, Subject.TRUST_DOMAIN})


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One list of a rule, which stands at `where` in it. One value must match one pattern; negated: none may.

    `names` are those of a claim, from the outside in, or that of a header.
    """

    where: str
    subject: Subject
    patterns: tuple[Pattern, ...]
    negated: bool = False
    names: tuple[str, ...] = ()

    @property
    def is_of_end_users(self) -> bool:
        """Whether only a token can make a difference to it."""
        return self.subject in OF_END_USERS


Alternative = tuple[Condition, ...]  # one entry of `from` or `to`: all of its conditions must hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One of the `rules` of one entry under `authorization`; an empty tuple of alternatives leaves it open."""

    name: str
    action: Action
    sources: tuple[Alternative, ...] = ()
    operations: tuple[Alternative, ...] = ()
    when: Alternative = ()
    # All of these must hold, each by one of its alternatives. Sorted out once: it is asked at every request.
    parts: tuple[tuple[Alternative, ...], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = (self.sources, self.operations, (self.when,) if self.when else ())
        object.__setattr__(self, "parts", tuple(each for each in parts if each))

    @property
    def is_of_end_users(self) -> bool:
        """Whether some of its conditions are about end users."""
        return any(each.is_of_end_users for alternative in (*self.sources, self.when) for each in alternative)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is asked of requests at the proxies that have all of `selectors`."""

    name: str
    selectors: frozenset[Selector]
    jwt_rules: tuple[JwtRule, ...] = ()
    default: Action = Action.DENY
    rules: tuple[Rule, ...] = ()
    # As they are asked: whatever is denied stays denied.
    in_order: tuple[Rule, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        in_order = (rule for action in (Action.DENY, Action.ALLOW) for rule in self.rules if rule.action is action)
        object.__setattr__(self, "in_order", tuple(in_order))

    @property
    def is_of_end_users(self) -> bool:
        """Whether some rule of it asks who the end user is."""
        return any(rule.is_of_end_users for rule in self.rules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """A whole policy document."""

    policies: Sequence[Policy]
    leeway: timedelta

    def of(self, seen: frozenset[Selector]) -> Policy | None:
        """The policy of a caller with these selectors: the first one whose own it all has."""
        return next((policy for policy in self.policies if policy.selectors <= seen), None)

    def perhaps_before(self, chosen: Policy | None, seen: frozenset[Selector]) -> Mapping[str, frozenset[Selector]]:
        """Policies before `chosen` that may be the caller's, with what each lacks: kinds of which none is `seen`."""
        kinds = {selector.kind for selector in seen}
        before = takewhile(lambda policy: policy is not chosen, self.policies)
        lacking = {policy.name: policy.selectors - seen for policy in before}
        return {name: lacks for name, lacks in lacking.items() if kinds.isdisjoint(each.kind for each in lacks)}

    def named(self, name: str) -> Policy | None:
        """The policy of this name."""
        return next((policy for policy in self.policies if policy.name == name), None)
