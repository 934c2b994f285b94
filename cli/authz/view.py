"""What `authz explain` found, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from citadel.access.decision import Explanation
from citadel.access.rules import Policy
from citadel.jwt.forwarding import Changes
from citadel.jwt.validator import Verified
from citadel.request import HttpRequest
from citadel.selector import Selector
from cli.admin.tables import print_fields, print_heading, print_table
from cli.output import echo

_UNVERIFIED = "NOT VERIFIED: anybody can have written this token"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A request as it was judged; `changes` is what the proxy would change in it, where it is allowed.

    `perhaps` are policies that an agent may choose instead, and what of the proxy was not said for them.
    """

    policy: Policy
    request: HttpRequest
    explanation: Explanation
    perhaps: Mapping[str, frozenset[Selector]]
    token: Verified | None
    token_verified: bool
    changes: Changes | None


def plain(found: Explained) -> dict[str, Any]:
    """For programs."""
    decision, facts = found.explanation.decision, found.explanation.facts
    return {
        "policy": found.policy.name,
        "perhaps": {name: sorted(map(str, lacking)) for name, lacking in found.perhaps.items()},
        "allowed": decision.allowed,
        "reason": decision.reason,
        "rule": decision.rule,
        "words": decision.words,
        "judged_as": None if facts is None else {"method": facts.method, "host": facts.host, "path": facts.path},
        "peer": None if found.request.peer is None else str(found.request.peer),
        "user": _plain_user(found),
        "rules": [
            {"rule": each.rule, "action": each.action, "matches": each.matches, "failed": each.failed or None}
            for each in found.explanation.rules
        ],
        "upstream": _plain_changes(found.changes),
    }


def show(found: Explained) -> None:
    """For people."""
    decision = found.explanation.decision
    print_fields(_fields(found))
    if found.explanation.rules:
        print_heading("rules, in the order in which they are asked")
        print_table(
            ("RULE", "ACTION", "MATCHES", "FIRST CONDITION THAT IS NOT MET"),
            (
                (each.rule, each.action.value, "yes" if each.matches else "no", each.failed)
                for each in found.explanation.rules
            ),
            none="",
        )
    if found.changes is not None:
        print_heading("what the proxy changes before it passes the request on")
        print_table(("CHANGE", "WHAT", "VALUE"), _changes(found.changes), none="nothing")
    if found.token is not None and not found.token_verified:
        echo(f"\n{_UNVERIFIED}")
    echo(f"\n{'allowed' if decision.allowed else 'refused'}: {decision.words}")


def in_words(perhaps: Mapping[str, frozenset[Selector]]) -> Iterator[str]:
    """What could be another policy's case, one after the other."""
    for name, lacking in perhaps.items():
        wanted = " ".join(sorted(map(str, lacking)))
        yield f"{name} comes first if the proxy has {wanted}, and an agent that cannot see that refuses (not_ready)"


def _fields(found: Explained) -> Iterator[tuple[str, object]]:
    request, facts = found.request, found.explanation.facts
    asked = f"{request.method} {request.host or '-'} {request.path.partition('?')[0]}"
    yield "policy", f"{found.policy.name}, for {' '.join(sorted(map(str, found.policy.selectors)))}"
    for words in in_words(found.perhaps):
        yield "perhaps", words
    yield "asked", asked
    yield "judged as", None if facts is None else f"{facts.method} {facts.host or '-'} {' and '.join(facts.paths)}"
    yield "peer", request.peer
    yield "end user", _user(found)
    yield "decides", found.explanation.decision.rule


def _user(found: Explained) -> str | None:
    if found.token is None:
        return None
    user = found.token.user
    places = ", ".join(str(each.place) for each in found.token.found)
    return f"{user.subject or 'nobody named'}, by {user.issuer}, in {places}"


def _plain_user(found: Explained) -> Mapping[str, Any] | None:
    if found.token is None:
        return None
    user = found.token.user
    return {
        "issuer": user.issuer,
        "subject": user.subject or None,
        "audiences": list(user.audiences),
        "presenter": user.presenter or None,
        "expires_at": user.expires_at.isoformat(),
        "claims": dict(user.claims),
        "found_in": [str(each.place) for each in found.token.found],
        "verified": found.token_verified,
    }


def _changes(changes: Changes) -> Iterator[tuple[str, str, str]]:
    for name, value in changes.set_headers.items():
        yield "set header", name, value
    for name in changes.remove_headers:
        yield "remove header", name, ""
    for name in changes.remove_query_parameters:
        yield "remove query parameter", name, ""


def _plain_changes(changes: Changes | None) -> Mapping[str, Any] | None:
    if changes is None:
        return None
    return {
        "set_headers": dict(changes.set_headers),
        "remove_headers": list(changes.remove_headers),
        "remove_query_parameters": list(changes.remove_query_parameters),
    }
