"""What serves the workloads of the node, wired."""

from __future__ import annotations

import os
from typing import Final

from citadel.clock import Clock
from citadel.unix_listener import inherited_unix
from cli.agent_foundation import AgentFoundation
from cli.agent_keeping import AgentKeeping
from cli.limits import open_files
from sds.link.link import Link
from sds.serve.lingering import MOST_LINGERING
from sds.serve.registry import StreamRegistry
from sds.serve.server import WorkloadServer

_SHARE_OF_FILES: Final = 8  # the part of the descriptors that closed streams may have, one a process


def stream_registry(clock: Clock) -> StreamRegistry:
    """How the streams of workloads stand."""
    return StreamRegistry(clock=clock, most_lingering=min(MOST_LINGERING, open_files() // _SHARE_OF_FILES))


def workload_server(
    base: AgentFoundation, keeping: AgentKeeping, *, registry: StreamRegistry, link: Link
) -> WorkloadServer:
    """Serves what is kept, not yet started. `link` knows whether the server was ever heard."""
    settings, insight = base.settings, base.insight
    return WorkloadServer(
        socket=settings.socket,
        relay_dir=settings.relay_dir,
        listener=inherited_unix(settings.socket, os.environ),
        trust_domain=settings.trust_domain,
        feed=base.feed,
        attestor=base.callers.attestor,
        news=base.callers.news,
        party_of=base.callers.party_of,
        registry=registry,
        tokens=keeping.tokens,
        clock=base.clock,
        policies=base.policies,
        decisions=insight.decisions,
        names=settings.sds.names,
        limits=settings.limits,
        has_heard=lambda: link.was_up,
        on_refusal=insight.tally.count_refused,
        interceptors=insight.interceptors,
        credentials=keeping.credentials.book,
    )
