"""The mesh as a rotation sees it: who is connected, what each has acknowledged, and what is away."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from ca.agents.roster import AgentRoster
from ca.api.sessions import AgentSession, SessionBook
from ca.insight.proxies import agent_name
from ca.rotation import gate
from ca.rotation.census import Counting
from ca.rotation.gate import AgentView, Closed
from ca.rotation.model import Holder
from ca.rotation.ports import Asking, Beyond, IssuedEnds
from citadel.clock import Clock
from citadel.reserved import RESERVED_SEGMENT, is_agent_id, server_id
from citadel.spiffe import SpiffeId, TrustDomain

_ASK_AGAIN: Final = 2.0  # seconds between two looks into the ledger
_SELDOM: Final = 20  # times as long as a look takes
_PROXIES_ARE_BACK: Final = gate.PROXIES_ARE_BACK.total_seconds()

Judge = Callable[[AgentView], Iterable[Holder]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What the ledger said: of whoever was not connected then."""

    issuers: tuple[str, ...] | None
    without: frozenset[SpiffeId]
    ends: Mapping[SpiffeId, datetime]
    good_until: float

    def holds_for(self, issuers: tuple[str, ...] | None, connected: Mapping[SpiffeId, object], moment: float) -> bool:
        """Whether it says all that is asked now. Whoever came since changes nothing."""
        return self.issuers == issuers and self.without <= connected.keys() and moment < self.good_until


class Mesh:
    """Judges every connected agent, each anew only when it has said something, and asks the ledger about the others."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        roster: AgentRoster,
        sessions: SessionBook,
        ends: IssuedEnds,
        clock: Clock,
        beyond: Sequence[Beyond] = (),
        asking: Asking | None = None,
    ) -> None:
        """`beyond` are the other clusters, which know of their meshes themselves; `asking` who is pushed nothing."""
        self.trust_domain = trust_domain
        self.beyond = beyond
        self.asking = asking
        self.counting = Counting(trust_domain=trust_domain, roster=roster, sessions=sessions)
        self._roster = roster
        self._sessions = sessions
        self._ends = ends
        self._clock = clock
        self._judged: dict[AgentSession, tuple[int, tuple[Holder, ...]]] = {}
        self._judged_for: object = None
        self._answer: _Answer | None = None
        self._had_before: dict[AgentSession, tuple[object, datetime | None]] = {}

    def connected(self, question: object, judge: Judge, order_id: str) -> list[Holder]:
        """What `judge` says of every connected agent. The same `question` is judged by the same rule."""
        if question != self._judged_for:
            self._judged, self._judged_for = {}, question
        before, self._judged = self._judged, {}
        for session in self._sessions.newest().values():
            known = before.get(session)
            if known is None or known[0] != session.changes:
                known = (session.changes, tuple(judge(_view(session, order_id, self._clock.monotonic()))))
            self._judged[session] = known
        return [holder for _, holders in self._judged.values() for holder in holders]

    async def away(
        self, now: datetime, *, issued_after: datetime, issuer_ids: Collection[str] | None, at_once: bool
    ) -> list[Holder]:
        """Whoever is not connected and has valid certificates issued through it, of these issuers or of any.

        Without `issuer_ids`, agents alone, and none that is banned: they are those who would have to hear something.
        The ledger is asked when somebody leaves, every two seconds (seldom, where that takes long), or `at_once`.
        """
        connected = self._sessions.newest()
        issuers = tuple(sorted(issuer_ids)) if issuer_ids is not None else None
        answer = self._answer
        if answer is None or at_once or not answer.holds_for(issuers, connected, self._clock.monotonic()):
            begun, without = self._clock.monotonic(), frozenset(connected)
            ends = await self._ends.last_ends(
                now=now, issued_after=issued_after, without=frozenset(map(str, without)), issuer_ids=issuer_ids
            )
            ended = self._clock.monotonic()
            answer = self._answer = _Answer(
                issuers=issuers,
                without=without,
                ends={SpiffeId.parse(text): end for text, end in ends.items()},
                good_until=ended + max(_ASK_AGAIN, _SELDOM * (ended - begun)),
            )
        counted = {
            self._name(spiffe_id): end
            for spiffe_id, end in answer.ends.items()
            if spiffe_id not in connected and self._counts(spiffe_id, any_issuer=issuer_ids is None)
        }
        return list(gate.away(counted, now=now))

    async def last_end(self, *, issued_after: datetime, issuer_ids: Collection[str]) -> datetime | None:
        """When the last certificate of these authorities ends, however long lifetimes were when it was signed."""
        return await self._ends.last_end(issued_after=issued_after, issuer_ids=issuer_ids) if issuer_ids else None

    async def not_back(self, now: datetime, *, issuer_ids: Collection[str] | None) -> list[Holder]:
        """Agents that were started so lately that proxies from before may not have found them yet.

        Such a proxy holds what it was given then, of these issuers or of any, and no stream tells of it.
        """
        before, self._had_before = self._had_before, {}
        holders = []
        for agent, session in self._sessions.newest().items():
            if session.serving_since is None:
                continue
            age = self._clock.monotonic() - session.serving_since
            if age >= _PROXIES_ARE_BACK:
                continue
            question = tuple(sorted(issuer_ids)) if issuer_ids is not None else None
            known = before.get(session)
            if known is None or known[0] != question:
                begun = self._clock.now() - timedelta(seconds=age)
                end = await self._ends.last_end_of_workloads(agent, issued_before=begun, now=now, issuer_ids=issuer_ids)
                known = (question, end)
            self._had_before[session] = known
            if known[1] is not None:
                until = min(known[1], now + timedelta(seconds=_PROXIES_ARE_BACK - age))
                words = "was started anew, and proxies from before may not have found it yet"
                holders.append(Holder(name=agent_name(agent), words=words, until=until))
        return holders

    def _counts(self, who: SpiffeId, *, any_issuer: bool) -> bool:
        if who == server_id(self.trust_domain):  # it shows its newest certificate alone
            return False
        agent = self._roster.all().get(who)
        return not any_issuer or (agent is not None and not agent.banned)

    def _name(self, who: SpiffeId) -> str:
        return agent_name(who) if is_agent_id(who) else str(who)

    def agent_id(self, name: str) -> SpiffeId:
        """The ID of the agent of this name."""
        return self.trust_domain.member(RESERVED_SEGMENT, "agent", *name.split("/"))


def _view(session: AgentSession, order_id: str, monotonic: float) -> AgentView:
    return AgentView(
        name=agent_name(session.agent.spiffe_id),
        acknowledged_bundle=session.acknowledged_bundle,
        acknowledged_lists=session.acknowledged_lists,
        has_reported=session.reported.are_all,
        is_over=session.reported.is_over,
        own_issuer=session.own_issuer,
        own_ends=session.own_ends,
        streams=tuple(session.streams.values()),
        progress=session.progress.get(order_id),
        closed=tuple(
            Closed(each.report, timedelta(seconds=monotonic - each.at)) for each in session.reported.closed.values()
        ),
    )
