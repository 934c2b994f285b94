"""What the server knows of an agent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from citadel.selector import Selector
from citadel.spiffe import SpiffeId


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
