"""The demo's mesh: a server, an agent, two sidecars with entries and one without."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, Literal

import grpc
import httpx
import yaml

from citadel._wire import admin_pb2, types_pb2
from citadel._wire.admin_pb2_grpc import AdminStub
from citadel.config.files import write_private
from citadel.config.types import HostPort, format_duration
from citadel.loopback_http import LoopbackHttp
from cli.demo import envoy
from cli.demo.bookinfo import reviews_app
from cli.demo.issuer import Issuer, policies
from cli.demo.plan import AGENT_NAME, LEAST_MARGIN, TRUST_DOMAIN, Plan, Sidecar
from cli.demo.processes import Child, until
from cli.demo.vault import DemoVault

_KEK_BYTES: Final = 32


class Mesh:
    """Starts everything in order, and stops it in the reverse order.

    `server` has more settings for the server, which has its root in `vault` where there is one. With an `issuer` the
    sidecar of reviews asks the agent about each request and chooses one of two versions by its end user.
    """

    def __init__(
        self,
        plan: Plan,
        client: httpx.AsyncClient,
        *,
        server: Mapping[str, Mapping[str, Any]] | None = None,
        issuer: Issuer | None = None,
        vault: DemoVault | None = None,
    ) -> None:
        self._plan = plan
        self._client = client
        self._server_settings = server or {}
        self._issuer = issuer
        self._vault = vault
        self._stack = AsyncExitStack()
        self.children: dict[str, Child] = {}

    async def start(self) -> None:
        """Bring up the mesh. Raises `CitadelError` saying what did not come up, with the last lines of its log."""
        plan = self._plan
        for folder in (plan.folder / "server", plan.folder / "agent"):
            folder.mkdir(mode=0o700)
        plan.agent_socket.parent.mkdir(mode=0o755)
        if self._vault is not None:
            self._stack.push_async_callback(self._vault.stop)
            await self._vault.start()
        await self._start_server()
        if self._issuer is not None:
            await self._issuer.start()
            self._stack.push_async_callback(self._issuer.close)
        await self._start_agent()
        for sidecar in (plan.productpage, plan.reviews):
            await self._register(sidecar)
        await self._start_reviews()
        binary = envoy.find_binary()
        for sidecar in plan.sidecars:
            await asyncio.to_thread(envoy.install, binary, sidecar)
            await self.launch_sidecar(sidecar)
        for sidecar in (plan.productpage, plan.reviews):
            await self._until(
                f"the sidecar of {sidecar.name}", envoy.EnvoyAdmin(self._client, sidecar.admin_port).is_live
            )

    async def stop(self) -> None:
        """End every process that was started."""
        await self._stack.aclose()

    def check(self) -> None:
        """Raise if any process has ended by itself."""
        for child in self.children.values():
            child.check()
        if self._vault is not None:
            self._vault.check()

    async def launch(self, what: Literal["server", "agent"]) -> None:
        """Start the configured server or agent, also again after it has ended, and wait until it is ready."""
        plan = self._plan
        probes = plan.server_probes_port if what == "server" else plan.agent_probes_port
        command = [sys.executable, "-P", "-m", "cli.entry", what, "run", "--config", str(self._settings_of(what))]
        await self._start_child(what, command)

        async def is_ready() -> bool:
            try:
                return (await self._client.get(f"http://127.0.0.1:{probes}/ready")).is_success
            except httpx.HTTPError:
                return False

        await self._until(f"the {what}", is_ready)

    async def launch_sidecar(self, sidecar: Sidecar, *, rewrite: bool = True) -> None:
        """Start an installed sidecar, also again after it has ended; `rewrite` makes its bootstrap first."""
        path = sidecar.folder / "envoy.json"
        if rewrite:
            path = envoy.write_bootstrap(sidecar, self._bootstrap_of(sidecar))
        command = [sidecar.executable, "-c", path, "--disable-hot-restart", "--concurrency", "1", "-l", "warn"]
        await self._start_child(sidecar.name, [str(part) for part in command], uid=sidecar.uid)

    def _bootstrap_of(self, sidecar: Sidecar) -> dict[str, Any]:
        if sidecar is not self._plan.reviews:
            return envoy.client_bootstrap(self._plan, sidecar)
        make = envoy.server_bootstrap if self._issuer is None else envoy.authorizing_bootstrap
        return make(self._plan, sidecar)

    async def status(self) -> admin_pb2.Status:
        """What `citadel-cli status` shows."""
        async with self.admin_channel() as channel:
            status: admin_pb2.Status = await AdminStub(channel).GetStatus(admin_pb2.GetStatusRequest())
            return status

    def admin_channel(self) -> grpc.aio.Channel:
        """To the server's admin socket."""
        return grpc.aio.insecure_channel(f"unix:{self._plan.admin_socket}")

    async def _start_server(self) -> None:
        plan = self._plan
        folder = plan.folder / "server"
        # The demo alone makes its key-encryption key itself; an operator supplies one.
        write_private(folder / "kek", base64.b64encode(os.urandom(_KEK_BYTES)))
        settings: dict[str, Any] = {
            "trust_domain": TRUST_DOMAIN.name,
            "data_dir": str(folder / "data"),
            "keys": {"kek_file": str(folder / "kek")},
            "listen": {
                "bootstrap": f"127.0.0.1:{plan.bootstrap_port}",
                "agents": f"127.0.0.1:{plan.agents_port}",
                "probes": f"127.0.0.1:{plan.server_probes_port}",
                "admin_socket": str(plan.admin_socket),
            },
            "svids": {"default_lifetime": format_duration(plan.leaf_lifetime)},
            "rotation": {"margin": format_duration(LEAST_MARGIN)},
        }
        further = self._server_settings if self._vault is None else {**self._server_settings, **self._vault.settings}
        for section, values in further.items():
            settings[section] = {**settings.get(section, {}), **values}
        self._configure("server", settings)
        await self.launch("server")

    async def _start_agent(self) -> None:
        plan = self._plan
        folder = plan.folder / "agent"
        async with self.admin_channel() as channel:
            request = admin_pb2.CreateTokenRequest(agent_name=AGENT_NAME)
            token = await AdminStub(channel).CreateToken(request)
        write_private(folder / "join", token.join_string.encode())
        settings: dict[str, Any] = {
            "trust_domain": TRUST_DOMAIN.name,
            "data_dir": str(folder / "data"),
            "socket": str(plan.agent_socket),
            "admin_socket": str(plan.agent_admin_socket),
            "join": {"string_file": str(folder / "join")},
            "probes": f"127.0.0.1:{plan.agent_probes_port}",
        }
        if self._issuer is not None:
            (folder / "policies.yaml").write_text(policies(plan))
            settings["authz"] = {"policy_file": str(folder / "policies.yaml")}
        self._configure("agent", settings)
        await self.launch("agent")

    def _configure(self, what: str, settings: dict[str, Any]) -> None:
        self._settings_of(what).write_text(yaml.safe_dump(settings, sort_keys=False))

    def _settings_of(self, what: str) -> Path:
        return self._plan.folder / what / f"{what}.yaml"

    async def _register(self, sidecar: Sidecar) -> None:
        entry = types_pb2.Entry(
            spiffe_id=str(sidecar.spiffe_id), parent_id=str(self._plan.agent_id), selectors=[str(sidecar.selector)]
        )
        async with self.admin_channel() as channel:
            await AdminStub(channel).CreateEntry(admin_pb2.CreateEntryRequest(entry=entry))

    async def _start_reviews(self) -> None:
        for version, port in (("v1", self._plan.app_port), ("v2", self._plan.app_v2_port)):
            app = LoopbackHttp(reviews_app(version), HostPort("127.0.0.1", port))
            await app.start()
            self._stack.push_async_callback(app.close)

    async def _start_child(self, name: str, command: Sequence[str | Path], *, uid: int | None = None) -> None:
        child = await Child.start(name, command, log=self._plan.folder / f"{name}.log", uid=uid)
        self._stack.push_async_callback(child.stop)
        self.children[name] = child  # in place of one that has ended

    async def _until(self, what: str, holds: Callable[[], Awaitable[bool]]) -> None:
        await until(what, holds, check=self.check, logs=self._plan.folder / "*.log")
