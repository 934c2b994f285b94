"""Where clusters of tests live: each in a network of its own, as far as this machine lets us make one."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_BITS: Final = 24
_NAMESPACES: Final = Path("/run/netns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """`address` is the one that other clusters reach, `inner` is for those inside alone.

    `enter` stands before a command that is to run there. Without namespaces it is empty, both addresses are the same
    address of loopback, and nothing but the address keeps clusters apart.
    """

    address: str
    inner: str
    enter: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """As many as were asked for; `are_isolated` where each is a network namespace."""

    each: tuple[Place, ...]
    are_isolated: bool


@asynccontextmanager
async def places(number: int) -> AsyncIterator[Places]:
    """Networks that reach each other and nothing else; without namespaces, addresses of loopback."""
    async with AsyncExitStack() as stack:
        try:
            made = await _namespaces(number, stack)
        except OSError:
            await stack.aclose()
            # pytest tells it at the end of its run
            warnings.warn("clusters run on loopback addresses: no network namespaces can be made here", stacklevel=3)
            yield Places(each=_loopback(number), are_isolated=False)
            return
        yield Places(each=made, are_isolated=True)


async def _namespaces(number: int, stack: AsyncExitStack) -> tuple[Place, ...]:
    """A namespace for each, and one with the bridge between them. Raises `OSError` where they cannot be made."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise PermissionError("namespaces are made by root, with iproute2")
    await _take_away_what_was_left()
    run = f"ctd{os.getpid()}x{random.SystemRandom().getrandbits(_BITS):06x}"
    hub = f"{run}-hub"
    await _add_namespace(hub, stack)
    await _ip("-n", hub, "link", "add", "bridge", "type", "bridge")
    await _ip("-n", hub, "link", "set", "bridge", "up")
    made = []
    for host in range(1, number + 1):
        name, address = f"{run}-{host}", f"10.77.0.{host}"
        await _add_namespace(name, stack)
        await _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", f"port{host}", "netns", hub)
        await _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        await _ip("-n", name, "link", "set", "eth0", "up")
        await _ip("-n", hub, "link", "set", f"port{host}", "master", "bridge", "up")
        await _ip("netns", "exec", name, "true")  # a container may let us make one and not enter it
        made.append(Place(address=address, inner="127.0.0.1", enter=("ip", "netns", "exec", name)))
    return tuple(made)


async def _take_away_what_was_left() -> None:
    """Namespaces of runs that were killed, by the process id in their names."""
    for name in sorted(path.name for path in _NAMESPACES.glob("ctd*")):
        made = re.fullmatch(r"ctd(\d+)x[0-9a-f]+-\w+", name)
        if made is not None and not Path("/proc", made[1]).exists():
            with suppress(OSError):  # a neighbour was faster
                await _ip("netns", "delete", name)


async def _add_namespace(name: str, stack: AsyncExitStack) -> None:
    await _ip("netns", "add", name)
    stack.push_async_callback(_ip, "netns", "delete", name)  # which takes its ends of the links with it
    await _ip("-n", name, "link", "set", "lo", "up")


def _loopback(number: int) -> tuple[Place, ...]:
    # All of 127.0.0.0/8 is this machine; chosen at random, so that runs side by side have ports of their own.
    random_part = random.SystemRandom()
    second, third = random_part.randint(1, 254), random_part.randint(0, 254)
    hosts = [f"127.{second}.{third}.{host}" for host in range(1, number + 1)]
    return tuple(Place(address=host, inner=host) for host in hosts)


async def _ip(*words: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "ip", *words, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    if process.returncode:
        raise OSError(f"ip {' '.join(words)}: {said.decode(errors='replace').strip()}")


def in_place(place: Place, command: Sequence[str], *, uid: int | None = None) -> tuple[str, ...]:
    """The command that runs `command` there, as user and group `uid` where that is given; its process id stays one."""
    as_user = () if uid is None else ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--")
    return (*place.enter, *as_user, *command)
