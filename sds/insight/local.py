"""The agent's own admin socket: `citadel.v1.AgentLocal`, for root and the agent's own user."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from grpc import aio
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from citadel._wire import agent_local_pb2 as pb
from citadel._wire import agent_local_pb2_grpc, insight_pb2
from citadel.health import HealthBoard
from citadel.peer import PeerCredentials
from citadel.relay import Relay
from citadel.rpc import ErrorBorder, OnRefusal
from citadel.wire import to_timestamp
from sds.insight.gather import ProcessGatherer
from sds.insight.process import EntryFacts, Miss, judge_process

SERVICE: Final = "citadel.v1.AgentLocal"
_SOCKET_MODE: Final = 0o660
_MOST_ADMINISTRATORS: Final = 16
# An agent of a large node has thousands of entries; a person reads those that are nearest.
_MOST_ENTRIES: Final = 100


class AgentLocalService(agent_local_pb2_grpc.AgentLocalServicer):
    """Answers what an administrator of the node asks."""

    def __init__(self, *, gatherer: ProcessGatherer) -> None:
        self._gatherer = gatherer

    async def ExplainProcess(  # noqa: N802 - the proto's name for it
        self,
        request: pb.ExplainProcessRequest,
        context: Any,  # noqa: ARG002 - the service's signature
    ) -> pb.ProcessExplanation:
        """Why the process gets what it gets."""
        facts, seen, credentials = await self._gatherer.gather(request.pid)
        verdict = judge_process(facts)
        return pb.ProcessExplanation(
            pid=credentials.pid,
            uid=credentials.uid,
            gid=credentials.gid,
            executable=seen.executable,
            selectors=sorted(map(str, seen.selectors)),
            complete=seen.is_complete,
            entries=[_entry(each) for each in facts.entries[:_MOST_ENTRIES]],
            entries_in_all=len(facts.entries),
            sds_names=self._gatherer.names_for(seen.for_entries),
            streams=self._gatherer.streams_of(credentials.pid),
            agent=self._agent(facts.trouble),
            place=seen.place,
            trouble=seen.trouble,
            verdict=insight_pb2.Verdict(good=verdict.is_good, answer=verdict.answer, fix=verdict.fix),
        )

    def _agent(self, trouble: str) -> pb.AgentCondition:
        condition = self._gatherer.condition
        message = pb.AgentCondition(connected=condition.is_connected, trouble=trouble)
        if condition.identity is not None:
            svid = condition.identity.current.svid
            message.spiffe_id = str(svid.spiffe_id)
            message.not_after.CopyFrom(to_timestamp(svid.not_after))
        if condition.heard_at is not None:
            message.heard_at.CopyFrom(to_timestamp(condition.heard_at))
        return message


class AgentAdminListener:
    """Serves `service` on a socket that only root and the agent's own user get through, by the kernel's word."""

    def __init__(
        self,
        *,
        path: Path,
        relay_dir: Path,
        service: AgentLocalService,
        health: HealthBoard,
        interceptors: Sequence[aio.ServerInterceptor] = (),
        on_refusal: OnRefusal | None = None,
    ) -> None:
        self._relay = Relay(
            path,
            mode=_SOCKET_MODE,
            private_dir=relay_dir,
            admits=_is_administrator,
            max_connections=_MOST_ADMINISTRATORS,
        )
        self._server = aio.server(interceptors=(*interceptors, ErrorBorder(on_refusal=on_refusal)))
        agent_local_pb2_grpc.add_AgentLocalServicer_to_server(service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(health.servicer, self._server)
        reflection.enable_server_reflection((SERVICE, reflection.SERVICE_NAME), self._server)
        self._server.add_insecure_port(self._relay.private_address)

    async def start(self) -> None:
        """Serve. Raises what `Relay.start` raises."""
        await self._server.start()
        await self._relay.start()

    async def close(self, *, grace: float) -> None:
        """Let open calls end within `grace` seconds, then remove the socket."""
        await self._server.stop(grace)
        await self._relay.close()


def _is_administrator(peer: PeerCredentials) -> bool:
    return peer.uid in (0, os.geteuid())


def _entry(facts: EntryFacts) -> pb.EntryExplanation:
    message = pb.EntryExplanation(
        entry_id=facts.entry.id,
        spiffe_id=str(facts.entry.spiffe_id),
        misses=map(_miss, facts.misses),
        for_no_pod=facts.is_for_no_pod,
        expired=facts.has_expired,
        state="held" if facts.not_after else "refused" if facts.refusal_reason else "waiting",
        serial=facts.serial,
        refusal_reason=facts.refusal_reason,
        refusal=facts.refusal,
    )
    if facts.not_after is not None:
        message.not_after.CopyFrom(to_timestamp(facts.not_after))
    if facts.next_try is not None:
        message.next_try.CopyFrom(to_timestamp(facts.next_try))
    return message


def _miss(miss: Miss) -> pb.Miss:
    return pb.Miss(wanted=str(miss.wanted), seen=str(miss.seen) if miss.seen else "")
