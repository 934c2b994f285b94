"""What the demo sees of the mesh while it runs: identities, rotations, handshakes."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from cli.demo.envoy import EnvoyAdmin
from cli.demo.plan import Plan, Sidecar

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
        self._first_handshakes: dict[str, int] = {}
        self._serials: dict[str, set[str]] = {}

    async def look(self) -> list[Sighting]:
        """One look at each. Raises `httpx.HTTPError` where an admin page does not answer."""
        return [await self._sight(sidecar, admin) for sidecar, admin in self._watched]

    async def _sight(self, sidecar: Sidecar, admin: EnvoyAdmin) -> Sighting:
        certificate = await admin.certificate()
        serial = certificate.get("serial", "")
        serials = self._serials.setdefault(sidecar.name, set())
        if serial:
            serials.add(serial)
        handshakes = await admin.stat(_HANDSHAKES)
        return Sighting(
            name=sidecar.name,
            identity=certificate.get("uri", ""),
            serial=serial,
            expires=certificate.get("expires", ""),
            rotations=max(0, len(serials) - 1),
            handshakes=handshakes - self._first_handshakes.setdefault(sidecar.name, handshakes),
        )
