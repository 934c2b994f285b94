"""The policies of one document, at work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from citadel.access import rules
from citadel.access.decision import Decision, decide
from citadel.access.rules import Subject
from citadel.clock import Clock
from citadel.errors import Reason, Unavailable
from citadel.jwt.validator import KeyRing
from citadel.request import HttpRequest
from citadel.selector import Selector
from sds.authz.end_users import EndUsers, Known
from sds.serve.callers import Attestation
from sds.serve.matching import is_digest

_MOST_KNOWN: Final = 1024
_MOST_DECIDED: Final = 4096
_LONGEST_REMEMBERED: Final = 1024  # characters of what the caller wrote, so that all of them together stay small


class PolicyAtWork:
    """The rules of one policy, and who knows its end users. Lives on one event loop."""

    def __init__(self, policy: rules.Policy, users: EndUsers) -> None:
        self.rules = policy
        self.users = users
        conditions = (each for rule in policy.rules for part in rule.parts for ways in part for each in ways)
        self._asks_for_headers = any(each.subject is Subject.HEADER for each in conditions)
        self._decided: dict[tuple[object, ...], Decision] = {}

    def decide(self, request: HttpRequest, known: Known) -> Decision:
        """The decision on a request of this end user. Few requests are the first of their kind, so it is remembered."""
        path = request.path.partition("?")[0]
        is_long = len(path) + len(request.host) + len(request.method) > _LONGEST_REMEMBERED
        if self._asks_for_headers or is_long or not known.is_remembered:
            return decide(self.rules, request, known.user)
        kind = (known, request.method, request.host, path, request.peer)
        decision = self._decided.get(kind)
        if decision is None:
            decision = decide(self.rules, request, known.user)
            if len(self._decided) >= _MOST_DECIDED:
                self._decided.clear()
            self._decided[kind] = decision
        return decision


class Policies:
    """What holds for whom. Callers of one kind are many, so who was found once is found again at once."""

    def __init__(
        self, document: rules.Policies, *, keys: KeyRing, keys_version: Callable[[], int], clock: Clock
    ) -> None:
        self._at_work = tuple(
            PolicyAtWork(
                each,
                EndUsers(each.jwt_rules, keys=keys, keys_version=keys_version, clock=clock, leeway=document.leeway),
            )
            for each in document.policies
        )
        self._besides_digests = tuple(
            frozenset(selector for selector in each.selectors if not is_digest(selector))
            for each in document.policies
            if any(map(is_digest, each.selectors))
        )
        self._known: dict[tuple[frozenset[Selector], frozenset[str]], tuple[PolicyAtWork | None, str]] = {}

    def of(self, seen: Attestation) -> PolicyAtWork | None:
        """The first whose selectors were all seen; None where there is none.

        Raises `Unavailable` (`not_ready`) where that may be one which asks for something that cannot be seen now: the
        next one could be a weaker one, meant for others.
        """
        kind = seen.selectors, seen.unseen
        if kind not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            first = next((each for each in self._at_work if _may_be_for(seen, each)), None)
            lacking = first.rules.selectors - seen.selectors if first is not None else frozenset()
            self._known[kind] = first, ", ".join(sorted(map(str, lacking)))
        policy, unseen = self._known[kind]
        if policy is not None and unseen:
            raise Unavailable(
                Reason.NOT_READY,
                f"cannot tell whether policy {policy.rules.name!r} is the caller's: nothing is seen of {unseen}",
                fix="let the agent see it, and start the proxy again if its file was replaced",
            )
        return policy

    def wants_sha256(self, seen: frozenset[Selector]) -> bool:
        """Whether a policy that asks for the digest of an executable lacks nothing else of what was seen."""
        return bool(self._besides_digests) and any(others <= seen for others in self._besides_digests)


def _may_be_for(seen: Attestation, policy: PolicyAtWork) -> bool:
    """Whether the caller has all selectors of a policy, as far as their kinds could be seen."""
    return all(each.kind in seen.unseen for each in policy.rules.selectors - seen.selectors)
