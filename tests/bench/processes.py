"""Real processes under measurement: `citadel server`, `citadel agent`, each on the server's core."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import yaml

from ca.settings import ServerSettings
from citadel.config.types import HostPort
from tests.bench.machine import Cores
from tests.servers import Server, connected, http_status, server_settings

_CITADEL: Final = ("-m", "cli.entry")
_PATIENCE: Final = 20.0


@asynccontextmanager
async def spawned(command: Sequence[str | Path], *, core: int, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process on `core` that writes to `log`, until the block ends."""
    with log.open("ab") as output:
        child = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=subprocess.STDOUT)
    os.sched_setaffinity(child.pid, {core})  # threads that it starts from here on stay there
    try:
        yield child
    finally:
        if child.returncode is None:
            child.terminate()
        await child.wait()


@asynccontextmanager
async def server_process(
    folder: Path, cores: Cores, *, module: Sequence[str] = _CITADEL, **sections: object
) -> AsyncIterator[tuple[Server, int]]:
    """A server as its own process, and its pid. `module` stands for `citadel`, `sections` are added to its settings."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings = server_settings(folder, log={"level": "warning"})
    config = folder / "server.yaml"
    config.write_text(yaml.safe_dump(_as_written(settings) | sections))
    command = [sys.executable, *module, "server", "run", "--config", str(config)]
    async with spawned(command, core=cores.server, log=folder / "server.log") as child:
        server = await connected(settings, asyncio.create_task(child.wait()))
        try:
            yield server, child.pid
        finally:
            await server.close()


async def until_ready(probes: HostPort) -> None:
    """Wait for a process to say on its probes that it is."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            try:
                if (await http_status(probes, "/ready"))[0] == 200:
                    return
            except (OSError, IndexError):
                pass  # it does not listen yet
            await asyncio.sleep(0.05)


def _as_written(settings: ServerSettings) -> dict[str, object]:
    listen = settings.listen
    return {
        "trust_domain": str(settings.trust_domain),
        "data_dir": str(settings.data_dir),
        "keys": {"kek_file": str(settings.keys.kek_file)},
        "listen": {name: str(getattr(listen, name)) for name in ("bootstrap", "agents", "probes", "admin_socket")},
        # What is measured is the server, and not how much of it one agent may have.
        "limits": {"joins_per_second": settings.limits.joins_per_second, "svids_per_second": 1e9, "agent_calls": 1000},
        "log": {"level": "warning"},
    }
