"""Whether a node of Kubernetes has what an agent needs there: its token, the processes of pods, its socket."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from citadel.config.types import format_duration
from citadel.errors import CitadelError, InvalidArgument, NotFound, Reason, Unavailable
from citadel.finding import Finding, bad, failed, good, unknown, warning
from citadel.kubernetes.token_claims import TokenClaims
from citadel.rpc import from_rpc_error
from sds.settings import AgentSettings

_ANSWER_SECONDS: Final = 3.0
_POD: Final = re.compile(r"pod[0-9a-f]{8}[-_]")  # as each driver writes a pod's UID into a cgroup's path


class Subject(StrEnum):
    """What is looked at; the order is that in which people should read."""

    TOKEN = "token"  # noqa: S105 - not a secret
    NODE = "node's name"
    PROCESSES = "processes"
    SOCKET = "socket"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What was found on this node. `token` is None where the settings have none."""

    token: TokenClaims | CitadelError | None
    node: str
    sees_pods: bool
    socket: CitadelError | None


async def look(settings: AgentSettings, *, environ: Mapping[str, str], proc: Path = Path("/proc")) -> NodeFacts:
    """Look at this node. `proc` is the process table that the agent would read."""
    psat, pods = settings.join.k8s_psat, settings.kubernetes
    return NodeFacts(
        token=_token(psat.token_file) if psat is not None else None,
        node=environ.get(pods.node_name_env, "") if pods is not None else "",
        sees_pods=any(_POD.search(each) for each in _cgroups(proc)),
        socket=await _answers(settings.socket),
    )


def findings(facts: NodeFacts, settings: AgentSettings, *, audience: str | None, now: datetime) -> Iterator[Finding]:
    """In the order in which to read them. `audience` is what the server expects, where its settings are known."""
    token = facts.token
    if isinstance(token, CitadelError):
        yield failed(Subject.TOKEN, token, "project a serviceAccountToken there, as the chart does")
    elif token is not None:
        yield _of_token(token, audience, now)
    if settings.kubernetes is not None:
        yield _of_node(facts.node, settings.kubernetes.node_name_env)
        if facts.sees_pods:
            yield good(Subject.PROCESSES, "those of pods are seen")
        else:
            fix = "run it with `hostPID: true`, as the chart does; on a node without another pod this says nothing"
            yield warning(Subject.PROCESSES, "no process of a pod is seen from here", fix)
    if facts.socket is None:
        yield good(Subject.SOCKET, f"{settings.socket} answers")
    elif facts.socket.reason is Reason.NOT_READY:
        fix = "look at /ready and the log of the agent"
        yield warning(Subject.SOCKET, f"{settings.socket} answers that it is not ready", fix)
    else:
        yield failed(Subject.SOCKET, facts.socket, "start the agent, or look whether its socket is mounted here")


def _of_token(token: TokenClaims, audience: str | None, now: datetime) -> Finding:
    told = ", ".join(sorted(token.audiences)) or "nobody"
    if audience is not None and audience not in token.audiences:
        found = f"it is for {told}, not for {audience}"
        fix = f"project one with the audience {audience}, or set `joining.audience` in the server's settings"
        return bad(Subject.TOKEN, Reason.K8S_TOKEN_AUDIENCE, found, fix)
    if token.ends <= now:
        found = f"it ended {_span(now - token.ends)} ago"
        return bad(Subject.TOKEN, Reason.K8S_TOKEN_EXPIRED, found, "look at the kubelet, and at this node's clock")
    if not token.pod_uid:
        fix = "project one into the agent's pod: one that was made by hand is bound to none"
        return bad(Subject.TOKEN, Reason.K8S_POD_UNKNOWN, "it is bound to no pod", fix)
    return good(Subject.TOKEN, f"for {told}, good for {_span(token.ends - now)}")


def _of_node(node: str, variable: str) -> Finding:
    if node:
        return good(Subject.NODE, node)
    # Who looks may well be in another process than the agent.
    return unknown(Subject.NODE, f"{variable} is not set here; the agent needs it, from spec.nodeName")


def _span(value: timedelta) -> str:
    return format_duration(timedelta(seconds=int(value.total_seconds())))


def _token(path: Path) -> TokenClaims | CitadelError:
    try:
        return TokenClaims.of(path.read_text())
    except OSError as error:
        return NotFound(Reason.KUBERNETES_NOT_FOUND, f"{path} cannot be read: {error.strerror}")
    except (CitadelError, ValueError):
        return InvalidArgument(Reason.K8S_TOKEN_REFUSED, f"{path} holds no token of a service account")


def _cgroups(proc: Path) -> Iterator[str]:
    own = str(os.getpid())
    for entry in proc.iterdir():
        if entry.name.isdecimal() and entry.name != own:
            with suppress(OSError):  # it has ended
                yield (entry / "cgroup").read_text(errors="replace")


async def _answers(socket: Path) -> CitadelError | None:
    """Why the agent does not serve at its socket; None where it does."""
    async with aio.insecure_channel(f"unix:{socket}") as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=_ANSWER_SECONDS)
        except grpc.RpcError as error:
            return from_rpc_error(error)
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return None
    return Unavailable(Reason.NOT_READY, f"{socket} is not ready")
