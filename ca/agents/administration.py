"""What administrators do to agents: ban, unban, evict. Each act is in the audit log exactly when it was done."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import structlog

from ca.agents.model import Agent
from ca.agents.roster import AgentRoster
from ca.audit.model import Act, Actor
from ca.issuance.ledger import CommitsUnderWay
from citadel.errors import InvalidArgument, NotFound, Reason
from citadel.reserved import RESERVED_SEGMENT
from citadel.spiffe import SCHEME, SpiffeId, TrustDomain
from citadel.tasks import to_its_end

MAX_REASON: Final = 500  # characters

_log = structlog.get_logger(__name__)


class AgentAdministration:
    """Changes agents on behalf of `by`. Their open streams learn of it at once."""

    def __init__(self, *, trust_domain: TrustDomain, roster: AgentRoster, commits: CommitsUnderWay) -> None:
        self._trust_domain = trust_domain
        self._roster = roster
        self._commits = commits

    def find(self, name: str) -> Agent:
        """The agent with this SPIFFE ID or name. Raises `NotFound` (`agent_unknown`) or `InvalidArgument`."""
        if name.startswith(SCHEME):
            spiffe_id = SpiffeId.parse(name)
        else:
            spiffe_id = self._trust_domain.member(RESERVED_SEGMENT, "agent", *name.split("/"))
        agent = self._roster.all().get(spiffe_id)
        if agent is None:
            raise NotFound(
                Reason.AGENT_UNKNOWN,
                f"{spiffe_id} is not a joined agent",
                fix="`citadel-cli agent list` shows those that there are",
            )
        return agent

    async def ban(self, name: str, *, why: str, by: Actor) -> Agent:
        """Sign nothing more for the agent, not even what is in flight, until it is unbanned. A token does not help it.

        A second ban replaces the reason of the first.
        """
        if not why.strip():
            raise InvalidArgument(Reason.REQUEST_MALFORMED, "a ban needs a reason, for whoever finds it later")
        return await to_its_end(self._set_banned(name, banned=True, why=why, by=by))

    async def unban(self, name: str, *, why: str, by: Actor) -> Agent:
        """Let the agent come back, with the key that is on record."""
        return await to_its_end(self._set_banned(name, banned=False, why=why, by=by))

    async def evict(self, name: str, *, why: str, by: Actor) -> Agent:
        """Forget the agent with its key, also where it is banned, and give back what it was."""
        return await to_its_end(self._evict(name, why, by))

    async def shut_out(self, spiffe_id: SpiffeId, *, why: str, by: Actor) -> None:
        """Fulfils `ca.revocation.revoker.Agents`: ban the agent, unless it is banned or gone already."""
        agent = self._roster.all().get(spiffe_id)
        if agent is not None and not agent.banned:
            await self.ban(str(spiffe_id), why=why, by=by)

    async def let_in(self, spiffe_id: SpiffeId, *, why: str, by: Actor) -> None:
        """Fulfils `ca.revocation.revoker.Agents`: unban the agent, if it is banned."""
        if self._roster.is_banned(spiffe_id):
            await self.unban(str(spiffe_id), why=why, by=by)

    async def _set_banned(self, name: str, *, banned: bool, why: str, by: Actor) -> Agent:
        async with self._roster.one_change_at_a_time:
            agent = self.find(name)
            changed = replace(agent, banned=banned, ban_reason=_shown(why) if banned else "")
            act = self._act("agent.ban" if banned else "agent.unban", agent, why, by)
            await self._roster.record(changed, act)
        if banned:
            await self._commits.settled()
        _log.warning("agent banned" if banned else "agent unbanned", agent=str(agent.spiffe_id), by=str(by))
        return changed

    async def _evict(self, name: str, why: str, by: Actor) -> Agent:
        async with self._roster.one_change_at_a_time:
            agent = self.find(name)
            act = self._act("agent.evict", agent, why, by)
            await self._roster.remove(agent.spiffe_id, act)
        await self._commits.settled()
        _log.warning("agent evicted", agent=str(agent.spiffe_id), by=str(by))
        return agent

    @staticmethod
    def _act(what: str, agent: Agent, why: str, by: Actor) -> Act:
        return Act(actor=by, what=what, target=str(agent.spiffe_id), why=_shown(why))


def _shown(why: str) -> str:
    return why.strip()[:MAX_REASON]
