"""`citadel.v1.Rotations`: rotations, as administrators start, watch and steer them. Served on the local socket only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from ca.agents.administration import AgentAdministration
from ca.api.listeners import ActorOf
from ca.insight.proxies import agent_name
from ca.rotation.model import Holder, Rotation, RotationKind, Scope
from ca.rotation.ports import RotationStore
from ca.rotation.rotator import Rotator, View
from ca.rotation.steering import Steering, Wish
from citadel._wire import rotation_pb2 as pb
from citadel._wire import rotation_pb2_grpc
from citadel.clock import Clock
from citadel.errors import InvalidArgument, Reason
from citadel.spiffe import SpiffeId
from citadel.wire import from_duration, to_duration, to_timestamp

_MOST_HOLDERS: Final = 50
_MOST_ROTATIONS: Final = 1000
_LOOK_SECONDS: Final = 0.1


class RotationService(rotation_pb2_grpc.RotationsServicer):
    """Parses, asks those who know, answers."""

    def __init__(
        self,
        *,
        rotator: Rotator,
        steering: Steering,
        store: RotationStore,
        administration: AgentAdministration,
        clock: Clock,
        actor_of: ActorOf,
    ) -> None:
        self._rotator = rotator
        self._steering = steering
        self._store = store
        self._administration = administration
        self._clock = clock
        self._actor_of = actor_of

    async def StartRotation(self, request: pb.StartRotationRequest, context: Any) -> pb.Rotation:
        return _rotation(await self._steering.start(self._wish(request), by=self._actor_of(context)))

    async def PlanRotation(self, request: pb.StartRotationRequest, context: Any) -> pb.RotationPlan:
        plan = await self._steering.plan(self._wish(request))
        census, counting = plan.census, self._rotator.mesh.counting
        is_jwt = request.kind == RotationKind.JWT.value
        now = self._clock.now()
        return pb.RotationPlan(
            steps=[phase.value for phase in plan.steps],
            agents=census.agents,
            agents_away=census.agents_away,
            proxies=census.proxies,
            svids=counting.svid_count() if not is_jwt else 0,
            takes=to_duration(plan.takes),
            holders=[_holder(holder, now) for holder in plan.holders[:_MOST_HOLDERS]],
            without_bundle=counting.streams_without_bundle() if not is_jwt else (),
        )

    async def WatchRotation(self, request: pb.WatchRotationRequest, context: Any) -> AsyncIterator[pb.RotationView]:
        view, news, seen = self._rotator.view(), tuple[Rotation, ...](), self._rotator.changes.count
        told: pb.RotationView | None = None
        while True:
            # Phases that were over before they were looked at, and then how it stands.
            for each in (*(replace(view, rotation=rotation, holders=()) for rotation in news[:-1]), view):
                if (message := _view(each)) != told:
                    yield message
                    told = message
                if each.rotation is None or each.rotation.phase.is_over:
                    return
            await self._clock.sleep(_LOOK_SECONDS)
            view, news, seen = self._rotator.view(), self._rotator.changes.since(seen), self._rotator.changes.count

    async def GetRotation(self, request: pb.GetRotationRequest, context: Any) -> pb.RotationView:
        return _view(self._rotator.view())

    async def ListRotations(self, request: pb.ListRotationsRequest, context: Any) -> pb.ListRotationsResponse:
        newest = await self._store.newest(min(request.limit or _MOST_ROTATIONS, _MOST_ROTATIONS))
        return pb.ListRotationsResponse(rotations=map(_rotation, newest))

    async def PauseRotation(self, request: pb.PauseRotationRequest, context: Any) -> pb.Rotation:
        return _rotation(await self._steering.pause(why=request.why, by=self._actor_of(context)))

    async def ResumeRotation(self, request: pb.ResumeRotationRequest, context: Any) -> pb.Rotation:
        return _rotation(await self._steering.resume(why=request.why, by=self._actor_of(context)))

    async def AbortRotation(self, request: pb.AbortRotationRequest, context: Any) -> pb.Rotation:
        return _rotation(await self._steering.abort(why=request.why, by=self._actor_of(context)))

    async def SkipHolder(self, request: pb.SkipHolderRequest, context: Any) -> pb.Rotation:
        return _rotation(await self._steering.skip(request.name, why=request.why, by=self._actor_of(context)))

    def _wish(self, request: pb.StartRotationRequest) -> Wish:
        try:
            kind = RotationKind(request.kind)
        except ValueError:
            raise InvalidArgument(Reason.REQUEST_MALFORMED, f"{request.kind!r} is not a kind of rotation") from None
        spiffe_id = str(SpiffeId.parse(request.spiffe_id)) if request.spiffe_id else ""
        agent = agent_name(self._administration.find(request.agent).spiffe_id) if request.agent else ""
        return Wish(
            kind=kind,
            window=from_duration(request.window) if request.HasField("window") else None,
            deadline=from_duration(request.deadline) if request.emergency else None,
            scope=Scope(spiffe_id=spiffe_id, agent=agent),
            skip=frozenset(request.skip),
            why=request.why,
        )


def _view(view: View) -> pb.RotationView:
    return pb.RotationView(
        rotation=_rotation(view.rotation) if view.rotation is not None else None,
        agents=view.census.agents,
        agents_away=view.census.agents_away,
        proxies=view.census.proxies,
        proxies_acknowledged=view.census.proxies_acknowledged,
        svids=view.census.svids,
        svids_renewed=view.census.svids_renewed,
        holders=[_holder(holder, since) for holder, since in view.holders[:_MOST_HOLDERS]],
        holder_count=len(view.holders),
        clusters=view.clusters,
    )


def _rotation(rotation: Rotation) -> pb.Rotation:
    return pb.Rotation(
        id=rotation.id,
        kind=rotation.kind.value,
        phase=rotation.phase.value,
        started_at=to_timestamp(rotation.started_at),
        phase_since=to_timestamp(rotation.phase_since),
        ended_at=_moment(rotation.ended_at),
        started_by=rotation.started_by,
        why=rotation.why,
        emergency=rotation.is_emergency,
        deadline=_moment(rotation.deadline),
        paused=rotation.paused,
        skipped=sorted(rotation.skipped),
        alarm=rotation.alarm,
        new_authority=rotation.new_id,
        old_authorities=rotation.old_ids,
        window=to_duration(rotation.window),
        margin=to_duration(rotation.margin),
        scope=str(rotation.scope),
    )


def _holder(holder: Holder, since: datetime) -> pb.Holder:
    return pb.Holder(name=holder.name, words=holder.words, since=to_timestamp(since), until=_moment(holder.until))


def _moment(value: datetime | None) -> Timestamp | None:
    return to_timestamp(value) if value is not None else None
