"""The rotator: drives the one rotation that runs.

Every phase is a row in the store before it is acted upon, and every act can be done again, so that a server that was
killed at any instant goes on by itself (invariant 12).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import structlog

from ca.api.server_identity import ServerIdentity
from ca.audit.model import Act, Actor, ActorKind
from ca.authority.manager import AuthorityManager
from ca.rotation import gate, machine
from ca.rotation.acting import Acting
from ca.rotation.census import Census
from ca.rotation.changes import Changes
from ca.rotation.leaving import Leaving
from ca.rotation.machine import Facts
from ca.rotation.mesh import Mesh
from ca.rotation.model import Holder, Longest, Phase, Rotation, RotationKind
from ca.rotation.orders import OrderBoard
from ca.rotation.polled import Polled
from ca.rotation.ports import Lists, RotationStore
from ca.rotation.tokens import Tokens
from ca.rotation.waiting import Waiting
from ca.steady import SteadyTime
from citadel._wire.rotation_pb2 import ClusterView
from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.repeated import Repeated

_log = structlog.get_logger(__name__)

_LOOK_SECONDS: Final = 0.05
_IDLE_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 1.0
# A look at 100,000 proxies takes its time, and others wait meanwhile: the next one follows after ten times as long.
_REST: Final = 10
_LONGEST_REST: Final = 1.0
_ITSELF: Final = "this server"  # no node is called so, since there is a space in it


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The rotation that runs, or the last one, and how it is with the mesh."""

    rotation: Rotation | None
    census: Census
    holders: tuple[tuple[Holder, datetime], ...]  # since when each is waited for
    clusters: Sequence[ClusterView] = ()


