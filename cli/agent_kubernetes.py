"""Who calls the agent: processes alone, or with the settings' section `kubernetes` the pods around them too."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry

from citadel.clock import Clock
from citadel.errors import CitadelError, InvalidArgument, Reason
from citadel.kubernetes.observed import Calls, ObservedApi
from citadel.kubernetes.opening import open_client
from citadel.probes import Check, Health
from sds.attest.kubernetes.attestor import KubernetesAttestor
from sds.attest.kubernetes.metrics import PodCollector, Waits
from sds.attest.kubernetes.pods import NodePods
from sds.attest.unix import UnixAttestor
from sds.serve.callers import CallerNews, PartyOf, WorkloadAttestor
from sds.settings import KubernetesSettings

_CHECK: Final = "kubernetes"
PROC: Final = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class Attesting:
    """What turns callers into selectors, what keeps it up to date, and how that is doing."""

    attestor: WorkloadAttestor
    news: CallerNews | None = None
    party_of: PartyOf | None = None
    work: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = ()
    check: Callable[[], Check] | None = None


@asynccontextmanager
async def attesting(
    settings: KubernetesSettings | None,
    clock: Clock,
    *,
    metrics: CollectorRegistry,
    environment: Mapping[str, str] = os.environ,
    proc: Path = PROC,
) -> AsyncIterator[Attesting]:
    """All of it, not yet started; it ends with this.

    Raises `InvalidArgument` (`config_invalid`) where the section `kubernetes` lacks what it needs.
    """
    unix = UnixAttestor()
    try:
        if settings is None:
            yield Attesting(attestor=unix)
            return
        node = node_name(settings, environment)
        client = await open_client(settings.api, "kubernetes.api")
        try:
            api = ObservedApi(client, clock=clock)
            pods = NodePods(api, node=node, clock=clock)
            metrics.register(PodCollector(pods=pods, calls=api.calls))
            attestor = KubernetesAttestor(
                others=unix,
                pods=pods,
                waits=Waits(metrics, clock=clock),
                wait=settings.wait.total_seconds(),
                proc=proc,
            )
            try:
                yield Attesting(
                    attestor=attestor,
                    news=attestor,
                    party_of=attestor.party_of,
                    work=(pods.run,),
                    check=lambda: _check(pods, api.calls, clock, client.renewal.trouble),
                )
            finally:
                attestor.close()
        finally:
            await client.close()
    finally:
        unix.close()


async def check_attesting(settings: KubernetesSettings, clock: Clock) -> None:
    """Raises what would keep `attesting` from being made."""
    async with attesting(settings, clock, metrics=CollectorRegistry()):
        pass


def node_name(settings: KubernetesSettings, environment: Mapping[str, str]) -> str:
    """The node that this agent is on."""
    if not (node := environment.get(settings.node_name_env, "")):
        raise InvalidArgument(
            Reason.CONFIG_INVALID,
            f"the environment variable {settings.node_name_env} is to have the name of this node, and is not set",
            fix="set it from the field spec.nodeName of the agent's pod, or name another with kubernetes.node_name_env",
        )
    return node


def _check(pods: NodePods, calls: Calls, clock: Clock, unread: CitadelError | None) -> Check:
    """Never dead: callers in pods that are known are attested without the API server.

    `unread` says why what opens the way to it cannot be read anew.
    """
    why = [f"{unread.message} ({unread.reason.value})"] if unread is not None else []
    if (trouble := calls.trouble) is not None:
        seconds = max(0, round((clock.now() - trouble.since).total_seconds()))
        what = f"{trouble.error.message} ({trouble.error.reason.value}), for {seconds} s"
        return Check(_CHECK, Health.DEGRADED, "; ".join([what, *why, f"{len(pods)} pods are known, new ones wait"]))
    if not pods.has_synced:
        return Check(_CHECK, Health.DEGRADED, "the pods of this node are being read for the first time")
    return Check(_CHECK, Health.DEGRADED if why else Health.GOOD, "; ".join([f"{len(pods)} pods of this node", *why]))
