"""What the demo sees of the mesh while it runs: identities, rotations, handshakes."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from cli.demo.envoy import EnvoyAdmin
from cli.demo.plan import Plan, Sidecar

# Counted by Envoy itself: each time a secret from SDS has rebuilt a TLS context.
_UPDATES = "ssl_context_update_by_sds"
_HANDSHAKES = "ssl.handshake"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One sidecar at one moment; `identity` is "" where it has none. Counters run from the first sighting."""

    name: str
    identity: str
    serial: str
    expires: str
    rotations: int
    handshakes: int


class Observer:
    """Looks at the sidecars that have entries."""

    def __init__(self, plan: Plan, client: httpx.AsyncClient) -> None:
        self._watched = [(sidecar, EnvoyAdmin(client, sidecar.admin_port)) for sidecar in plan.sidecars[:2]]
        self._first: dict[str, tuple[int, int]] = {}

    async def look(self) -> list[Sighting]:
        """One look at each. Raises `httpx.HTTPError` where an admin page does not answer."""
        return [await self._sight(sidecar, admin) for sidecar, admin in self._watched]

    async def _sight(self, sidecar: Sidecar, admin: EnvoyAdmin) -> Sighting:
        updates, handshakes = await admin.stat(_UPDATES), await admin.stat(_HANDSHAKES)
        first_updates, first_handshakes = self._first.setdefault(sidecar.name, (updates, handshakes))
        certificate = await admin.certificate()
        return Sighting(
            name=sidecar.name,
            identity=certificate.get("uri", ""),
            serial=certificate.get("serial", ""),
            expires=certificate.get("expires", ""),
            rotations=updates - first_updates,
            handshakes=handshakes - first_handshakes,
        )