class Rotator:
    """Owns the current rotation; `ca.rotation.steering` is how people change it."""

    def __init__(
        self,
        *,
        store: RotationStore,
        authorities: AuthorityManager,
        identity: ServerIdentity,
        mesh: Mesh,
        board: OrderBoard,
        lists: Lists,
        longest: Longest,
        clock: Clock,
    ) -> None:
        self._store = store
        self._clock = clock
        self._clear_since: float | None = None
        self._looked_for = 0.0  # seconds
        self._acted_in: tuple[str, Phase] | None = None
        self._acted_at = 0.0
        self._holders: dict[str, tuple[Holder, datetime]] = {}
        self._news = asyncio.Event()
        self._said = Repeated(clock=clock)
        self._failing: tuple[Holder, datetime] | None = None
        self.mesh = mesh
        self.time = SteadyTime(clock)
        self.leaving = Leaving(authorities=authorities, longest_leaf=longest.leaf)
        self.tokens = Tokens(authorities=authorities.jwt, longest=longest.token)
        self.polled = Polled(hint=longest.between_looks, clock=clock)
        self.waiting = Waiting(
            authorities=authorities,
            mesh=mesh,
            lists=lists,
            leaving=self.leaving,
            tokens=self.tokens,
            clock=clock,
        )
        self._acting = Acting(
            authorities=authorities,
            identity=identity,
            board=board,
            leaving=self.leaving,
            mesh=mesh,
            time=self.time,
        )
        self.one_change_at_a_time = asyncio.Lock()
        self.current: Rotation | None = None
        self.changes = Changes()

    async def start(self) -> None:
        """Take up the rotation that an earlier run, or a commit of which nobody heard, left unfinished."""
        self.current = await self._store.unfinished()
        if self.current is None:
            self.current = next(iter(await self._store.newest(1)), None)
        else:
            self.waiting.take_up()
            _log.info("rotation goes on", rotation=self.current.id, phase=self.current.phase.value)

    @property
    def running(self) -> Rotation | None:
        """The rotation that has not ended."""
        return self.current if self.current is not None and not self.current.phase.is_over else None

    def skipped(self) -> frozenset[str]:
        """Whom the rotation that runs goes on without."""
        return self.running.skipped if self.running is not None else frozenset()

    async def run(self) -> None:
        """Drive whatever rotation there is, for ever."""
        while True:
            try:
                moved = self.running is not None and await self._look()
            except CitadelError as error:
                if self._said.is_news(str(error)):
                    _log.error("rotation cannot go on, trying again", reason=error.reason.value, error=str(error))
                self._note_failure(error)
                self._acted_in = None
                await self._clock.sleep(_RETRY_SECONDS)
                continue
            self._failing = None
            if not moved:
                pause = max(_LOOK_SECONDS, min(_LONGEST_REST, _REST * self._looked_for))
                await self._rest(pause if self.running is not None else _IDLE_SECONDS)

    def view(self) -> View:
        """How it stands, for people."""
        rotation = self.current
        return View(
            rotation=rotation,
            census=self.mesh.counting.census(
                trust=self.waiting.trust(self.running.kind if self.running is not None else RotationKind.ROOT),
                order_id=rotation.id if rotation is not None else "",
            ),
            clusters=self.waiting.clusters(),
            holders=(*([self._failing] if self._failing is not None else []), *self._holders.values()),
        )

    async def change(self, rotation: Rotation, act: Act) -> None:
        """Put `rotation` in the place of the current one, durably. The caller holds `one_change_at_a_time`."""
        await self._store.save(rotation, act, at=self._clock.now())
        self.current = rotation
        self.changes.note(rotation)
        self._news.set()

    async def holders(self, rotation: Rotation, *, at_once: bool = False) -> list[Holder]:
        """Who is waited for in this phase, without those that were skipped."""
        now, begun = self.time.now(), self._clock.monotonic()
        known = [*self.waiting.connected(rotation, now), *self.waiting.beyond(rotation, now)]
        found = gate.still_held(known, rotation.skipped, now)
        self._looked_for = self._clock.monotonic() - begun
        if not found or at_once:
            is_first = not self._holders and self._clear_since is None
            found += gate.still_held(await self.waiting.away(rotation, now, at_once=is_first), rotation.skipped, now)
        untold = [*self.polled.left(rotation, now), *self.waiting.asking(rotation, now)]
        return found + gate.still_held(untold, rotation.skipped, now)

    async def _look(self) -> bool:
        """Do what the phase asks for, and enter the next one if it may be. Whether it was entered."""
        rotation = self.running
        assert rotation is not None  # noqa: S101 - for the type checker
        if rotation.paused:
            self._acted_in = None  # what was prepared may have ended meanwhile
            return False
        if self._acted_in != (rotation.id, rotation.phase):
            await self._acting.act(rotation)
            self._acted_in, self._acted_at = (rotation.id, rotation.phase), self._clock.monotonic()
            self._clear_since, self._holders = None, {}
            await self.waiting.begin(rotation)
            self.polled.begin(rotation)
        holders = await self.holders(rotation)
        self._note(holders)
        monotonic = self._clock.monotonic()
        facts = Facts(
            now=self.time.unmoved(),
            holders=holders,
            clear_for=monotonic - self._clear_since if self._clear_since is not None else 0.0,
            lasts_for=monotonic - self._acted_at,
            is_pressing=self._is_pressing(rotation),
        )
        entered = machine.next_phase(rotation, facts)
        if entered is None:
            return False
        async with self.one_change_at_a_time:
            if self.current is not rotation:
                return False  # a person was faster: look anew
            await self._enter(rotation, entered, machine.alarm(rotation, facts))
        return True

    async def _enter(self, rotation: Rotation, phase: Phase, alarm: str) -> None:
        now = self._clock.now()
        changed = replace(
            rotation,
            phase=phase,
            phase_since=now,
            alarm="; ".join(filter(None, (rotation.alarm, alarm))),
            ended_at=now if phase.is_over else None,
        )
        act = Act(
            actor=Actor(ActorKind.SERVER), what="rotation.phase", target=rotation.id, detail=phase.value, why=alarm
        )
        await self.change(changed, act)
        if phase.is_over:
            self._holders = {}
        if alarm:
            _log.error("rotation goes on without everybody", rotation=rotation.id, phase=phase.value, alarm=alarm)
        _log.info("rotation", rotation=rotation.id, kind=rotation.kind.value, phase=phase.value)

    def _note_failure(self, error: CitadelError) -> None:
        since = self._failing[1] if self._failing is not None else self._clock.now()
        words = f"{error.message} ({error.reason.value})" + (f"; {error.fix}" if error.fix else "")
        self._failing = Holder(name=_ITSELF, words=words, is_error=True), since

    def _is_pressing(self, rotation: Rotation) -> bool:
        of = self.tokens if rotation.kind is RotationKind.JWT else self.leaving
        return of.is_pressing(rotation.margin, self.time.latest())

    def _note(self, holders: list[Holder]) -> None:
        now = self._clock.now()
        self._holders = {each.name: (each, self._holders.get(each.name, (each, now))[1]) for each in holders}
        if holders:
            self._clear_since = None
        elif self._clear_since is None:
            self._clear_since = self._clock.monotonic()

    async def _rest(self, seconds: float) -> None:
        self._news.clear()
        waiting = (asyncio.ensure_future(self._news.wait()), asyncio.ensure_future(self._clock.sleep(seconds)))
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
