"""One session per Sync stream: what the agent was told, what it acknowledged, and what its proxies hold."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final

from ca.agents.model import Agent
from ca.api.answers import bundle_message
from ca.api.partners import Foreign, Nobody, Partners
from ca.api.reported import ReportedStreams
from ca.api.update_parts import Rest, in_parts
from ca.entries.watch import EntryNews
from citadel._wire import agent_api_pb2 as pb
from citadel._wire import types_pb2
from citadel.bundle import TrustBundle
from citadel.errors import Reason, ResourceExhausted
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.wire import from_duration

# What one agent can make the server remember.
_MOST_SESSIONS_PER_AGENT: Final = 3
_WOKEN_AT_ONCE: Final = 16
_NOBODY: Final = Nobody()


class AgentSession:
    """The state of one Sync stream; reads and writes happen in `ca.api.agent_api`."""

    def __init__(
        self,
        *,
        agent: Agent,
        connected_at: datetime,
        connected_monotonic: float = 0.0,
        own_issuer: bytes = b"",
        own_ends: datetime | None = None,
    ) -> None:
        """`own_issuer` is the key id of who signed the SVID that the agent showed, `own_ends` its end.

        `connected_monotonic` is the moment by the clock that never jumps.
        """
        self.agent = agent
        self.own_issuer = own_issuer
        self.own_ends = own_ends
        self.connected_at = connected_at
        self.serving_since: float | None = None  # by the clock that never jumps; not known of an older agent
        self._connected_monotonic = connected_monotonic
        self.wake = asyncio.Event()
        self.is_ending = False
        self.version = ""
        self.process = ""  # the agent's name for its run; empty of an older agent
        self.acknowledged_revision = 0
        self.acknowledged_bundle = 0  # sequence of the own bundle that the agent keeps
        self.acknowledged_lists = ""  # version of the revocation lists that it serves
        self.changes = 0  # rises with everything that the agent says
        self.progress: dict[str, pb.OrderProgress] = {}
        self.told_revision = 0  # of the newest update that was made for it
        self.reported = ReportedStreams(agent.spiffe_id)
        self._told_orders: set[str] = set()
        self._told: dict[str, int] = {}
        self._told_bundles: dict[TrustDomain, TrustBundle] = {}
        self._partners = Partners()
        self._told_lists: types_pb2.RevocationSet | None = None
        self._told_revoked: Sequence[types_pb2.RevokedIdentities] = ()
        self._first = True

    def take(self, message: pb.AgentMessage, *, at: float = 0.0) -> None:
        """Take what the agent said at this moment by the clock that never jumps."""
        self.changes += 1
        match message.WhichOneof("kind"):
            case "hello":
                self.version = message.hello.agent_version[:100]
                self.process = message.hello.process[:100]
                if message.hello.HasField("serving_for"):
                    serving_for = max(0.0, from_duration(message.hello.serving_for).total_seconds())
                    self.serving_since = self._connected_monotonic - serving_for
            case "acknowledge":
                self.acknowledged_revision = message.acknowledge.revision
                self.acknowledged_bundle = message.acknowledge.bundle_sequence
                self.acknowledged_lists = message.acknowledge.revocation_version
            case "streams":
                self.reported.take(message.streams, at=at)
            case "progress":
                known = (each for each in message.progress.orders if each.order_id in self._told_orders)
                self.progress = {each.order_id: each for each in known}

    @property
    def streams(self) -> Mapping[str, types_pb2.StreamReport]:
        """The open streams of its proxies."""
        return self.reported.open

    def federates_with(self, trust_domain: TrustDomain) -> bool:
        """Whether an entry that the agent was told does."""
        return trust_domain in self._partners

    def end(self) -> None:
        """Let the stream end at its next turn."""
        self.is_ending = True
        self.wake.set()

    def updates(
        self,
        *,
        news: EntryNews,
        bundles: Mapping[TrustDomain, TrustBundle],
        revision: int,
        for_workloads_alone: Sequence[bytes] = (),
        foreign: Foreign = _NOBODY,
        lists: types_pb2.RevocationSet | None = None,
        revoked: Sequence[types_pb2.RevokedIdentities] = (),
        orders: Iterable[pb.RenewOrder] = (),
    ) -> Iterator[pb.Update]:
        """What the agent must be told so that it knows exactly what it may; nothing if it does already.

        `bundles` are told to every agent, with the names of those of their authorities that are `for_workloads_alone`;
        what is `foreign` is told to those alone whose entries federate with it. Made part by part as they are sent:
        what a slow agent has not taken yet is not in memory twice.
        """
        changed = [entry for entry in news.entries.values() if self._told.get(entry.id) != entry.revision]
        removed = [entry_id for entry_id in self._gone(news) if self._told.pop(entry_id, None) is not None]
        self._told.update((entry.id, entry.revision) for entry in changed)
        self._partners.follow(changed, removed)
        abroad = self._partners.news(foreign)
        fresh = [bundle for domain, bundle in bundles.items() if self._told_bundles.get(domain) != bundle]
        dropped = [domain.name for domain in self._told_bundles if domain not in bundles]
        self._told_bundles = dict(bundles)
        fresh_lists = lists if lists is not self._told_lists else None
        self._told_lists = lists
        fresh_revoked = revoked if revoked is not self._told_revoked else ()
        self._told_revoked = revoked
        is_first, self._first = self._first, False
        first = pb.Update(
            bundles=[bundle_message(each, for_workloads_alone=for_workloads_alone) for each in fresh],
            removed_bundles=(*dropped, *abroad.dropped),
            revocations=types_pb2.RevocationSet() if fresh_lists is not None else None,
            revoked_identities=next(iter(fresh_revoked), None),
        )
        if changed or removed or abroad.fresh or first.ListFields() or is_first:
            self.told_revision = revision
            rest = Rest(
                fresh_lists.lists if fresh_lists is not None else (), abroad.fresh, fresh_revoked[1:], removed, changed
            )
            yield from in_parts(first, rest, revision=revision, is_snapshot=is_first)
        for order in orders:
            if order.id not in self._told_orders:
                self._told_orders.add(order.id)
                yield pb.Update(revision=revision, renew=order)

    def _gone(self, news: EntryNews) -> list[str]:
        if not news.is_everything:
            return list(news.others)
        return [entry_id for entry_id in self._told if entry_id not in news.entries]


class SessionBook:
    """The open sessions. An agent has two while it changes over to a renewed identity; the newest counts.

    An agent may have `most_silent` streams that have not said hello, each for `hello_timeout`.
    """

    def __init__(self, *, most_silent: int, hello_timeout: timedelta) -> None:
        self.hello_timeout = hello_timeout
        self._sessions: dict[SpiffeId, list[AgentSession]] = {}  # of each agent, the newest last
        self._serving: dict[SpiffeId, tuple[str, float]] = {}  # the run of each agent, and since when it serves
        self._to_wake: deque[AgentSession] = deque()
        self._silent: Counter[SpiffeId] = Counter()
        self._most_silent = most_silent

    @contextmanager
    def silent(self, agent: SpiffeId) -> Iterator[None]:
        """While a stream of this agent has not said hello. Raises `ResourceExhausted` (`too_many_requests`)."""
        if self._silent[agent] >= self._most_silent:
            raise ResourceExhausted(
                Reason.TOO_MANY_REQUESTS, f"{agent} has {self._most_silent} streams that never said hello"
            )
        self._silent[agent] += 1
        try:
            yield
        finally:
            self._silent[agent] -= 1
            if not self._silent[agent]:
                del self._silent[agent]

    def open(self, session: AgentSession) -> None:
        """Note a new session; the oldest of an agent that has too many are ended."""
        own = self._sessions.setdefault(session.agent.spiffe_id, [])
        own.append(session)
        self._know_since_when_it_serves(session)
        for other in own[:-_MOST_SESSIONS_PER_AGENT]:
            other.end()

    def _know_since_when_it_serves(self, session: AgentSession) -> None:
        """A hello that took long on its way makes its agent look younger than what the agent has got already.

        The first one of a run comes before anything is signed for that run, so it is right as to what was before.
        """
        if session.serving_since is None or not session.process:
            return
        process, since = self._serving.get(session.agent.spiffe_id, ("", 0.0))
        if process == session.process:
            session.serving_since = min(since, session.serving_since)
        self._serving[session.agent.spiffe_id] = (session.process, session.serving_since)

    def close(self, session: AgentSession) -> None:
        """Forget an ended session."""
        own = self._sessions[session.agent.spiffe_id]
        own.remove(session)
        if not own:
            del self._sessions[session.agent.spiffe_id]

    def newest(self) -> dict[SpiffeId, AgentSession]:
        """The newest session of each connected agent."""
        return {spiffe_id: own[-1] for spiffe_id, own in self._sessions.items()}

    def wake_all(self) -> None:
        """Let every session look soon for what it has to say: some at a time, so that other calls have their turns."""
        is_waking = bool(self._to_wake)
        self._to_wake = deque(self._all())  # also who was woken a moment ago: it may have looked already
        if not is_waking:
            self._wake_some()

    def wake_partners_of(self, trust_domain: TrustDomain) -> None:
        """As `wake_all`, for those whose entries federate with this trust domain."""
        is_waking = bool(self._to_wake)
        self._to_wake.extend(session for session in self._all() if session.federates_with(trust_domain))
        if not is_waking:
            self._wake_some()

    def end_all(self) -> None:
        """End every session, so that agents look for another server at once."""
        for session in self._all():
            session.end()

    def _all(self) -> list[AgentSession]:
        return [session for own in self._sessions.values() for session in own]

    def _wake_some(self) -> None:
        for _ in range(min(_WOKEN_AT_ONCE, len(self._to_wake))):
            self._to_wake.popleft().wake.set()
        if self._to_wake:
            asyncio.get_running_loop().call_soon(self._wake_some)
