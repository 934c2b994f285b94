"""The composition root of `citadel server`: everything is made and wired from here, stage by stage.

One server at a time owns the store and serves; another one on the same store stands by until it can take its place. A
server that loses the store becomes a standby itself: it closes all that it had made, and later begins anew.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, TypeVar

import structlog

from ca.federation.settings import FederationSettings
from ca.https.files import trouble_with
from ca.lease.claim import Claim
from ca.lease.identity import holder_of
from ca.lease.tenure import Tenure
from ca.oidc.settings import OidcSettings
from ca.settings import ServerSettings
from ca.store.database import Database
from ca.store.lease import LeaseFence, SqlLeaseStore
from citadel.clock import Clock, SystemClock
from citadel.config.files import empty_private_dir, ensure_private_dir
from citadel.errors import Unavailable
from citadel.folder_lock import folder_lock
from citadel.probes import Check, Health, Probes, Readiness
from cli.server_core import server_core
from cli.server_doors import GRACE_SECONDS, ServerDoors
from cli.server_folder import read_authority
from cli.server_keys import check_keys
from cli.server_kubernetes import check_clients
from cli.server_starting import start_seen
from cli.server_starts import Starts
from cli.server_vault import validate_vault

_log = structlog.get_logger(__name__)

_T = TypeVar("_T")


async def run_server(settings: ServerSettings, *, stop: asyncio.Event) -> None:
    """Serve, or wait as standby, until `stop` is set or a part of the server fails beyond what waiting mends."""
    clock = SystemClock()
    ensure_private_dir(settings.data_dir)
    async with AsyncExitStack() as stack:
        stack.enter_context(folder_lock(settings.data_dir))
        await asyncio.to_thread(empty_private_dir, settings.relay_dir)  # of a killed predecessor's sockets
        database = Database.open(settings.database_url)
        stack.push_async_callback(database.close)
        claim = Claim(
            store=SqlLeaseStore(database=database),
            holder=holder_of(settings.data_dir, address=settings.advertise.agents or settings.listen.agents),
            duration=settings.lease.duration,
            clock=clock,
        )
        starts = Starts(settings, clock)
        while not stop.is_set():
            tenure = await _win(settings, claim, stop)
            if tenure is not None:
                await _serve_as_owner(settings, clock, database, tenure, starts, stop)
                await _unless(stop, starts.until_next())  # without the lease: another one may be better off
        _log.info("server stopped")


async def _win(settings: ServerSettings, claim: Claim, stop: asyncio.Event) -> Tenure | None:
    """Own the store, at once or after a wait; `None` when told to stop. Only the probes answer meanwhile."""
    tenure = await _unless(stop, claim.try_once())
    if tenure is not None or stop.is_set():
        return tenure
    probes = Probes(settings.listen.probes, lambda: _waiting(claim), outside=settings.listen.probes_outside)
    try:
        await probes.start()
        return await _unless(stop, claim.win())
    finally:
        await probes.close()


def _waiting(claim: Claim) -> Readiness:
    check = Check("lease", Health.DEAD, f"waits for {claim.waits_for}")
    return replace(Readiness.of([check]), stands_by=claim.stands_by)


async def _serve_as_owner(
    settings: ServerSettings, clock: Clock, database: Database, tenure: Tenure, starts: Starts, stop: asyncio.Event
) -> None:
    """Serve until told to stop, or until the store is lost; then give it back."""
    keeping = asyncio.create_task(tenure.keep())
    fence = LeaseFence(tenure.lease, on_lost=tenure.lost.set)
    try:
        await _serve(settings, clock, database.fenced(fence), tenure, starts, stop)
    except Unavailable as error:
        starts.failed(error)
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})
        await tenure.release()


async def _serve(
    settings: ServerSettings, clock: Clock, database: Database, tenure: Tenure, starts: Starts, stop: asyncio.Event
) -> None:
    """Everything behind the doors, then the doors; closed in order: doors, work, store."""
    async with AsyncExitStack() as stack:
        ends = {asyncio.create_task(stop.wait()), asyncio.create_task(tenure.lost.wait())}
        stack.callback(lambda: [end.cancel() for end in ends])
        async with start_seen(settings) as seen:  # it can take as long as a parent or Vault is away
            starting = asyncio.create_task(stack.enter_async_context(server_core(settings, clock, database, seen)))
            await asyncio.wait({starting, *ends}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                await asyncio.wait({starting})
                return
            core = starting.result()
        doors = ServerDoors.open(settings, core)

        async def close() -> None:
            # Whose store another one owns says nothing more, not even the end of what it was saying.
            await doors.close(grace=0 if tenure.lost.is_set() else GRACE_SECONDS)

        stack.push_async_callback(close)  # before the start: when one cannot open, those that did are closed
        await doors.start()
        starts.serves()
        gc.freeze()  # what was loaded lives as long as this process: with many entries a full pass would take long
        _log.info(
            "server ready",
            trust_domain=str(settings.trust_domain),
            bootstrap=str(doors.bootstrap.address),
            agents=str(doors.agents.address),
            admin=str(settings.listen.admin_socket),
            probes=str(doors.probes.address),
            oidc=str(doors.oidc.address) if doors.oidc else None,
            bundle_endpoint=str(doors.bundle_endpoint.address) if doors.bundle_endpoint else None,
        )
        done, _ = await asyncio.wait({*ends, *core.background}, return_when=asyncio.FIRST_COMPLETED)
        for task in done - ends:
            task.result()  # a part that ended by itself has failed: say why
        _log.info("server stopping")


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, _T]) -> _T | None:
    """What `work` comes to, or `None` where `stop` is set first; then `work` is given up."""
    stopping = asyncio.create_task(stop.wait())
    working = asyncio.create_task(work)
    try:
        await asyncio.wait({stopping, working}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        stopping.cancel()
        working.cancel()
        await asyncio.wait({stopping, working})


def validate_server(settings: ServerSettings) -> Sequence[str]:
    """Check what the settings name but the settings alone cannot show, and change nothing. Raises as `run_server`.

    Returns warnings of what would not keep it from starting.

    What only the store knows, such as the trust domain of its authorities, is found out when the server starts; a
    store that is away is waited for then.
    """
    check_keys(settings)
    Database.open(settings.database_url)  # connects to nothing
    for folder in (settings.data_dir, settings.data_dir / "keys"):
        if os.path.lexists(folder):  # otherwise the start makes it
            ensure_private_dir(folder)
    validate_vault(settings, SystemClock())
    if settings.kubernetes is not None:
        asyncio.run(check_clients(settings, SystemClock()))
    if settings.upstream.files is not None:
        read_authority(settings.upstream.files, trust_domain=settings.trust_domain, clock=SystemClock())
    served: dict[str, OidcSettings | FederationSettings] = {"oidc": settings.oidc, "federation": settings.federation}
    return [
        f"{name} would not be served: {trouble}"
        for name, each in served.items()
        if each.listen and each.certificate_file and each.key_file
        if (trouble := trouble_with(each.certificate_file, each.key_file, now=SystemClock().now()))
    ]
