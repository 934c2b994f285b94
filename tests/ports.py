"""Ports for servers of tests, also where several runs share a machine."""

from __future__ import annotations

import os
import random
import socket
from typing import Final

# Below those that the kernel gives to whoever connects: one of these would be taken between the look and the listening.
_RANGE: Final = range(10_000, 32_000)

# What is asked for now may be listened on much later: nobody else is to be given it until then.
_given: Final[set[int]] = set()


def free_port() -> int:
    """A port on loopback that was free a moment ago, and that nobody else in this run was or will be given."""
    mine = ports_of(os.environ.get("PYTEST_XDIST_WORKER", "gw0"), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    while True:
        port = random.SystemRandom().choice(mine)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port


def ports_of(worker: str, count: int) -> range:
    """What this one of so many workers draws from, and no other."""
    return _RANGE[int(worker.removeprefix("gw")) :: count]
