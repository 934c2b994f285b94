"""Whose an entry is, before something is signed by it and after."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from ca.agents.model import Agent
from citadel.entry import Entry
from citadel.errors import Reason, Unavailable
from citadel.spiffe import SpiffeId


class Entries(Protocol):
    """Answers which entries an agent may ask for."""

    def authorized(self, agent: Agent, entry_id: str, now: datetime) -> Entry:
        """The entry. Raises `PermissionDenied` (`entry_not_authorized`) where it is not this agent's."""
        ...


def check_unchanged(
    entries: Entries,
    agent: Agent,
    entry_id: str,
    *,
    spiffe_id: SpiffeId,
    dns_names: tuple[str, ...] | None = None,
    not_after: datetime,
    now: datetime,
) -> None:
    """That what was signed until `not_after` is this agent's still, since a key that is elsewhere takes its time.

    Raises as `Entries.authorized`, and `Unavailable` (`entry_changed`) where the entry would have it say something
    else now. What has no DNS names in it has None.
    """
    entry = entries.authorized(agent, entry_id, now)
    says_another = entry.spiffe_id != spiffe_id or dns_names not in (None, entry.dns_names)
    if says_another or (entry.expires_at is not None and entry.expires_at < not_after):
        raise Unavailable(Reason.ENTRY_CHANGED, f"entry {entry.id} was changed meanwhile", fix="ask again")
