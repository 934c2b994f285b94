"""An Envoy of a cluster, with the workload before and behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import httpx

from citadel.spiffe import SpiffeId
from cli.demo.envoy import EnvoyAdmin
from cli.demo.plan import Sidecar

_NO_PORT: Final = 80  # its admin page listens on a Unix socket


class Proxy:
    """Its admin page and what its workload calls listen on Unix sockets, which can be reached from any network."""

    def __init__(self, sidecar: Sidecar, spiffe_id: SpiffeId | None) -> None:
        self.sidecar = sidecar
        self._id = spiffe_id
        self._admin = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(self.admin_socket)), timeout=5.0)
        self.admin = EnvoyAdmin(self._admin, _NO_PORT)
        # One connection for each call to the sidecar too: nothing hides behind a kept connection.
        transport = httpx.AsyncHTTPTransport(
            uds=str(self.outbound_socket), limits=httpx.Limits(max_keepalive_connections=0)
        )
        self._outbound = httpx.AsyncClient(transport=transport, base_url="http://service", timeout=5.0)

    @property
    def spiffe_id(self) -> SpiffeId:
        assert self._id is not None, "a gateway has no identity"
        return self._id

    @property
    def admin_socket(self) -> Path:
        return self.sidecar.folder / "admin.sock"

    @property
    def outbound_socket(self) -> Path:
        return self.sidecar.folder / "outbound.sock"

    @property
    def app_socket(self) -> Path:
        return self.sidecar.folder / "app.sock"

    async def call(self) -> tuple[str, str]:
        """Call the other cluster's service: the SPIFFE ID that its workload was told of, and the one that answered."""
        answer = (await self._outbound.get("/")).raise_for_status()
        headers = dict(answer.json()["headers"])
        caller = dict(part.partition("=")[::2] for part in headers["x-forwarded-client-cert"].split(";"))
        return caller["URI"], answer.headers["x-served-by"]

    async def works(self) -> bool:
        """Whether a call goes through."""
        return await self.refusal() == ""

    async def refusal(self) -> str:
        """How a call fails, or "" where it does not."""
        try:
            await self.call()
        except httpx.HTTPStatusError as error:
            return f"{error.response.status_code} {error.response.text}"
        return ""

    async def close(self) -> None:
        await self._outbound.aclose()
        await self._admin.aclose()
