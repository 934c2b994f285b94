"""Bookinfo as it is shipped, on loopback: its Envoys with their own files, and small programs as workloads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from citadel.config.types import HostPort
from citadel.loopback_http import LoopbackHttp
from citadel.spiffe import SpiffeId, TrustDomain
from cli.demo import envoy
from cli.demo.bookinfo import _uri_of
from cli.demo.plan import Sidecar
from cli.demo.processes import Child
from tests.integration.meshes import until
from tests.ports import free_port

SHIPPED: Final = Path(__file__).parents[2] / "deploy" / "bookinfo"
TRUST_DOMAIN: Final = TrustDomain("example.org")
USER: Final = "end-user"
_SERVICES: Final = ("details", "reviews", "ratings")


@dataclass
class Workload:
    """One pod: an Envoy with the bootstrap of this path, and the ports of both."""

    name: str
    bootstrap: str
    inbound: int = field(default_factory=free_port)
    app: int = field(default_factory=free_port)
    admin: int = field(default_factory=free_port)
    outbound: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in _SERVICES})

    @property
    def account(self) -> str:
        """Of its service account."""
        return f"bookinfo-{self.name.partition('-')[0]}"

    @property
    def spiffe_id(self) -> SpiffeId:
        """As by the template of identities."""
        return TRUST_DOMAIN.member("ns", "bookinfo", "sa", self.account)

    def sidecar(self, folder: Path) -> Sidecar:
        """Told from the others by its own copy of Envoy."""
        return Sidecar(
            name=self.name, folder=folder / self.name, uid=None, admin_port=self.admin, listen_port=self.inbound
        )


@dataclass
class Page:
    """What productpage shows: what came of details and of reviews, and for whom."""

    details: Mapping[str, Any]
    reviews: Mapping[str, Any]
    seconds: float

    @property
    def version(self) -> str:
        return str(self.reviews.get("version", ""))


class Bookinfo:
    """All workloads; `agent_socket` is where their Envoys get their certificates."""

    def __init__(self, folder: Path, client: httpx.AsyncClient, *, agent_socket: Path) -> None:
        self.page = Workload("productpage", "app/envoy/productpage.yaml")
        self.signed_in = Workload("productpage-signed-in", "signed-in/productpage.yaml")
        self.details = Workload("details", "app/envoy/details.yaml")
        self.reviews = [Workload(f"reviews-{each}", "app/envoy/reviews.yaml") for each in ("v1", "v2", "v3")]
        self.ratings = Workload("ratings", "app/envoy/ratings.yaml")
        self.workloads = (self.page, self.signed_in, self.details, *self.reviews, self.ratings)
        self.patience = 10.0  # of productpage with reviews, in each of two tries
        self._folder = folder
        self._client = client
        self._agent_socket = agent_socket
        self._routes = folder / "routes"
        self._version = 0

    def bootstrap(self, workload: Workload) -> dict[str, Any]:
        """The shipped file, with the ports of this machine."""
        config: dict[str, Any] = yaml.safe_load((SHIPPED / workload.bootstrap).read_text())
        _at(config["admin"], workload.admin)
        for listener in config["static_resources"]["listeners"]:
            name = listener["name"]
            _at(listener, workload.inbound if name == "inbound" else workload.outbound[name])
            connections = listener["filter_chains"][0]["filters"][0]["typed_config"]
            if "rds" in connections:
                source = connections["rds"]["config_source"]["path_config_source"]
                source["path"] = str(self._routes / Path(source["path"]).name)
                source["watched_directory"]["path"] = str(self._routes)
        inbound = {each.name: each.inbound for each in self.workloads}
        for cluster in config["static_resources"]["clusters"]:
            endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
            if cluster["name"] == "citadel_agent":
                endpoint["address"]["pipe"]["path"] = str(self._agent_socket)
                continue
            cluster["type"] = "STATIC"
            socket = endpoint["address"]["socket_address"]
            socket["address"] = "127.0.0.1"
            socket["port_value"] = workload.app if cluster["name"] == "workload" else inbound[cluster["name"]]
        return config

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """From when every Envoy serves on, until the end of the block."""
        async with AsyncExitStack() as stack:
            for workload, app in self._apps():
                listener = LoopbackHttp(app, HostPort("127.0.0.1", workload.app))
                await listener.start()
                stack.push_async_callback(listener.close)
            binary = envoy.find_binary()
            for workload in self.workloads:
                sidecar = workload.sidecar(self._folder)
                await asyncio.to_thread(envoy.install, binary, sidecar)
                path = envoy.write_bootstrap(sidecar, self.bootstrap(workload))
                command = [sidecar.executable, "-c", path, "--disable-hot-restart", "--concurrency", "1", "-l", "warn"]
                child = await Child.start(sidecar.name, command, log=self._folder / f"{sidecar.name}.log")
                stack.push_async_callback(child.stop)
            for workload in self.workloads:
                live = envoy.EnvoyAdmin(self._client, workload.admin).is_live
                await until(f"the Envoy of {workload.name} serves", live, seconds=20)
            yield

    def put_routes(self, scenario: str, instead: Mapping[str, str] | None = None) -> None:
        """As kubelet puts a ConfigMap there: one rename changes all files. `instead` changes their text."""
        self._version += 1
        folder = self._routes / f"..{self._version}"
        folder.mkdir(parents=True)
        for name in ("reviews.yaml", "ratings.yaml"):
            text = (SHIPPED / "routes" / scenario / name).read_text()
            for old, new in (instead or {}).items():
                text = text.replace(old, new)
            (folder / name).write_text(text)
            if self._version == 1:
                (self._routes / name).symlink_to(Path("..data") / name)
        link = self._routes / "..new"
        link.symlink_to(folder.name)
        link.rename(self._routes / "..data")

    async def use(self, scenario: str, instead: Mapping[str, str] | None = None) -> None:
        """Put routes, and wait until every Envoy that has any works by them."""
        self.put_routes(scenario, instead)

        async def all_do() -> bool:
            routed = [
                ("reviews", self.page),
                ("reviews", self.signed_in),
                *(("ratings", each) for each in self.reviews),
            ]
            taken = [
                await envoy.EnvoyAdmin(self._client, each.admin).stat(f".rds.{name}.update_success")
                for name, each in routed
            ]
            return set(taken) == {self._version}

        await until(f"the routes of {scenario} are in force", all_do, seconds=10)

    async def visit(self, *, user: str = "", token: str = "", signed_in: bool = False, forged: str = "") -> Page:
        """Look at the page: as who signed in on it (`user`), or by a token; `forged` is a header of one's own."""
        workload = self.signed_in if signed_in else self.page
        headers = {"x-session": user, USER: forged, "authorization": f"Bearer {token}" if token else ""}
        sent = {name: value for name, value in headers.items() if value}
        begun = asyncio.get_running_loop().time()
        answer = await self._client.get(f"http://127.0.0.1:{workload.app}/productpage", headers=sent)
        took = asyncio.get_running_loop().time() - begun
        return Page(**answer.raise_for_status().json(), seconds=took)

    def _apps(self) -> list[tuple[Workload, Starlette]]:
        pages = [(each, _app("/productpage", self._productpage(each))) for each in (self.page, self.signed_in)]
        reviews = [(each, _app("/reviews/0", self._reviewer(each))) for each in self.reviews]
        tellers = [(self.details, _app("/details/0", _tell)), (self.ratings, _app("/ratings/0", _tell))]
        return [*pages, *reviews, *tellers]

    def _productpage(self, workload: Workload) -> Any:
        async def show(request: Request) -> JSONResponse:
            headers = {each: request.headers[each] for each in ("authorization", USER) if each in request.headers}
            if "x-session" in request.headers:
                headers[USER] = request.headers["x-session"]
            details = await self._ask(workload, "details", headers)
            reviews = await self._ask(workload, "reviews", headers, patience=self.patience)
            if "error" in reviews:  # as the real one: two tries
                reviews = await self._ask(workload, "reviews", headers, patience=self.patience)
            return JSONResponse({"details": details, "reviews": reviews})

        return show

    def _reviewer(self, workload: Workload) -> Any:
        version = workload.name.rpartition("-")[2]

        async def tell(request: Request) -> JSONResponse:
            told = {"version": version, "caller": _caller(request), "user": request.headers.get(USER, "")}
            if version != "v1":
                headers = {USER: request.headers[USER]} if USER in request.headers else {}
                told["ratings"] = await self._ask(workload, "ratings", headers)
            return JSONResponse(told)

        return tell

    async def _ask(
        self, workload: Workload, service: str, headers: Mapping[str, str], *, patience: float = 10.0
    ) -> Mapping[str, Any]:
        url = f"http://127.0.0.1:{workload.outbound[service]}/{service}/0"
        try:
            answer = await self._client.get(url, headers=headers, timeout=patience)
        except httpx.TimeoutException:
            return {"error": "timeout"}
        if answer.is_success:
            return dict(answer.json())
        return {"error": answer.status_code, "reason": answer.headers.get("x-citadel-reason", "")}


async def _tell(request: Request) -> JSONResponse:
    return JSONResponse({"caller": _caller(request), "stars": 5})


def _caller(request: Request) -> str:
    """Who called, by the word of the own Envoy."""
    return _uri_of(request.headers.get("x-forwarded-client-cert", ""))


def _app(path: str, handler: Any) -> Starlette:
    return Starlette(routes=[Route(path, handler)])


def _at(holder: dict[str, Any], port: int) -> None:
    holder["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}


def policies(workload: Workload, folder: Path, *, issuer: str, keys_port: int) -> str:
    """The shipped policies, for this Envoy and this issuer."""
    document = yaml.safe_load((SHIPPED / "signed-in" / "policies.yaml").read_text())
    (policy,) = document["policies"]
    policy["selectors"] = [str(workload.sidecar(folder).selector)]
    (rule,) = policy["jwtRules"]
    rule |= {"issuer": issuer, "jwksUri": f"http://127.0.0.1:{keys_port}/keys", "allowPrivateAddresses": True}
    return json.dumps(document)
