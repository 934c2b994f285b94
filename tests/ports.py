"""Ports for servers of tests, also where several runs share a machine."""

from __future__ import annotations

import random
import socket
from typing import Final

# Below those that the kernel gives to whoever connects: one of these would be taken between the look and the listening.
_RANGE: Final = range(10_000, 32_000)


def free_port() -> int:
    """A port on loopback that was free a moment ago."""
    while True:
        port = random.SystemRandom().choice(_RANGE)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
