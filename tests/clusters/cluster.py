"""A cluster of real processes for tests: a server, an agent, Envoys and the workloads behind them, all in one place."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
import yaml

from citadel._wire import admin_pb2, types_pb2
from citadel._wire.admin_pb2_grpc import AdminStub
from citadel.config.files import write_private
from citadel.http_server import HttpServer, http_config
from citadel.reserved import agent_id
from citadel.spiffe import SpiffeId, TrustDomain
from cli.demo import envoy
from cli.demo.plan import Sidecar
from cli.demo.processes import Child
from tests.clusters.bootstraps import Bootstrap
from tests.clusters.cli import citadel_cli
from tests.clusters.places import Place, in_place
from tests.clusters.proxy import Proxy
from tests.integration.echo import echo
from tests.integration.meshes import until

_AGENT: Final = "node-1"
_FIRST_UID: Final = 61280  # beside those of the demo
_START_SECONDS: Final = 30.0
_BOOTSTRAP_PORT: Final = 8443
_AGENTS_PORT: Final = 8444
_SERVER_PROBES_PORT: Final = 8480
_AGENT_PROBES_PORT: Final = 8481
_ENDPOINT_PORT: Final = 8543


class Cluster:
    """Started by `running_cluster`. `settings` are sections of the server's settings that differ from the usual."""

    def __init__(
        self, name: str, trust_domain: TrustDomain, *, place: Place, folder: Path, settings: Mapping[str, Any]
    ) -> None:
        self.name = name
        self.trust_domain = trust_domain
        self.place = place
        self.folder = folder
        self._settings = settings
        self._stack = AsyncExitStack()
        self._proxies = 0
        self.children: dict[str, Child] = {}

    @property
    def admin_socket(self) -> Path:
        return self.folder / "server" / "admin.sock"

    @property
    def endpoint_url(self) -> str:
        """Where it serves its bundle."""
        return f"https://{self.place.address}:{_ENDPOINT_PORT}/"

    @property
    def agent_socket(self) -> Path:
        return self.folder / "run" / "agent.sock"

    def admin_channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(f"unix:{self.admin_socket}")

    async def start(self) -> None:
        for folder, mode in ((self.folder, 0o755), (self.folder / "server", 0o700), (self.folder / "agent", 0o700)):
            folder.mkdir(mode=mode)
        self.agent_socket.parent.mkdir(mode=0o755)
        await self.start_server()
        await self._start_agent()

    async def stop(self) -> None:
        await self._stack.aclose()

    async def start_server(self) -> None:
        """Start it, also again after it has ended."""
        folder, inner = self.folder / "server", self.place.inner
        settings: dict[str, Any] = {
            "trust_domain": self.trust_domain.name,
            "data_dir": str(folder / "data"),
            "keys": {"kek_file": str(folder / "kek")},
            "listen": {
                "bootstrap": f"{inner}:{_BOOTSTRAP_PORT}",
                "agents": f"{inner}:{_AGENTS_PORT}",
                "probes": f"{inner}:{_SERVER_PROBES_PORT}",
                "admin_socket": str(self.admin_socket),
            },
            "rotation": {"margin": "500ms"},
            "federation": {"listen": f"{self.place.address}:{_ENDPOINT_PORT}", "refresh_hint": "1s"},
        }
        if not (folder / "kek").exists():
            write_private(folder / "kek", base64.b64encode(os.urandom(32)))
        for section, values in self._settings.items():
            settings[section] = {**settings.get(section, {}), **values}
        await self._start_citadel("server", settings)
        await until(f"the server of {self.name} answers", self._answers, seconds=_START_SECONDS)

    async def _start_agent(self) -> None:
        await self.start_agent(_AGENT, self.folder / "agent", self.agent_socket, place=self.place)

    async def start_agent(
        self, name: str, folder: Path, agent_socket: Path, *, place: Place, probes: int = _AGENT_PROBES_PORT
    ) -> None:
        """An agent of this cluster, which may be in the place of another one."""
        async with self.admin_channel() as channel:
            token = await AdminStub(channel).CreateToken(admin_pb2.CreateTokenRequest(agent_name=name))
        write_private(folder / "join", token.join_string.encode())
        settings = {
            "trust_domain": self.trust_domain.name,
            "data_dir": str(folder / "data"),
            "socket": str(agent_socket),
            "admin_socket": str(folder / "admin.sock"),
            "join": {"string_file": str(folder / "join")},
            "probes": f"{place.inner}:{probes}",
        }
        await self._start_citadel("agent", settings, name=name if name != _AGENT else "agent", place=place)
        connected = partial(self._has_agent, name)
        await until(f"the agent {name} of {self.name} is connected", connected, seconds=_START_SECONDS)

    async def status(self) -> admin_pb2.Status:
        async with self.admin_channel() as channel:
            status: admin_pb2.Status = await AdminStub(channel).GetStatus(admin_pb2.GetStatusRequest())
            return status

    async def cli(self, *words: str) -> str:
        """What `citadel-cli` says; it must succeed."""
        code, said = await self.cli_result(*words)
        assert code == 0, said
        return said

    async def cli_result(self, *words: str) -> tuple[int, str]:
        """How `citadel-cli` ends, and all that it says."""
        return await citadel_cli("--socket", str(self.admin_socket), *words)

    async def workload(self, spiffe_id: SpiffeId, bootstrap: Bootstrap, *, federates_with: Sequence[str] = ()) -> Proxy:
        """A workload with an entry and a sidecar; its app says what came through. Ready when the sidecar serves."""
        proxy = await self._proxy(spiffe_id.path.rpartition("/")[2], spiffe_id)
        entry = types_pb2.Entry(
            spiffe_id=str(proxy.spiffe_id),
            parent_id=str(agent_id(self.trust_domain, _AGENT)),
            selectors=[str(proxy.sidecar.selector)],
            federates_with=federates_with,
        )
        async with self.admin_channel() as channel:
            await AdminStub(channel).CreateEntry(admin_pb2.CreateEntryRequest(entry=entry))
        await self._serve_app(proxy)
        bootstrap.listen("outbound", proxy.outbound_socket)
        bootstrap.point("workload", proxy.app_socket)
        bootstrap.point("citadel_agent", self.agent_socket)
        bootstrap.one_connection_each()
        await self._launch(proxy, bootstrap)
        return proxy

    async def gateway(self, bootstrap: Bootstrap) -> Proxy:
        """A gateway, which has no identity."""
        proxy = await self._proxy("gateway", None)
        await self._launch(proxy, bootstrap)
        return proxy

    async def _proxy(self, name: str, spiffe_id: SpiffeId | None) -> Proxy:
        uid = _FIRST_UID + self._proxies if os.geteuid() == 0 else None
        self._proxies += 1
        sidecar = Sidecar(name=name, folder=self.folder / name, uid=uid, admin_port=0, listen_port=0)
        await asyncio.to_thread(envoy.install, envoy.find_binary(), sidecar)
        if uid is not None:
            os.chown(sidecar.folder, uid, uid)  # it makes its sockets there
        proxy = Proxy(sidecar, spiffe_id)
        self._stack.push_async_callback(proxy.close)
        return proxy

    async def _launch(self, proxy: Proxy, bootstrap: Bootstrap) -> None:
        sidecar = proxy.sidecar
        path = sidecar.folder / "envoy.json"
        bootstrap.node(sidecar.name)
        bootstrap.admin(proxy.admin_socket)
        bootstrap.write(path)
        command = [
            str(sidecar.executable),
            "-c",
            str(path),
            "--disable-hot-restart",
            "--concurrency",
            "1",
            "-l",
            "warn",
        ]
        await self._start_child(sidecar.name, in_place(self.place, command, uid=sidecar.uid))
        await until(f"{sidecar.name} of {self.name} serves", proxy.admin.is_live, seconds=_START_SECONDS)

    async def _serve_app(self, proxy: Proxy) -> None:
        listener = socket.socket(socket.AF_UNIX)
        self._stack.callback(listener.close)
        listener.bind(str(proxy.app_socket))
        proxy.app_socket.chmod(0o666)  # its sidecar is another user
        listener.listen()
        server = HttpServer(http_config(echo(self.name)))
        task = asyncio.create_task(server.serve(sockets=[listener]))

        async def stop() -> None:
            server.should_exit = True
            await task

        self._stack.push_async_callback(stop)

    async def _start_citadel(
        self, what: str, settings: Mapping[str, Any], *, name: str = "", place: Place | None = None
    ) -> None:
        path = Path(settings["data_dir"]).parent / f"{what}.yaml"
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
        command = [sys.executable, "-P", "-m", "cli.entry", what, "run", "--config", str(path)]
        await self._start_child(name or what, in_place(place or self.place, command))

    async def _start_child(self, name: str, command: Sequence[str]) -> None:
        child = await Child.start(f"{name} of {self.name}", command, log=self.folder / f"{name}.log")
        self._stack.push_async_callback(child.stop)
        self.children[name] = child

    async def _answers(self) -> bool:
        self.children["server"].check()
        try:
            await self.status()
        except grpc.aio.AioRpcError:
            return False
        return True

    async def _has_agent(self, name: str) -> bool:
        for child in self.children.values():
            child.check()
        spiffe_id = str(agent_id(self.trust_domain, name))
        return any(agent.connected for agent in (await self.status()).agents if agent.spiffe_id == spiffe_id)
