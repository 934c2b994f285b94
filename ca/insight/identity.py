"""Why an identity is or is not issued: from facts to one answer (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ca.insight.identity_facts import IdentityFacts
from citadel.reserved import is_reserved_id
from citadel.spiffe import SpiffeId
from citadel.verdict import Verdict

_MOST_NAMED: Final = 3


def judge_identity(facts: IdentityFacts) -> Verdict:
    """The first thing that stands in the way, in the order in which a certificate comes into being."""
    return next(verdict for rule in _RULES if (verdict := rule(facts)) is not None)


def _is_not_ours(facts: IdentityFacts) -> Verdict | None:
    if facts.spiffe_id.is_member_of(facts.trust_domain):
        return None
    return Verdict(
        f"this server issues identities of {facts.trust_domain} only",
        _did_you_mean(facts) or f"ask the server of {facts.spiffe_id.trust_domain}",
    )


def _is_reserved(facts: IdentityFacts) -> Verdict | None:
    if not is_reserved_id(facts.spiffe_id):
        return None
    return Verdict("this ID is Citadel's own, and no entry can grant it", "`citadel-cli status` shows the agents")


def _has_no_entry(facts: IdentityFacts) -> Verdict | None:
    if facts.grants:
        return None
    return Verdict(
        "no entry grants this identity",
        _did_you_mean(facts) or f"make one: `citadel-cli entry create --spiffe-id {facts.spiffe_id} …`",
    )


def _has_expired(facts: IdentityFacts) -> Verdict | None:
    if any(not grant.entry.has_expired(facts.now) for grant in facts.grants):
        return None
    last = max(grant.entry.expires_at for grant in facts.grants if grant.entry.expires_at is not None)
    return Verdict(f"every entry that granted it has expired, the last at {last.isoformat()}", "make a new entry")


def _has_no_agent(facts: IdentityFacts) -> Verdict | None:
    if any(agent.joined for agent in facts.agents):
        return None
    if missing := _names(agent.spiffe_id for agent in facts.agents):
        return Verdict(f"the agent of its entry has not joined: {missing}", "join it, or correct the entry's parent")
    parents = _names({grant.entry.parent_id for grant in facts.grants})
    return Verdict(
        f"no agent belongs to the parent of its entry, {parents}",
        "let the entry name an agent, or make an alias whose node selectors an agent has",
    )


def _is_banned(facts: IdentityFacts) -> Verdict | None:
    if any(agent.may_ask for agent in facts.agents):
        return None
    banned = _names(agent.spiffe_id for agent in facts.agents if agent.banned)
    return Verdict(f"its agent is banned: {banned}", "lift the ban, or grant the identity through another agent")


def _is_away(facts: IdentityFacts) -> Verdict | None:
    usable = [agent for agent in facts.agents if agent.may_ask]
    if any(agent.connected for agent in usable):
        return None
    away = _names(agent.spiffe_id for agent in usable)
    return Verdict(f"its agent is not connected to this server: {away}", "look at the log and /ready of that agent")


def _is_not_told(facts: IdentityFacts) -> Verdict | None:
    told = [agent for agent in facts.agents if agent.may_ask and agent.connected]
    if any(agent.knows for agent in told):
        return None
    first = told[0]
    return Verdict(
        f"{first.spiffe_id} has not confirmed the entry yet: it stands at revision {first.acknowledged_revision} and "
        f"needs {first.needed_revision}",
        "try again in a second; if that does not help, look at the log of that agent",
    )


def _was_refused(facts: IdentityFacts) -> Verdict | None:
    # The record names the agent and not the identity: it explains a certificate that is missing, and nothing else.
    refusal = facts.last_refusal
    if refusal is None or facts.has_certificate:
        return None
    return Verdict(
        f"there is no certificate, and the last refusal of its agent, at {refusal.at.isoformat(timespec='seconds')}, "
        f"says: {refusal.detail or refusal.what} ({refusal.reason})",
        f"docs/reasons.md says what to do about {refusal.reason}",
    )


def _was_never_issued(facts: IdentityFacts) -> Verdict | None:
    if facts.has_certificate:
        return None
    knowing = _names(agent.spiffe_id for agent in facts.agents if agent.knows)
    what = "no certificate was ever issued for it" if facts.last_issued is None else "its last certificate has ended"
    return Verdict(f"{what}, although {knowing} may ask for one", "look at the log of that agent")


def _was_refused_by_proxy(facts: IdentityFacts) -> Verdict | None:
    if not facts.refusals:
        return None
    name, words = facts.refusals[0]
    return Verdict(f"the proxy of stream {name} refused it: {words}", f"`citadel-cli proxy show {name}` has it all")


def _is_not_asked_for(facts: IdentityFacts) -> Verdict | None:
    if facts.holders:
        return None
    return Verdict(
        "it is issued and its agent holds it, but no process asks for it",
        "on the node of that agent run `citadel-cli explain --pid PID` with the process that should have it",
    )


def _trusts_nobody_abroad(facts: IdentityFacts) -> Verdict | None:
    if not facts.without_bundle:
        return None
    names = ", ".join(domain.name for domain in facts.without_bundle)
    return Verdict(
        f"it is issued, and refuses everybody of {names}: its entry federates, and no bundle of that is known",
        f"bring one: `citadel-cli federation create {facts.without_bundle[0]} …`, or `citadel-cli bundle set`",
    )


def _is_good(facts: IdentityFacts) -> Verdict | None:
    return Verdict(f"it is issued, and {len(facts.holders)} stream(s) have it", is_good=True)


_RULES: Final[Sequence[Callable[[IdentityFacts], Verdict | None]]] = (
    _is_not_ours,
    _is_reserved,
    _has_no_entry,
    _has_expired,
    _has_no_agent,
    _is_banned,
    _is_away,
    _is_not_told,
    _was_refused,
    _was_never_issued,
    _was_refused_by_proxy,
    _is_not_asked_for,
    _trusts_nobody_abroad,
    _is_good,
)


def _did_you_mean(facts: IdentityFacts) -> str:
    return f"did you mean {_names(facts.near_misses)}?" if facts.near_misses else ""


def _names(ids: Iterable[SpiffeId]) -> str:
    names = list(map(str, ids))
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
