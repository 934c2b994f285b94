"""The composition root of `citadel server`: everything is made and wired here, and nowhere else."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack

import structlog

from ca.keys.kek import read_kek
from ca.keys.sealing import Sealer
from ca.settings import ServerSettings
from citadel.clock import SystemClock
from citadel.probes import Probes, Readiness
from cli.server_core import server_core
from cli.server_doors import ServerDoors

_log = structlog.get_logger(__name__)


async def run_server(settings: ServerSettings, *, stop: asyncio.Event) -> None:
    """Serve until `stop` is set or a part of the server fails, then close in order: doors, work, store."""
    async with AsyncExitStack() as stack:
        core = await stack.enter_async_context(server_core(settings, SystemClock()))
        doors = ServerDoors.open(settings, core)
        stack.push_async_callback(doors.close)  # before the start: when one cannot open, those that did are closed
        await doors.start()
        _log.info(
            "server ready",
            trust_domain=str(settings.trust_domain),
            bootstrap=str(doors.bootstrap.address),
            agents=str(doors.agents.address),
            admin=str(settings.listen.admin_socket),
            probes=str(doors.probes.address),
        )
        stopping = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait({stopping, *core.background}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for task in done - {stopping}:
            task.result()  # a part that ended by itself has failed: say why
        _log.info("server stopping")


def validate_server(settings: ServerSettings) -> None:
    """Check what the settings name but the settings alone cannot show. Raises as `run_server` would."""
    Sealer(read_kek(settings.keys, os.environ))
    Probes(settings.listen.probes, lambda: Readiness(ready=False))
