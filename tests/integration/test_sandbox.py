"""The server and the agent where their units put them: nothing can be written but what the units name."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from citadel.config.types import HostPort
from sds.link.identity import IdentityFile
from tests.ports import free_port
from tests.servers import server_settings
from tests.unit.sds.fake_authority import FakeAuthority
from tests.unit.sds.fake_server import make_identity, now

pytestmark = pytest.mark.integration

# `ProtectSystem=strict`: $1 and $2 stay writable, which are StateDirectory and ReadWritePaths.
SANDBOX: Final = """
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
mount --bind "$2" "$2"
while read -r _ _ _ _ point _; do
    case $point in
        /proc* | /sys* | /dev* | "$1" | "$2") ;;
        *) mount -o remount,bind,ro "$point" ;;
    esac
done < <(sort -u -k 5,5 /proc/self/mountinfo)
cd /
shift 2
if touch "$TMPDIR/written" 2> /dev/null; then exit 99; fi
exec "$@"
"""


def sandboxes() -> tuple[str, Sequence[str]]:
    """The first that this machine lets us make, by what it is called."""
    for command in (("unshare", "--mount"), ("unshare", "--user", "--map-root-user", "--mount")):
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            return "nothing else can be written", [*command, "bash", "-c", SANDBOX, "bash"]
    return "NO SANDBOX, this machine lets us mount nothing", ["bash", "-c", 'shift 2; exec "$@"', "bash"]


NAME, SANDBOXED = sandboxes()


class Boxed:
    """One program: `state` is its data_dir, `run` has the sockets that others may reach."""

    def __init__(self, folder: Path, what: str) -> None:
        self.what = what
        self.state, self.run, self.temporary = folder / "state", folder / "run", folder / "temporary"
        self.config = folder / f"{what}.yaml"
        for each in (self.state, self.run, self.temporary):
            each.mkdir(mode=0o700)
        settings = _server(folder) if what == "server" else _agent(self.state, self.run)
        self.sockets = [self.run / "admin.sock", *([self.run / "agent.sock"] if what == "agent" else [])]
        self.config.write_text(yaml.safe_dump({**settings, "data_dir": str(self.state)}))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """From when it answers on its sockets on; killed at the end of the block."""
        command = [sys.executable, "-P", "-m", "cli.entry", self.what, "run", "--config", self.config]
        process = await asyncio.create_subprocess_exec(
            *(*SANDBOXED, self.state, self.run, *command), env={**os.environ, "TMPDIR": str(self.temporary)}
        )
        try:
            async with asyncio.timeout(30):
                while not all(map(_answers, self.sockets)):
                    assert process.returncode is None, "it ended by itself"
                    await asyncio.sleep(0.02)
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def relays(self) -> set[str]:
        """The sockets behind those that others may reach."""
        return {each.name for each in (self.state / "relay").iterdir()}


def _server(folder: Path) -> dict[str, Any]:
    settings = server_settings(folder)
    listen = {"admin_socket": str(folder / "run" / "admin.sock")}
    listen |= {name: str(getattr(settings.listen, name)) for name in ("bootstrap", "agents", "probes")}
    return {"trust_domain": "a.test", "keys": {"kek_file": str(settings.keys.kek_file)}, "listen": listen}


def _agent(state: Path, run: Path) -> dict[str, Any]:
    """One that has joined, and whose server is away."""
    IdentityFile(state).save(make_identity(FakeAuthority(now()), HostPort("127.0.0.1", free_port())))
    sockets = {"socket": str(run / "agent.sock"), "admin_socket": str(run / "admin.sock")}
    return {"trust_domain": "a.test", **sockets, "probes": f"127.0.0.1:{free_port()}"}


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@pytest.mark.parametrize("what", ["server", "agent"], ids=lambda what: f"{what}: {NAME}")
async def test_it_runs_and_what_a_killed_one_left_is_gone_with_the_next(tmp_path: Path, what: str) -> None:
    boxed = Boxed(tmp_path, what)
    async with boxed.running():
        left = boxed.relays()
    assert len(left) == len(boxed.sockets)
    assert boxed.relays() == left
    async with boxed.running() as process:
        assert len(boxed.relays()) == len(boxed.sockets)
        assert not boxed.relays() & left
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0
    assert boxed.relays() == set()
    assert list(boxed.temporary.iterdir()) == []
