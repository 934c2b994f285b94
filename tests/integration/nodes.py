"""A node of real Envoys and a whole agent, under a server that tests can make say anything."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from citadel._wire import agent_api_pb2 as pb
from citadel._wire import types_pb2
from citadel.config.types import HostPort
from citadel.entry import Entry
from citadel.loopback_http import LoopbackHttp
from citadel.spiffe import TrustDomain
from citadel.wire import entry_to_wire
from cli.agent_process import run_agent
from cli.demo import envoy
from cli.demo.bookinfo import Productpage, reviews_app
from cli.demo.load import Load, Tally
from cli.demo.plan import TRUST_DOMAIN, Plan, Sidecar, make_plan
from cli.demo.processes import Child
from sds.link.identity import IdentityFile
from sds.settings import AgentSettings, AuthzSettings
from tests.integration.echo import echo
from tests.integration.meshes import until
from tests.unit.sds.fake_authority import FakeAuthority
from tests.unit.sds.fake_server import (
    QUICK,
    FakeAgentApi,
    FakeSync,
    bundle_message,
    make_identity,
    now,
    serve_agents,
)

_FOREIGN = FakeAuthority(now(), "foreign", trust_domain=TrustDomain("foreign.example"))


class LiveNode:
    """Two callers of reviews, productpage and stranger, each behind an Envoy; and what their server tells the agent."""

    def __init__(self, plan: Plan, client: httpx.AsyncClient, *, federates: bool, authorizes: bool) -> None:
        self.plan = plan
        self.policy_file = plan.folder / "policies.yaml"
        self.data_dir = plan.folder / "agent" / "data"
        self.authority = FakeAuthority(now(), trust_domain=TRUST_DOMAIN)
        self.api = FakeAgentApi(self.authority)
        self._client = client
        self._federates = federates
        self._authorizes = authorizes
        self.fails_open = False  # what the Envoy of reviews does without the agent, where it authorizes
        self._revision = 0

    @property
    def sync(self) -> FakeSync:
        """The newest stream of the agent."""
        return self.api.syncs[-1]

    def envoy(self, sidecar: Sidecar) -> envoy.EnvoyAdmin:
        return envoy.EnvoyAdmin(self._client, sidecar.admin_port)

    async def serial_of(self, sidecar: Sidecar) -> int:
        return int((await self.envoy(sidecar).certificate())["serial"], 16)

    async def calls(self, caller: Sidecar) -> bool:
        """Whether a request of this caller, over a new connection, comes through to reviews."""
        page = Productpage(sidecar_port=caller.listen_port)
        try:
            return await page.render() == (str(caller.spiffe_id), str(self.plan.reviews.spiffe_id))
        except httpx.HTTPStatusError:
            return False
        finally:
            await page.close()

    async def push(self, revocations: types_pb2.RevocationSet, *, identities: Sequence[str] = ()) -> str:
        """Tell the agent, and return the version that it acknowledges as the one in force."""
        self._revision += 1
        self.api.snapshot = [self._snapshot(revocations)]
        sync, revision = self.sync, self._revision
        revoked = types_pb2.RevokedIdentities(spiffe_ids=identities)
        sync.updates.put_nowait(pb.Update(revision=revision, revocations=revocations, revoked_identities=revoked))
        await until("the agent has taken it", lambda: _is_true(revision in sync.acknowledged()), seconds=10)
        acknowledged = [m.acknowledge for m in sync.messages if m.WhichOneof("kind") == "acknowledge"]
        return next(each.revocation_version for each in acknowledged if each.revision == revision)

    def held_versions(self) -> list[str]:
        """The lists that each context of each proxy holds, by what the agent told last."""
        reports: dict[str, types_pb2.StreamReport] = {}
        for told in self.sync.reported():
            reports = {} if told.snapshot else reports
            reports.update({each.stream_id: each for each in told.reports})
        live = [report for report in reports.values() if not report.closed]
        return [
            resource.held_revocation_version
            for report in live
            for resource in report.resources
            if resource.trust_domain == TRUST_DOMAIN.name
        ]

    @asynccontextmanager
    async def under_load(self) -> AsyncIterator[Tally]:
        """Requests of productpage go on inside the block, each over a connection of its own."""
        tally, stop = Tally(), asyncio.Event()
        page = Productpage(sidecar_port=self.plan.productpage.listen_port)
        task = asyncio.create_task(Load(self.plan, tally, page).run(stop))
        try:
            yield tally
        finally:
            stop.set()
            await task

    @asynccontextmanager
    async def agent(self, *, is_heard: bool = True) -> AsyncIterator[None]:
        """An agent that has joined already, until the end of the block; `is_heard` waits for it to hear its server."""
        stop, task = asyncio.Event(), None
        streams = len(self.api.syncs)
        try:
            task = asyncio.create_task(run_agent(self._settings(), stop=stop))
            if is_heard:
                await until("the agent is connected", lambda: _is_true(len(self.api.syncs) > streams), seconds=10)
            yield
        finally:
            stop.set()
            if task is not None:
                await task

    @asynccontextmanager
    async def envoys(self) -> AsyncIterator[None]:
        """The three Envoys and the workload of reviews, serving."""
        plan = self.plan
        async with AsyncExitStack() as stack:
            for app, port in self._apps():
                listener = LoopbackHttp(app, HostPort("127.0.0.1", port))
                await listener.start()
                stack.push_async_callback(listener.close)
            for sidecar in plan.sidecars:
                await asyncio.to_thread(envoy.install, envoy.find_binary(), sidecar)
                path = envoy.write_bootstrap(sidecar, self._bootstrap(sidecar))
                command = [sidecar.executable, "-c", path, "--disable-hot-restart", "--concurrency", "1", "-l", "warn"]
                log = plan.folder / f"{sidecar.name}.log"
                child = await Child.start(sidecar.name, command, log=log, uid=sidecar.uid)
                stack.push_async_callback(child.stop)
            for sidecar in plan.sidecars:
                await until(f"{sidecar.name} serves", self.envoy(sidecar).is_live, seconds=20)
            yield

    async def prepare(self, revocations: types_pb2.RevocationSet) -> None:
        """The agent's identity on disk, and what it will be told first."""
        self.server, address = await serve_agents(self.api, self.authority)
        data = self.data_dir
        for folder in (data.parent, data):
            folder.mkdir(mode=0o700)
        self.plan.agent_socket.parent.mkdir(mode=0o755)
        IdentityFile(data).save(make_identity(self.authority, address))
        self.api.entries = {sidecar.name: self._entry(sidecar) for sidecar in self.plan.sidecars}
        self.api.snapshot = [self._snapshot(revocations)]

    def _snapshot(self, revocations: types_pb2.RevocationSet) -> pb.Update:
        bundles = [self.authority.bundle, *([_FOREIGN.bundle] if self._federates else [])]
        return pb.Update(
            revision=self._revision,
            snapshot=True,
            entries=map(entry_to_wire, self.api.entries.values()),
            bundles=map(bundle_message, bundles),
            revocations=revocations,
        )

    def _entry(self, sidecar: Sidecar) -> Entry:
        federates = {_FOREIGN.bundle.trust_domain} if self._federates else ()
        return Entry(
            id=sidecar.name,
            spiffe_id=sidecar.spiffe_id,
            parent_id=self.plan.agent_id,
            selectors=frozenset({sidecar.selector}),
            federates_with=frozenset(federates),
        )

    def _apps(self) -> Iterator[tuple[Any, int]]:
        if not self._authorizes:
            yield reviews_app(), self.plan.app_port
            return
        yield echo("v1"), self.plan.app_port
        yield echo("v2"), self.plan.app_v2_port

    def _bootstrap(self, sidecar: Sidecar) -> dict[str, Any]:
        if sidecar is not self.plan.reviews:
            return envoy.client_bootstrap(self.plan, sidecar)
        make = envoy.authorizing_bootstrap if self._authorizes else envoy.server_bootstrap
        bootstrap = make(self.plan, sidecar)
        chain = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]
        if self.fails_open:
            ext_authz = chain["filters"][0]["typed_config"]["http_filters"][0]["typed_config"]
            ext_authz |= {"failure_mode_allow": True, "failure_mode_allow_header_add": True}
        context = chain["transport_socket"]["typed_config"]["common_tls_context"]["combined_validation_context"]
        another = {"san_type": "URI", "matcher": {"exact": str(self.plan.stranger.spiffe_id)}}
        context["default_validation_context"]["match_typed_subject_alt_names"].append(another)
        return bootstrap

    def _settings(self) -> AgentSettings:
        folder = self.plan.folder / "agent"
        return AgentSettings(
            trust_domain=TRUST_DOMAIN,
            data_dir=self.data_dir,
            socket=self.plan.agent_socket,
            admin_socket=folder / "admin.sock",
            probes=HostPort("127.0.0.1", self.plan.agent_probes_port),
            reconnect=QUICK,
            authz=AuthzSettings(policy_file=self.policy_file if self._authorizes else None),
        )


async def _is_true(condition: bool) -> bool:
    return condition


@asynccontextmanager
async def live_node(
    *,
    federates: bool,
    as_root: bool,
    revocations: Callable[[FakeAuthority], types_pb2.RevocationSet],
    authorizes: bool = False,
) -> AsyncIterator[LiveNode]:
    """A prepared node; `revocations` makes what it is told first of its authority.

    Where it `authorizes`, the Envoy of reviews asks the agent about each request, and both versions echo what comes
    through; the file with the policies is to be written before the agent starts.
    """
    folder = Path(tempfile.mkdtemp(prefix="citadel-test-"))
    folder.chmod(0o755)  # sidecars of other users start from here
    plan = make_plan(
        folder=folder,
        requests=1,
        leaf_lifetime=timedelta(hours=1),
        pace=50.0,
        most_seconds=60.0,
        keep=False,
        as_root=as_root,
    )
    async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
        node = LiveNode(plan, client, federates=federates, authorizes=authorizes)
        try:
            await node.prepare(revocations(node.authority))
            yield node
        except BaseException:
            for log in sorted(folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-6000:]}")  # noqa: T201 - pytest shows it
            raise
        finally:
            await node.server.stop(None)
            shutil.rmtree(folder, ignore_errors=True)
