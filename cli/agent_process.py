"""The composition root of `citadel agent`: everything is made and wired from here, stage by stage."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from citadel.clock import SystemClock
from citadel.config.files import empty_private_dir, ensure_private_dir, remove_unfinished
from citadel.errors import FailedPrecondition, Reason
from citadel.folder_lock import folder_lock
from cli.agent_foundation import AgentFoundation, agent_foundation
from cli.agent_joining import check_can_join, kept_identity, own_identity
from cli.agent_keeping import agent_keeping
from cli.agent_kubernetes import PROC, check_attesting
from cli.agent_link import agent_link
from cli.agent_serving import stream_registry, workload_server
from sds.link.identity import OwnIdentity
from sds.link.memory import RevocationFile, RevocationMemory
from sds.settings import AgentSettings

_CLOSE_GRACE: Final = 1.0  # seconds for the streams of workloads; Envoy reconnects by itself

_Result = TypeVar("_Result")


async def run_agent(settings: AgentSettings, *, stop: asyncio.Event, proc: Path = PROC) -> None:
    """Run an agent until `stop` is set. Joins first where it has no identity yet. `proc` tells of cgroups.

    Raises a `CitadelError` where it cannot start: bad settings, a damaged identity, a server that is not the expected
    one or refuses the token. A server that is away is waited for.
    """
    with ExitStack() as stack:
        await asyncio.to_thread(_take_over, settings, stack)
        await _run_alone(settings, stop, proc)


def _take_over(settings: AgentSettings, stack: ExitStack) -> None:
    """Make the folder this process's alone, and rid of what a killed one left."""
    data_dir = settings.data_dir
    ensure_private_dir(data_dir)
    try:
        stack.enter_context(folder_lock(data_dir))
        remove_unfinished(data_dir)
        empty_private_dir(settings.relay_dir)
    except OSError as error:
        raise FailedPrecondition(
            Reason.STORE_UNAVAILABLE, f"data_dir {data_dir} cannot be written: {error.strerror}"
        ) from error


async def _run_alone(settings: AgentSettings, stop: asyncio.Event, proc: Path) -> None:
    async with agent_foundation(settings, proc) as base:
        identity = await _unless_stopped(own_identity(settings, base.clock), stop)
        if identity is not None:
            base.condition.identity = identity
            await _serve(base, identity, stop)


def validate_agent(settings: AgentSettings) -> None:
    """Check what the settings name but the settings alone cannot show, and change nothing. Raises as `run_agent`."""
    if settings.authz.policy_file is not None:
        from citadel.access.loading import load_policies  # noqa: PLC0415 - as in `PolicyFile`

        load_policies(settings.authz.policy_file)
    if settings.kubernetes is not None:
        asyncio.run(check_attesting(settings.kubernetes, SystemClock()))
    if settings.data_dir.is_dir() and kept_identity(settings) is not None:
        return
    check_can_join(settings)


async def _serve(base: AgentFoundation, identity: OwnIdentity, stop: asyncio.Event) -> None:
    settings, callers = base.settings, base.callers
    memory = await _recalled(base, identity)
    registry = stream_registry(base.clock)
    # What is kept is had over the link, which is made below: it tells the server how far the keeping is.
    keeping = agent_keeping(base, api=lambda: linked.link.api)
    linked = agent_link(base, identity, keeper=keeping.keeper, reports=registry, memory=memory)
    workloads = workload_server(base, keeping, registry=registry, link=linked.link)
    base.condition.link = linked.link
    await workloads.start()  # before the server is reached, so that workloads find their socket while it is away
    try:
        async with base.insight.admin_socket(
            settings.admin_socket,
            relay_dir=settings.relay_dir,
            attestor=callers.attestor,
            keeping=keeping.keeper,
            streams=registry,
            sds_names=workloads.names_for,
        ):
            following = [work() for work in callers.work]
            following.append(keeping.credentials.run())
            own = (linked.link.run(), keeping.keeper.run(), linked.renewal.run(), base.policies.run())
            await _run_until(stop, *own, *following)
    finally:
        await workloads.close(grace=_CLOSE_GRACE)
        await keeping.tokens.close()


async def _recalled(base: AgentFoundation, identity: OwnIdentity) -> RevocationMemory:
    """What a restart must not forget, from disk.

    What the bundle vouched for before is believed before the server is reached, and what was revoked is refused.
    """
    bundle, feed = identity.current.bundle, base.feed
    feed.publish(replace(feed.current, bundles={bundle.trust_domain: bundle}))
    memory = RevocationMemory(file=RevocationFile(base.settings.data_dir, bundle.trust_domain), feed=feed)
    await memory.recall(bundle=bundle, now=base.clock.now())
    return memory


async def _run_until(stop: asyncio.Event, *parts: Awaitable[None]) -> None:
    """Run `parts` until `stop`. One that fails ends all: an agent that is half alive helps nobody."""
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(_await(part)) for part in parts]
        await stop.wait()
        for task in running:
            task.cancel()


async def _unless_stopped(part: Awaitable[_Result], stop: asyncio.Event) -> _Result | None:
    """The result of `part`, or None when `stop` comes first."""
    working, stopping = asyncio.ensure_future(part), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


async def _await(part: Awaitable[None]) -> None:
    await part
