"""The composition root of `citadel agent`: everything is made and wired here."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Awaitable
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from random import SystemRandom
from typing import Final, TypeVar

from citadel._wire import agent_api_pb2
from citadel.access.loading import load_policies
from citadel.clock import Clock, SystemClock
from citadel.config.files import empty_private_dir, ensure_private_dir, remove_unfinished
from citadel.errors import FailedPrecondition, Reason
from citadel.folder_lock import folder_lock
from citadel.jwt.fetching import HttpKeyFetcher
from citadel.jwt.key_ring import IssuerKeyRing
from citadel.probes import Probes
from citadel.unix_listener import inherited_unix
from citadel.wire import to_duration
from cli.agent_credentials import GatewayCredentials
from cli.agent_insight import AgentInsight
from cli.agent_joining import check_can_join, own_identity, returning
from cli.agent_kubernetes import PROC, Attesting, attesting, check_attesting
from cli.limits import open_files
from sds.agent import AgentCondition
from sds.authz.metrics import PolicyCollector
from sds.authz.policy_file import PolicyFile
from sds.holdings import HoldingsFeed
from sds.keep.keeper import Keeper
from sds.keep.orders import RenewOrder
from sds.link.identity import IdentityFile, OwnIdentity
from sds.link.link import Heeding, Link, Telling
from sds.link.memory import RevocationFile, RevocationMemory
from sds.link.renewal import OwnRenewal
from sds.link.servers import Servers
from sds.link.signing import RemoteSigner, RemoteTokenSigner
from sds.serve.lingering import MOST_LINGERING
from sds.serve.registry import StreamRegistry
from sds.serve.server import WorkloadServer
from sds.settings import AgentSettings
from sds.tokens.keeper import TokenKeeper

_CLOSE_GRACE: Final = 1.0  # seconds for the streams of workloads; Envoy reconnects by itself
_SHARE_OF_FILES: Final = 8  # the part of the descriptors that closed streams may have, one a process

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
    clock, feed = SystemClock(), HoldingsFeed()
    condition = AgentCondition(feed=feed, clock=clock)
    insight = AgentInsight(condition=condition, feed=feed, clock=clock)
    probes = Probes(settings.probes, condition.readiness, metrics=insight.metrics, outside=settings.probes_outside)
    keys = IssuerKeyRing(fetch=HttpKeyFetcher(), clock=clock, jitter=SystemRandom().random)
    policies = PolicyFile(settings.authz.policy_file, keys=keys, clock=clock)
    insight.metrics.register(PolicyCollector(policies))
    try:
        await policies.load()
        condition.policies = policies
        async with attesting(settings.kubernetes, clock, metrics=insight.metrics, proc=proc) as callers:
            condition.kubernetes = callers.check
            await probes.start()
            identity = await _unless_stopped(own_identity(settings, clock), stop)
            if identity is not None:
                condition.identity = identity
                await _serve(
                    settings, identity, condition, insight, policies, callers, feed=feed, clock=clock, stop=stop
                )
    finally:
        await keys.close()
        await probes.close()


def validate_agent(settings: AgentSettings) -> None:
    """Check what the settings name but the settings alone cannot show, and change nothing. Raises as `run_agent`."""
    if settings.authz.policy_file is not None:
        load_policies(settings.authz.policy_file)
    if settings.kubernetes is not None:
        asyncio.run(check_attesting(settings.kubernetes, SystemClock()))
    if settings.data_dir.is_dir() and IdentityFile(settings.data_dir).load(settings.trust_domain) is not None:
        return
    check_can_join(settings)


async def _serve(  # noqa: PLR0913 - where the agent is wired: what exists already is given
    settings: AgentSettings,
    identity: OwnIdentity,
    condition: AgentCondition,
    insight: AgentInsight,
    policies: PolicyFile,
    callers: Attesting,
    *,
    feed: HoldingsFeed,
    clock: Clock,
    stop: asyncio.Event,
) -> None:
    # From disk: what the bundle vouched for before a restart is believed before the server is reached, and what was
    # revoked is refused.
    bundle = identity.current.bundle
    feed.publish(replace(feed.current, bundles={bundle.trust_domain: bundle}))
    memory = RevocationMemory(file=RevocationFile(settings.data_dir, bundle.trust_domain), feed=feed)
    await memory.recall(bundle=bundle, now=clock.now())
    random = SystemRandom()
    registry = StreamRegistry(clock=clock, most_lingering=min(MOST_LINGERING, open_files() // _SHARE_OF_FILES))
    tokens = TokenKeeper(
        trust_domain=settings.trust_domain,
        feed=feed,
        signer=insight.metered_tokens(RemoteTokenSigner(api=lambda: link.api)),
        clock=clock,
        per_second=settings.limits.jwt_svids_per_second_per_uid,
        on_refusal=insight.tally.count_refused,
    )
    credentials = GatewayCredentials(
        feed=feed, api=lambda: link.api, on_refusal=insight.tally.count_refused, random=random, clock=clock
    )
    workloads = WorkloadServer(
        socket=settings.socket,
        relay_dir=settings.relay_dir,
        listener=inherited_unix(settings.socket, os.environ),
        trust_domain=settings.trust_domain,
        feed=feed,
        attestor=callers.attestor,
        news=callers.news,
        registry=registry,
        tokens=tokens,
        clock=clock,
        policies=policies,
        decisions=insight.decisions,
        names=settings.sds.names,
        limits=settings.limits,
        has_heard=lambda: link.was_up,
        on_refusal=insight.tally.count_refused,
        interceptors=insight.interceptors,
        credentials=credentials.book,
    )
    keeper = Keeper(
        trust_domain=settings.trust_domain,
        key_kind=settings.workload_key,
        feed=feed,
        signer=insight.metered(RemoteSigner(api=lambda: link.api)),
        reconnect=settings.reconnect,
        clock=clock,
        random=random,
        renew_at=settings.renewal.at,
    )

    begun, process = clock.monotonic(), secrets.token_hex(8)

    def hello() -> agent_api_pb2.Hello:
        return agent_api_pb2.Hello(
            agent_version=metadata.version("citadel"),
            host=socket.gethostname(),
            serving_for=to_duration(timedelta(seconds=clock.monotonic() - begun)),
            process=process,
        )

    def obey(order: RenewOrder) -> None:
        renewal.obey(order)
        keeper.obey(order)

    back = returning(settings, clock)
    link = Link(
        identity=identity,
        servers=Servers(settings.servers, identity=identity, show=back.issuers, clock=clock, random=random),
        hello=hello,
        feed=feed,
        telling=Telling(reports=registry, progress=keeper.progress()),
        heeding=Heeding(
            on_up=keeper.server_is_back,
            on_order=obey,
            on_revocations=memory.keep,
            on_roots=lambda: renewal.look_again(),  # noqa: PLW0108 - it is made after the link
        ),
        reconnect=settings.reconnect,
        clock=clock,
    )
    renewal = OwnRenewal(
        identity=identity,
        link=link,
        returning=back,
        reconnect=settings.reconnect,
        clock=clock,
        random=random,
        renew_at=settings.renewal.at,
    )
    condition.link = link
    await workloads.start()  # before the server is reached, so that workloads find their socket while it is away
    try:
        async with insight.admin_socket(
            settings.admin_socket,
            relay_dir=settings.relay_dir,
            attestor=callers.attestor,
            keeping=keeper,
            streams=registry,
            sds_names=workloads.names_for,
        ):
            following = [work() for work in callers.work]
            following.append(credentials.run())
            await _run_until(stop, link.run(), keeper.run(), renewal.run(), policies.run(), *following)
    finally:
        await workloads.close(grace=_CLOSE_GRACE)
        await tokens.close()


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
