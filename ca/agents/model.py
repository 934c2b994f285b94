"""What the server knows of an agent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ca.audit.model import Act, Actor, ActorKind
from citadel.selector import Selector
from citadel.spiffe import SpiffeId


class JoinedBy(StrEnum):
    """What an agent proved when it joined."""

    TOKEN = "token"  # noqa: S105 - the name of a way to join, not a secret
    X509POP = "x509pop"
    K8S_PSAT = "k8s_psat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """An agent is authorized by this row and its recorded key, not by a valid chain alone.

    Keys are SHA-256 digests (hex) of the SubjectPublicKeyInfo. `next_key` was certified by a renewal and not yet used:
    both are good until the agent shows that it has the new one, so that a lost answer locks nobody out (invariant 12).
    `selectors` are the facts about the node that the server vouches for; aliases are matched against them.
    """

    spiffe_id: SpiffeId
    key: str
    next_key: str | None
    selectors: frozenset[Selector]
    banned: bool
    joined_at: datetime
    joined_by: JoinedBy = JoinedBy.TOKEN
    ban_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSvid:
    """An agent's own X.509-SVID, as the ledger has it. `serial` is lowercase hex."""

    serial: str
    not_after: datetime


def evicted(agent: Agent, *, why: str) -> Act:
    """What the audit log says of an agent in whose place another one has joined."""
    return Act(actor=Actor(ActorKind.SERVER), what="agent.evict", target=str(agent.spiffe_id), why=why)


def joined(agent: Agent, *, origin: str) -> Act:
    """What the audit log says of a join. `origin` is the address that it came from."""
    return Act(
        actor=Actor.identity(agent.spiffe_id),
        what="agent.join",
        target=str(agent.spiffe_id),
        detail=f"by {agent.joined_by.value} from {origin or 'an unknown address'}",
    )
