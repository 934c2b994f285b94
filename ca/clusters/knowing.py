"""Whether everybody knows what is in force now: of this cluster, and of those below it.

Whoever is about to sign with something new, in any cluster, waits for that. It is looked at only while somebody asks
and somebody is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from ca.authority.manager import AuthorityManager
from ca.clusters.in_force import InForce
from ca.rotation import gate
from ca.rotation.census import Census
from ca.rotation.gate import AgentView
from ca.rotation.leaving import earliest_signing
from ca.rotation.mesh import Mesh
from ca.rotation.model import Holder
from ca.rotation.ports import Beyond
from citadel._wire import clusters_pb2 as pb
from citadel.clock import Clock
from citadel.errors import CitadelError

_log = structlog.get_logger(__name__)

_LOOK_SECONDS: Final = 0.05
_RETRY_SECONDS: Final = 1.0
# A look at a large mesh takes its time, and others wait meanwhile: the next one follows after ten times as long.
_REST: Final = 10
_LONGEST_REST: Final = 1.0


@dataclass(slots=True)
class _Half:
    """How it stands with one half of the bundle. Each has a mesh of its own, which remembers what it was asked."""

    is_jwt: bool
    mesh: Mesh
    known: str = ""  # the last version that everybody has acknowledged
    asked: str = ""  # the version that was looked at last
    holders: Sequence[Holder] = ()


class Knowing:
    """Knows the newest version that everybody knows, per half of the bundle. `run` looks."""

    def __init__(
        self,
        *,
        mesh: Callable[[], Mesh],
        in_force: InForce,
        authorities: AuthorityManager,
        skipped: Callable[[], Collection[str]],
        clock: Clock,
    ) -> None:
        """`mesh` makes one with those beyond that count.

        `skipped` are those whom a person goes on without in the rotation that runs.
        """
        self._halves: Mapping[bool, _Half] = {is_jwt: _Half(is_jwt, mesh()) for is_jwt in (False, True)}
        self._in_force = in_force
        self._authorities = authorities
        self._skipped = skipped
        self._clock = clock
        self._news = asyncio.Event()
        self._askers = 0
        self._watchers: list[Callable[[], None]] = []
        in_force.watch(self._news.set)

    def watch(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever everybody knows something new from now on."""
        self._watchers.append(callback)

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Within this somebody wants to know."""
        self._askers += 1
        self._news.set()
        try:
            yield
        finally:
            self._askers -= 1

    def version(self, *, is_jwt: bool) -> str:
        """What is in force now."""
        return self._in_force.version(is_jwt=is_jwt)

    def known(self, *, is_jwt: bool) -> str:
        """The newest version that everybody has acknowledged, as far as was looked; empty where that is not known."""
        return self._halves[is_jwt].known

    def holders(self, *, is_jwt: bool) -> Sequence[Holder]:
        """Who has not acknowledged what is in force, as of the last look."""
        return self._halves[is_jwt].holders

    def census(self, *, order_id: str) -> Census:
        """Counts over this cluster's agents: who has acknowledged the X.509 half, and renewed by an order."""
        return self._halves[False].mesh.counting.census(trust=self._in_force.trust(is_jwt=False), order_id=order_id)

    async def run(self) -> None:
        """Look for as long as somebody asks and somebody is missing, for ever."""
        while True:
            late = [half for half in self._halves.values() if half.known != self.version(is_jwt=half.is_jwt)]
            if not self._askers or not late:
                await self._news.wait()
                self._news.clear()
                continue
            begun = self._clock.monotonic()
            try:
                for half in late:
                    await self._look(half)
            except CitadelError as error:
                _log.warning("cannot see who knows the bundle", reason=error.reason.value, error=str(error))
                await self._clock.sleep(_RETRY_SECONDS)
            took = self._clock.monotonic() - begun
            await self._clock.sleep(max(_LOOK_SECONDS, min(_LONGEST_REST, _REST * took)))

    async def _look(self, half: _Half) -> None:
        version, now = self.version(is_jwt=half.is_jwt), self._clock.now()
        untold = half.mesh.asking.left(now) if half.mesh.asking is not None and not half.is_jwt else ()
        found = gate.still_held([*self._near(half, version, now), *untold], self._skipped(), now)
        if not found:
            is_first, half.asked = half.asked != version, version
            since = earliest_signing(self._authorities.issuers())
            away = [
                *await half.mesh.away(now, issued_after=since, issuer_ids=None, at_once=is_first),
                *await half.mesh.not_back(now, issuer_ids=None),
            ]
            found = gate.still_held(away, self._skipped(), now)
        half.holders = found
        if not found and version == self.version(is_jwt=half.is_jwt):
            half.known = version
            for callback in self._watchers:
                callback()

    def _near(self, half: _Half, version: str, now: datetime) -> list[Holder]:
        trust = self._in_force.trust(is_jwt=half.is_jwt)

        def judge(view: AgentView) -> Iterable[Holder]:
            yield from gate.without(view, trust)
            yield from gate.coming_back(view, trust, now=now)

        connected = half.mesh.connected((version, half.is_jwt), judge, "")
        return [*connected, *(holder for each in half.mesh.beyond for holder in each.without(is_jwt=half.is_jwt))]


class Everywhere:
    """What children are told that everybody knows: here and below, and `above` where there are clusters beside.

    What was known everywhere once stays so: it is a version that a child compares with what it was told last.
    """

    def __init__(self, *, knowing: Knowing, above: Sequence[Beyond] = ()) -> None:
        self._knowing = knowing
        self._above = above
        self._told = pb.KnownVersions()

    def now(self) -> pb.KnownVersions:
        """Both halves; the same object for as long as it is the same."""
        x509, jwt = self._half(self._told.x509, is_jwt=False), self._half(self._told.jwt, is_jwt=True)
        if (x509, jwt) != (self._told.x509, self._told.jwt):
            self._told = pb.KnownVersions(x509=x509, jwt=jwt)
        return self._told

    def _half(self, told: str, *, is_jwt: bool) -> str:
        known = self._knowing.known(is_jwt=is_jwt)
        if known == told or known != self._knowing.version(is_jwt=is_jwt):
            return told
        return told if any(each.without(is_jwt=is_jwt) for each in self._above) else known
