"""Who the rotation waits for in its phase: the rules of `ca.rotation.gate`, asked about the mesh and the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from ca.authority.manager import AuthorityManager
from ca.rotation import gate
from ca.rotation.gate import AgentView, Trust
from ca.rotation.leaving import Leaving
from ca.rotation.mesh import Mesh
from ca.rotation.model import Holder, Phase, Rotation, RotationKind
from ca.rotation.ports import Lists
from ca.rotation.tokens import Tokens
from citadel._wire.rotation_pb2 import ClusterView
from citadel.clock import Clock

_AGENTS_ARE_BACK: Final = 30.0  # seconds after a start


def trust_now(authorities: AuthorityManager, lists: Lists, *, is_jwt: bool) -> Trust:
    """What everybody is to know of now, of one half of the bundle."""
    sequences = authorities.sequences()
    return Trust(
        trust_domain=authorities.bundle().trust_domain.name,
        sequence=sequences.jwt if is_jwt else sequences.x509,
        lists=lists.current.version,
        is_jwt=is_jwt,
    )


class Waiting:
    """Finds holders; whom a person skipped, and whose time has come, is among them still."""

    def __init__(
        self,
        *,
        authorities: AuthorityManager,
        mesh: Mesh,
        lists: Lists,
        leaving: Leaving,
        tokens: Tokens,
        clock: Clock,
    ) -> None:
        self._authorities = authorities
        self._mesh = mesh
        self._lists = lists
        self._leaving = leaving
        self._tokens = tokens
        self._clock = clock
        self._recorded_end: datetime | None = None
        self._taken_up = -_AGENTS_ARE_BACK  # when a rotation of an earlier process was; long ago where none was

    def trust(self, kind: RotationKind) -> Trust:
        """What everybody is to know of now, as far as such a rotation changes it."""
        return trust_now(self._authorities, self._lists, is_jwt=kind is RotationKind.JWT)

    async def begin(self, rotation: Rotation) -> None:
        """A phase begins: ask the ledger, once since it is a long question, when the last of what goes has ended."""
        self._recorded_end = None
        if rotation.phase in (Phase.RENEW, Phase.DRAIN):
            issuer_ids = [each.id for each in self._leaving.issuers(rotation)]
            self._recorded_end = await self._mesh.last_end(issued_after=self._leaving.earliest(), issuer_ids=issuer_ids)

    def latest_end(self, rotation: Rotation) -> datetime:
        """When whatever hangs on what goes has ended: nobody is waited for any longer."""
        return self._leaving.latest_end(rotation, self._recorded_end)

    def take_up(self) -> None:
        """A rotation of an earlier process is taken up: nobody is connected yet."""
        self._taken_up = self._clock.monotonic()

    def connected(self, rotation: Rotation, now: datetime) -> list[Holder]:
        """Of the agents that are connected, of their proxies, and of keys, those who are waited for in this phase."""
        if rotation.kind is RotationKind.JWT and rotation.phase is Phase.DRAIN:
            return self._tokens.left(rotation.old_ids)
        trust, old, agent = self.trust(rotation.kind), self._leaving.key_ids(rotation), rotation.scope.agent
        latest, is_revoked = self.latest_end(rotation), self._is_revoked
        if rotation.phase in (Phase.RENEW, Phase.DRAIN) and not self._leaving.has_something_to_renew(rotation):
            return []

        def judge(view: AgentView) -> Iterable[Holder]:
            match rotation.phase:
                case Phase.OBSERVE:
                    yield from gate.without(view, trust)
                    yield from gate.coming_back(view, trust, now=now)
                case Phase.SETTLE:
                    yield from gate.without(view, trust)
                case Phase.RENEW if agent in ("", view.name):
                    yield from gate.not_renewed(view, rotation.id, old, latest=latest)
                case Phase.DRAIN:
                    yield from gate.not_renewed(view, rotation.id, old, latest=latest)
                    yield from gate.depending(view, old, is_revoked, latest=latest)
                case _:
                    pass

        return self._mesh.connected((rotation.id, rotation.phase, trust, old), judge, rotation.id)

    def beyond(self, rotation: Rotation, now: datetime) -> list[Holder]:
        """Of the other clusters, those that are waited for: those below change to a new root by themselves."""
        match rotation.phase:
            case Phase.OBSERVE | Phase.SETTLE:
                is_jwt = rotation.kind is RotationKind.JWT
                return [holder for each in self._mesh.beyond for holder in each.without(is_jwt=is_jwt)]
            case Phase.DRAIN if rotation.kind is RotationKind.ROOT:
                return [holder for each in self._mesh.beyond for holder in each.depending(rotation.old_ids, now)]
            case _:
                return []

    def asking(self, rotation: Rotation, now: datetime) -> Sequence[Holder]:
        """Who is told of a new root only when it asks; a new authority under a root that it knows is in its answer."""
        if self._mesh.asking is None or (rotation.kind, rotation.phase) != (RotationKind.ROOT, Phase.OBSERVE):
            return []
        return self._mesh.asking.left(now)

    async def would_ask(self, rotation: Rotation, now: datetime) -> Sequence[Holder]:
        """The same, of a rotation that begins now."""
        if self._mesh.asking is None or rotation.kind is not RotationKind.ROOT or rotation.is_emergency:
            return []
        return await self._mesh.asking.would_be_left(now)

    def clusters(self) -> list[ClusterView]:
        """The clusters below this one."""
        return [view for each in self._mesh.beyond for view in each.clusters()]

    async def away(self, rotation: Rotation, now: datetime, *, at_once: bool) -> list[Holder]:
        """Of those that are not connected, as far as the ledger knows. It is asked now and then, or `at_once`."""
        if rotation.kind is RotationKind.SVID:
            return await self._not_here_again(rotation, now)
        if rotation.phase not in (Phase.OBSERVE, Phase.DRAIN):
            return []
        if rotation.kind is RotationKind.JWT and rotation.phase is Phase.DRAIN:
            return []  # a token depends on nobody who could be away
        issuer_ids = None if rotation.phase is Phase.OBSERVE else [each.id for each in self._leaving.issuers(rotation)]
        return [
            *await self._mesh.away(now, issued_after=self._leaving.earliest(), issuer_ids=issuer_ids, at_once=at_once),
            *await self._mesh.not_back(now, issuer_ids=issuer_ids),
        ]

    def left_with(self, rotation: Rotation) -> list[Holder]:
        """What will hold up the drain: who closed its stream, and is told of nothing before its SVID ends; tokens."""
        if rotation.kind is RotationKind.JWT:
            return self._tokens.left(rotation.old_ids)
        old, latest = self._leaving.key_ids(rotation), self.latest_end(rotation)

        def judge(view: AgentView) -> Iterable[Holder]:
            return gate.left_with(view, old, self._is_revoked, latest=latest)

        return self._mesh.connected((rotation.id, "left with", old), judge, rotation.id)

    async def _not_here_again(self, rotation: Rotation, now: datetime) -> list[Holder]:
        """Right after a start nobody is connected: that nobody has anything left to renew says nothing then."""
        left = self._taken_up + _AGENTS_ARE_BACK - self._clock.monotonic()
        if left <= 0:
            return []
        away = await self._mesh.away(now, issued_after=self._leaving.earliest(), issuer_ids=None, at_once=False)
        agent, until = rotation.scope.agent, now + timedelta(seconds=left)
        words = "has not come back since the server was started"
        return [Holder(name=each.name, words=words, until=until) for each in away if agent in ("", each.name)]

    def _is_revoked(self, issuer_key_id: bytes, serial: str) -> bool:
        try:
            return self._lists.current.hold(issuer_key_id, int(serial, 16))
        except ValueError:  # an agent says what it likes
            return False
