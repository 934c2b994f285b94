"""The composition root of `citadel agent`: everything is made and wired here."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable
from contextlib import ExitStack
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from random import Random, SystemRandom
from typing import Final, TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from citadel._wire import agent_api_pb2
from citadel.clock import Clock, SystemClock
from citadel.config.files import ensure_private_dir, read_secret_file, remove_unfinished
from citadel.errors import CitadelError, FailedPrecondition, InvalidArgument, Reason, ResourceExhausted, Unavailable
from citadel.folder_lock import folder_lock
from citadel.join_string import JoinString
from citadel.probes import Probes
from citadel.tally import Tally
from sds.agent import AgentCondition
from sds.attest.unix import UnixAttestor
from sds.holdings import HoldingsFeed
from sds.keep.keeper import Keeper
from sds.link.bootstrap import Bootstrap, Invitation, parse_bundle_file
from sds.link.identity import AgentIdentity, IdentityFile, OwnIdentity
from sds.link.joining_key import JoiningKey
from sds.link.link import Link
from sds.link.renewal import OwnRenewal
from sds.link.signing import RemoteSigner
from sds.serve.registry import StreamRegistry
from sds.serve.server import WorkloadServer
from sds.settings import AgentSettings

JOIN_STRING_VARIABLE: Final = "CITADEL_JOIN_STRING"
_CLOSE_GRACE: Final = 1.0  # seconds for the streams of workloads; Envoy reconnects by itself

_log = structlog.get_logger(__name__)
_Result = TypeVar("_Result")


async def run_agent(settings: AgentSettings, *, stop: asyncio.Event) -> None:
    """Run an agent until `stop` is set. Joins first where it has no identity yet.

    Raises a `CitadelError` where it cannot start: bad settings, a damaged identity, a server that is not the expected
    one or refuses the token. A server that is away is waited for.
    """
    with ExitStack() as stack:
        await asyncio.to_thread(_take_over, settings.data_dir, stack)
        await _run_alone(settings, stop)


def _take_over(data_dir: Path, stack: ExitStack) -> None:
    """Make the folder this process's alone, and rid of what a killed one left half written."""
    ensure_private_dir(data_dir)
    try:
        stack.enter_context(folder_lock(data_dir))
        remove_unfinished(data_dir)
    except OSError as error:
        raise FailedPrecondition(
            Reason.STORE_UNAVAILABLE, f"data_dir {data_dir} cannot be written: {error.strerror}"
        ) from error


async def _run_alone(settings: AgentSettings, stop: asyncio.Event) -> None:
    clock, random, feed = SystemClock(), SystemRandom(), HoldingsFeed()
    condition = AgentCondition(feed=feed, clock=clock)
    probes = Probes(settings.probes, condition.readiness)
    await probes.start()
    try:
        identity = await _unless_stopped(_own_identity(settings, clock), stop)
        if identity is not None:
            condition.identity = identity
            await _serve(settings, identity, condition, feed=feed, clock=clock, random=random, stop=stop)
    finally:
        await probes.close()


def validate_agent(settings: AgentSettings) -> None:
    """Check what the settings name but the settings alone cannot show, and change nothing. Raises as `run_agent`."""
    Probes(settings.probes, AgentCondition(feed=HoldingsFeed(), clock=SystemClock()).readiness)
    if settings.data_dir.is_dir() and IdentityFile(settings.data_dir).load(settings.trust_domain) is not None:
        return
    _invitation(settings)


