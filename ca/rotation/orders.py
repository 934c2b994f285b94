"""What agents are ordered to renew while a rotation is in its phase `renew`, or later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ca.api.sessions import AgentSession
from citadel._wire import agent_api_pb2 as pb
from citadel.wire import to_duration, to_timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalTerms:
    """One order for the whole mesh. `agent` bounds it to one agent's SVIDs, by its ID."""

    id: str
    issuer_key_ids: frozenset[bytes]
    not_before_until: datetime | None
    spiffe_id: str
    agent: str
    window: timedelta
    ends_at: datetime  # of the window


class OrderBoard:
    """Fulfils `ca.api.sync.Orders`. At most one order is out."""

    def __init__(self, *, wake_agents: Callable[[], None]) -> None:
        self._wake_agents = wake_agents
        self._terms: RenewalTerms | None = None

    def give(self, terms: RenewalTerms | None) -> None:
        """Give this order, or none, in the place of the one before, also to agents that come later."""
        self._terms = terms
        self._wake_agents()

    def of(self, session: AgentSession, now: datetime) -> Sequence[pb.RenewOrder]:
        """An agent renews its own SVID first: only over the new connection it is told of those of its workloads."""
        terms = self._terms
        if terms is None or terms.agent not in ("", str(session.agent.spiffe_id)):
            return ()
        order = pb.RenewOrder(
            id=terms.id,
            issuer_key_ids=sorted(terms.issuer_key_ids),
            not_before_until=to_timestamp(terms.not_before_until) if terms.not_before_until is not None else None,
            spiffe_id=terms.spiffe_id,
            # A clock that was set back since makes it no longer.
            window=to_duration(min(terms.window, max(timedelta(0), terms.ends_at - now))),
        )
        if session.own_issuer in terms.issuer_key_ids:
            order.id, order.own = f"{terms.id}-own", True
        else:
            order.svids = True
        return (order,)
