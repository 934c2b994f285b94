"""The composition root of `citadel server`: everything is made and wired here, and nowhere else."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack

import structlog

from ca.keys.kek import read_kek
from ca.settings import ServerSettings
from ca.store.database import Database
from citadel.clock import SystemClock
from citadel.config.files import ensure_private_dir
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
    """Check what the settings name but the settings alone cannot show, and change nothing. Raises as `run_server`.

    What only the store knows, such as the trust domain of its authorities, is found out when the server starts.
    """
    read_kek(settings.keys, os.environ)
    if settings.store_url is not None:
        Database.open(settings.store_url)  # connects to nothing
    for folder in (settings.data_dir, settings.data_dir / "keys"):
        if os.path.lexists(folder):  # otherwise the start makes it
            ensure_private_dir(folder)
