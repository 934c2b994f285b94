"""What the audit log says of one act."""

from __future__ import annotations

from dataclasses import dataclass

from citadel.actor import Actor, ActorKind
from citadel.errors import Reason

__all__ = ["Act", "Actor", "ActorKind"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One administrative act or one refusal.

    `what` is a verb with its room, such as `entry.create` or `agent.ban`; `target` is what it was done to; `detail`
    says more for people; `why` is the administrator's own word where one was asked for. `reason` is set for a refusal,
    `count` is more than 1 where refusals were summed. None of them holds a secret.
    """

    actor: Actor
    what: str
    target: str = ""
    detail: str = ""
    why: str = ""
    reason: Reason | None = None
    count: int = 1
