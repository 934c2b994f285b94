"""Revoking: `Revoker.revoke` reads from top to bottom. Whatever it has begun, the next start of the server ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, Protocol

import structlog

from ca.audit.model import Act, Actor, ActorKind
from ca.issuance.ledger import CommitsUnderWay
from ca.revocation.bars import Bars
from ca.revocation.lists import RevocationLists
from ca.revocation.meaning import Meaning, Meanings, Wish
from ca.revocation.model import Revocation, RevocationKind, RevokedCertificate
from ca.revocation.ports import RevocationStore
from ca.steady import SteadyTime
from citadel.clock import Clock
from citadel.errors import CitadelError, InvalidArgument, NotFound, Reason
from citadel.repeated import Repeated
from citadel.spiffe import SpiffeId
from citadel.tasks import to_its_end

_log = structlog.get_logger(__name__)

MAX_REASON: Final = 500  # characters
_RETRY_SECONDS: Final = 2.0
_CATCH_UP_SECONDS: Final = 4.0
KEPT_LONGER: Final = timedelta(hours=1)  # in the lists, after its end; docs/decisions/0034 hangs on it


class Agents(Protocol):
    """What revocation does to agents. `ca.agents.administration` fulfils it."""

    async def shut_out(self, spiffe_id: SpiffeId, *, why: str, by: Actor) -> None:
        """Ban the agent, unless it is banned or gone already."""
        ...

    async def let_in(self, spiffe_id: SpiffeId, *, why: str, by: Actor) -> None:
        """Unban the agent, if it is banned."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """The revocation that is in force now. `was_revoked` where nothing was changed, because it was before."""

    revocation: Revocation
    was_revoked: bool


class Revoker:
    """Takes certificates back, and lets identities be issued again."""

    def __init__(
        self,
        *,
        store: RevocationStore,
        meanings: Meanings,
        commits: CommitsUnderWay,
        agents: Agents,
        bars: Bars,
        lists: RevocationLists,
        clock: Clock,
    ) -> None:
        self._store = store
        self._meanings = meanings
        self._commits = commits
        self._agents = agents
        self._bars = bars
        self._lists = lists
        self._clock = clock
        self._turn = asyncio.Lock()  # short: what is named gets nothing new from then on
        self._carrying_out = asyncio.Lock()  # as long as the keys of authorities take
        self._time = SteadyTime(clock)
        self._said = Repeated(clock=clock)
        self._unlifted: tuple[Revocation, ...] = ()
        self._unfinished: set[str] = set()  # by id

    async def load(self) -> None:
        """Know what is revoked. Call it before the authorities start, and before anything is signed."""
        self._take(await self._store.unlifted())
        self._unfinished = {each.id for each in self._unlifted if each.completed_at is None}
        await self._lists.revoke(await self._store.revoked(self._time.now() - KEPT_LONGER))

    async def start(self) -> None:
        """End what an earlier run had begun. Call it once the ledger is written, and before any agent is served.

        Of what is revoked, bars and lists know from `load` on.
        """
        async with self._carrying_out:
            for each in self._unlifted:
                if each.id in self._unfinished:
                    await self._carry_out(each, by=Actor(ActorKind.SERVER))

    async def run(self) -> None:
        """End what failed half way as soon as it can be, for ever."""
        catches_up_at = 0.0
        while True:
            await self._clock.sleep(_RETRY_SECONDS)
            try:
                await self.start()
                if self._clock.monotonic() >= catches_up_at:  # a key can be away for long, and lists are large
                    catches_up_at = self._clock.monotonic() + _CATCH_UP_SECONDS
                    await self._lists.catch_up()
            except CitadelError as error:
                if self._said.is_news(str(error)):
                    _log.error("revocation not carried out, trying again", reason=error.reason.value, error=str(error))

    async def revoke(self, wish: Wish, *, by: Actor) -> Outcome:
        """Revoke what is named. When this returns it is in the lists that are pushed, unless these say otherwise.

        Where the key of an authority is away, that is: then nothing new is signed for it, and its list follows.

        Raises:
            InvalidArgument: no reason, or a target that is no SPIFFE ID.
            NotFound: `nothing_to_revoke`: it is unknown.
            FailedPrecondition: `nothing_to_revoke`: it has ended, or is none that can be revoked.
        """
        reason = wish.reason.strip()
        if not reason or len(reason) > MAX_REASON or not reason.isprintable():
            raise InvalidArgument(
                Reason.REQUEST_MALFORMED, f"a revocation needs a reason of at most {MAX_REASON} printable characters"
            )
        return await to_its_end(self._revoke(replace(wish, reason=reason), by))

    async def lift(self, name: str, *, reason: str, by: Actor) -> Revocation:
        """Let what this revocation bars be issued again. What was revoked stays so. Raises `NotFound`."""
        return await to_its_end(self._lift(name, reason.strip()[:MAX_REASON], by))

    async def _revoke(self, wish: Wish, by: Actor) -> Outcome:
        async with self._turn:
            # 1. What is meant, and whether there is anything left to revoke.
            meant = await self._meanings.of(wish, by=by, now=self._time.now())
            known = await self._known(meant)
            if known is None:
                # 2. Record it: from here on it is carried out, whatever happens. What is signed from now on is refused.
                await self._record(meant.revocation, by)
        async with self._carrying_out:
            # Once more where it is known: an agent may have been unbanned since, and a try may have failed half way.
            done = await self._carry_out(known or meant.revocation, by=by)
        return Outcome(done, was_revoked=known is not None)

    async def _record(self, revocation: Revocation, by: Actor) -> None:
        detail = f"{revocation.kind.value}, {revocation.code.value}"
        act = Act(actor=by, what="revocation.revoke", target=revocation.target, detail=detail, why=revocation.reason)
        await self._store.record(revocation, act, at=revocation.revoked_at)
        self._take((*self._unlifted, revocation))
        self._unfinished.add(revocation.id)
        _log.warning("revoked", kind=revocation.kind.value, target=revocation.target, by=str(by))

    async def _carry_out(self, revocation: Revocation, *, by: Actor) -> Revocation:
        if all(each.id != revocation.id for each in self._unlifted):
            return revocation  # it was lifted while it waited
        # 3. An agent is banned. What was signed before all this is in the ledger once the commit under way has ended.
        if revocation.kind is RevocationKind.AGENT:
            await self._agents.shut_out(SpiffeId.parse(revocation.target), why=revocation.reason, by=by)
        await self._commits.settled()
        # 4. Everything that was issued and has not ended is revoked. By the earlier clock, and some time longer: peers
        #    whose clocks are behind take a certificate that has ended here.
        now = self._time.now()
        revoked = [
            RevokedCertificate(
                serial=each.serial,
                issuer_id=each.issuer_id,
                not_after=each.not_after,
                revoked_at=revocation.revoked_at,
                code=revocation.code,
            )
            for each in await self._meanings.issued(revocation, now)
        ]
        completed = await self._store.complete(replace(revocation, completed_at=self._clock.now()), revoked)
        # 5. The lists say so, and are pushed. Only then it is done: whatever failed until here is tried again.
        await self._lists.revoke(await self._store.revoked(now - KEPT_LONGER))
        self._take(completed if each.id == completed.id else each for each in self._unlifted)
        self._unfinished.discard(completed.id)
        return completed

    async def _known(self, meant: Meaning) -> Revocation | None:
        """The revocation that says the same already, of every certificate that this one would take back."""
        wanted = (meant.revocation.kind, meant.revocation.target)
        known = next((each for each in reversed(self._unlifted) if (each.kind, each.target) == wanted), None)
        if known is None or known.id in self._unfinished:
            return known
        revoked = {each.serial for each in await self._store.revoked(self._time.now())}
        return known if all(each.serial in revoked for each in meant.certificates) else None

    async def _lift(self, name: str, reason: str, by: Actor) -> Revocation:
        async with self._carrying_out, self._turn:
            found = next((each for each in reversed(self._unlifted) if name in (each.id, each.target)), None)
            if found is None:
                raise NotFound(
                    Reason.NOTHING_TO_REVOKE,
                    f"there is no revocation {name}, or it was lifted already",
                    fix="`citadel-cli revocation list` shows those that there are",
                )
            now = self._clock.now()
            lifted = replace(found, lifted_at=now)
            act = Act(actor=by, what="revocation.lift", target=found.target, detail=found.id, why=reason)
            await self._store.record(lifted, act, at=now)
            self._take(each for each in self._unlifted if each.id != found.id)
            if found.kind is RevocationKind.AGENT:
                await self._agents.let_in(SpiffeId.parse(found.target), why=reason, by=by)
            _log.warning("revocation lifted", target=found.target, by=str(by))
            return lifted

    def _take(self, revocations: Iterable[Revocation]) -> None:
        self._unlifted = tuple(revocations)
        self._bars.replace(self._unlifted)
