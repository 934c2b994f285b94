"""What can be seen of a server before its doors open: a start can wait for a parent or Vault, or for its store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ca.settings import ServerSettings
from citadel.probes import Check, Health, Probes, Readiness


@dataclass(slots=True)
class StartSeen:
    """What the start waits for, in words for people."""

    text: str = "not heard yet"

    def waits_for(self, text: str) -> None:
        """It waits, and this is why."""
        self.text = text


@asynccontextmanager
async def start_seen(settings: ServerSettings) -> AsyncIterator[StartSeen]:
    """Within this the probes say that the server is not ready, and why."""
    name = "vault" if settings.vault else "upstream" if settings.upstream.citadel else "store"
    seen = StartSeen() if name != "store" else StartSeen("the store is read, and brought up to date first")
    probes = Probes(
        settings.listen.probes,
        lambda: Readiness.of([Check(name, Health.DEAD, f"start waits: {seen.text}")]),
        outside=settings.listen.probes_outside,
    )
    await probes.start()
    try:
        yield seen
    finally:
        await probes.close()