async def _serve(
    settings: AgentSettings,
    identity: OwnIdentity,
    condition: AgentCondition,
    *,
    feed: HoldingsFeed,
    clock: Clock,
    random: Random,
    stop: asyncio.Event,
) -> None:
    # The bundle from disk: what it vouched for before a restart is believed before the server is reached.
    bundle = identity.current.bundle
    feed.publish(replace(feed.current, bundles={bundle.trust_domain: bundle}))
    registry = StreamRegistry()
    attestor = UnixAttestor()
    workloads = WorkloadServer(
        socket=settings.socket,
        trust_domain=settings.trust_domain,
        feed=feed,
        attestor=attestor,
        registry=registry,
        clock=clock,
        on_refusal=Tally().count_refused,
    )
    keeper = Keeper(
        trust_domain=settings.trust_domain,
        key_kind=settings.workload_key,
        feed=feed,
        signer=RemoteSigner(api=lambda: link.api),
        reconnect=settings.reconnect,
        clock=clock,
        random=random,
    )
    link = Link(
        identity=identity,
        address=settings.server,
        hello=agent_api_pb2.Hello(agent_version=metadata.version("citadel"), host=socket.gethostname()),
        feed=feed,
        reports=registry,
        reconnect=settings.reconnect,
        clock=clock,
        on_up=keeper.server_is_back,
    )
    renewal = OwnRenewal(identity=identity, link=link, reconnect=settings.reconnect, clock=clock, random=random)
    condition.link = link
    await workloads.start()  # before the server is reached, so that workloads find their socket while it is away
    try:
        await _run_until(stop, link.run(), keeper.run(), renewal.run())
    finally:
        await workloads.close(grace=_CLOSE_GRACE)
        attestor.close()


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


async def _own_identity(settings: AgentSettings, clock: Clock) -> OwnIdentity:
    """The identity on disk, or a new one by joining."""
    file, joining_key = IdentityFile(settings.data_dir), JoiningKey(settings.data_dir)
    identity = await asyncio.to_thread(file.load, settings.trust_domain)
    if identity is None:
        identity = await _join(settings, clock, joining_key)
        await asyncio.to_thread(file.save, identity)
    elif identity.svid.not_after <= clock.now():
        _log.warning("the agent's own svid has ended", ended=identity.svid.not_after.isoformat())
    await asyncio.to_thread(joining_key.discard)
    _log.info("agent identity", spiffe_id=str(identity.svid.spiffe_id), serial=identity.svid.serial)
    return OwnIdentity(current=identity, file=file)


async def _join(settings: AgentSettings, clock: Clock, joining_key: JoiningKey) -> AgentIdentity:
    invitation = await asyncio.to_thread(_invitation, settings)
    key = await asyncio.to_thread(joining_key.take)
    bootstrap = Bootstrap(trust_domain=settings.trust_domain, reconnect=settings.reconnect, clock=clock)
    attempts = AsyncRetrying(
        retry=retry_if_exception_type((Unavailable, ResourceExhausted)),
        wait=wait_random_exponential(
            multiplier=settings.reconnect.initial.total_seconds(), max=settings.reconnect.maximum.total_seconds()
        ),
        sleep=clock.sleep,
        before_sleep=_log_first_failure,
        reraise=True,
    )
    return await attempts(bootstrap.join, invitation, key=key)


def _log_first_failure(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    if state.attempt_number == 1 and isinstance(error, CitadelError):
        _log.warning("cannot join yet, trying again", reason=error.reason, error=str(error))


def _invitation(settings: AgentSettings) -> Invitation:
    """What the operator gave to join with. Blocks on the disk."""
    known_bundle = None
    if (path := settings.join.bundle_file) is not None:
        try:
            known_bundle = parse_bundle_file(settings.trust_domain, path.read_bytes())
        except OSError as error:
            message = f"join.bundle_file {path} cannot be read: {error.strerror}"
            raise InvalidArgument(Reason.CONFIG_INVALID, message) from error
    return Invitation(
        join_string=JoinString.parse(_join_text(settings)),
        known_bundle=known_bundle,
        insecure=settings.join.insecure_bootstrap,
    )


def _join_text(settings: AgentSettings) -> str:
    if settings.join.string_file is not None:
        # A byte that is not ASCII is in no join string, and refused as such.
        return read_secret_file(settings.join.string_file).decode("ascii", errors="replace")
    if text := os.environ.get(JOIN_STRING_VARIABLE):
        return text
    raise FailedPrecondition(
        Reason.CONFIG_INVALID,
        f"this agent has no identity in {settings.data_dir} and no join string to get one",
        fix=f"set join.string_file or {JOIN_STRING_VARIABLE} to what `citadel-cli token create` prints",
    )
