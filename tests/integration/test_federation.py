"""Two servers of different trust domains that federate, by their own endpoints, over real TLS."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from click.testing import CliRunner
from cryptography import x509
from grpc import aio

from citadel._wire import agent_api_pb2, bootstrap_pb2, rotation_pb2
from citadel._wire import federation_pb2 as pb
from citadel._wire.federation_pb2_grpc import FederationsStub
from citadel.bundle import TrustBundle
from citadel.spiffe import TrustDomain
from cli.citadel_cli import citadel_cli
from tests.integration.meshes import until
from tests.ports import free_port
from tests.servers import Server, refusal, running_server, server_settings

pytestmark = pytest.mark.integration

B_TEST = TrustDomain("b.test")
QUICK = {"margin": "500ms", "window": "0s"}
SERVER_OF_B = "spiffe://b.test/citadel/server"


@dataclass
class Cluster:
    """A server that serves its bundle, and that may be stopped and started."""

    folder: Path
    name: str
    port: int = field(default_factory=free_port)
    server: Server = field(init=False)
    _running: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def start(self) -> None:
        federation = {"listen": f"127.0.0.1:{self.port}", "refresh_hint": "1s"}
        settings = server_settings(self.folder, trust_domain=self.name, federation=federation, rotation=QUICK)
        self.server = await self._running.enter_async_context(running_server(settings))

    async def stop(self) -> None:
        await self._running.aclose()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/"

    @property
    def federations(self) -> Any:
        target = f"unix:{self.server.settings.listen.admin_socket}"
        return FederationsStub(self.server._open(aio.insecure_channel(target)))

    async def federate(self, other: Cluster, **changes: Any) -> pb.Federation:
        profile = {
            "trust_domain": other.name,
            "endpoint_url": other.url,
            "profile": "https_spiffe",
            "endpoint_spiffe_id": f"spiffe://{other.name}/citadel/server",
            "bootstrap": {"trust_domain": other.name, "json": other.server.published},
            "why": "a test",
        }
        made: pb.Federation = await self.federations.CreateFederation(pb.CreateFederationRequest(**(profile | changes)))
        return made

    async def refresh(self, name: str = "b.test", **more: Any) -> pb.Federation:
        request = pb.RefreshFederationRequest(trust_domain=name, **more)
        refreshed: pb.Federation = await self.federations.RefreshFederation(request)
        return refreshed

    async def own_bundle(self) -> TrustBundle:
        answer = await self.server.bootstrap().GetBundle(bootstrap_pb2.GetBundleRequest())
        return TrustBundle.from_json(TrustDomain(self.name), answer.bundle.json)

    async def ready(self) -> tuple[int, str]:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://{self.server.settings.listen.probes}/ready")
        return answer.status_code, answer.json()["checks"]["federation"]


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[Cluster, Cluster]]:
    clusters = Cluster(tmp_path / "a", "a.test"), Cluster(tmp_path / "b", "b.test")
    for cluster in clusters:
        cluster.folder.mkdir()
        await cluster.start()
    yield clusters
    for cluster in clusters:
        await cluster.stop()


async def _cli(cluster: Cluster, *words: str) -> tuple[int, str, str]:
    socket = str(cluster.server.settings.listen.admin_socket)
    result = await asyncio.to_thread(CliRunner().invoke, citadel_cli, ["--socket", socket, *words])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.spec("FED-05", "FED-06")
async def test_nothing_is_guessed(two: tuple[Cluster, Cluster]) -> None:
    a, b = two
    for left_out, reason in (
        ({"trust_domain": ""}, "trust_domain_malformed"),
        ({"endpoint_url": ""}, "federation_malformed"),
        ({"profile": ""}, "federation_malformed"),
        ({"profile": "HTTPS_SPIFFE"}, "federation_malformed"),
        ({"endpoint_spiffe_id": ""}, "federation_malformed"),
        ({"endpoint_spiffe_id": "spiffe://b.test"}, "federation_malformed"),
        ({"profile": "https_web"}, "federation_malformed"),
        ({"bootstrap": None}, "federation_malformed"),
        ({"bootstrap": {"trust_domain": "c.test", "json": b.server.published}}, "federation_malformed"),
        ({"bootstrap": {"trust_domain": "b.test", "json": b"{}"}}, "bundle_malformed"),
        ({"why": "x" * 501}, "request_malformed"),
        ({"why": "a\nb"}, "request_malformed"),
    ):
        assert await refusal(a.federate(b, **left_out)) == (grpc.StatusCode.INVALID_ARGUMENT, reason), left_out
    assert (await a.federations.ListFederations(pb.ListFederationsRequest())).federations == []
    assert await refusal(a.refresh("a.test")) == (grpc.StatusCode.NOT_FOUND, "federation_not_found")
    assert await refusal(a.refresh(force=True)) == (grpc.StatusCode.INVALID_ARGUMENT, "request_malformed")


@pytest.mark.spec("FED-40", "FED-35", "FED-36")
async def test_trust_has_one_direction_and_opens_no_door_of_the_server(two: tuple[Cluster, Cluster]) -> None:
    a, b = two
    made = await a.federate(b)
    assert (made.last_reason, made.bundle.source, made.bundle.x509_authorities) == ("", "federation", 1)
    assert (await b.federations.ListFederations(pb.ListFederationsRequest())).federations == []
    # Each keeps what is its own: no root of B is among those that agents of A know its server by.
    assert await a.own_bundle() == a.server.bundle
    # An agent of B, whose root is in force at A as a foreign one, is refused by TLS at each of A's doors.
    stranger = await b.server.join("node-1")
    agents = a.server.agents(stranger, bundle=a.server.bundle)
    got = await refusal(agents.SignX509Svids(agent_api_pb2.SignX509SvidsRequest(), timeout=5))
    assert got == (grpc.StatusCode.UNAVAILABLE, "")
    assert await refusal(b.federate(b)) == (grpc.StatusCode.INVALID_ARGUMENT, "federation_own_domain")


@pytest.mark.spec("FED-27", "FED-37", "FED-39")
async def test_a_root_that_changes_is_followed_and_the_first_bundle_is_not_used_again(
    two: tuple[Cluster, Cluster],
) -> None:
    a, b = two
    await a.federate(b)
    old = set(b.server.bundle.x509_authorities)
    await b.server.rotations().StartRotation(rotation_pb2.StartRotationRequest(kind="root", why="a test"))
    seen: list[set[x509.Certificate]] = []

    async def is_over() -> bool:
        await a.refresh()
        answer = await a.server.bundles().GetBundle(pb.GetForeignBundleRequest(trust_domain="b.test"))
        roots = set(TrustBundle.from_json(B_TEST, answer.bundle.json).x509_authorities)
        if roots not in seen[-1:]:
            seen.append(roots)
        return not roots & old

    await until("the old root of B is gone from what A has of it", is_over, seconds=30)
    *_, both, new = seen
    assert both == old | new  # published beside the old one before it signed
    assert (await a.refresh()).last_reason == ""
    # By now the endpoint is believed by the new root alone: who comes with the first bundle is not served.
    await a.federations.DeleteFederation(pb.DeleteFederationRequest(trust_domain="b.test"))
    assert (await a.federate(b)).last_reason == "endpoint_untrusted"


async def test_an_endpoint_that_goes_away_degrades_nothing_and_is_told(two: tuple[Cluster, Cluster]) -> None:
    a, b = two
    await a.federate(b)
    assert await a.ready() == (200, "1 of 1 foreign bundles are fresh")
    await b.stop()
    assert await refusal(a.refresh()) == (grpc.StatusCode.UNAVAILABLE, "endpoint_unreachable")
    code, text = await a.ready()
    assert code == 200
    assert text.startswith("0 of 1 foreign bundles are fresh; b.test: https://127.0.0.1")
    status = (await a.server.status()).federations
    assert [(each.trust_domain, each.good, each.reason) for each in status] == [
        ("b.test", False, "endpoint_unreachable")
    ]
    # The bundle stays in force, also through a restart.
    await a.stop()
    await a.start()
    (kept,) = (await a.federations.ListFederations(pb.ListFederationsRequest())).federations
    assert (kept.bundle.x509_authorities, kept.bundle.source) == (1, "federation")
    assert kept.HasField("next_refresh_at")
    await b.start()
    await a.refresh()
    assert await a.ready() == (200, "1 of 1 foreign bundles are fresh")


async def test_the_commands(two: tuple[Cluster, Cluster]) -> None:
    a, b = two
    bundle = a.folder / "b.pem"
    bundle.write_bytes(b.server.bundle.to_pem())
    create = ["federation", "create", "b.test", "--url", b.url, "--profile", "https_spiffe"]
    assert (await _cli(a, *create))[0] == 3  # no ID
    code, text, _ = await _cli(a, *create, "--endpoint-id", SERVER_OF_B, "--bundle", str(bundle), "--reason", "a test")
    assert (code, "X.509 authorities      1" in text) == (0, True), text
    code, text, _ = await _cli(a, "-o", "json", "federation", "list")
    (listed,) = json.loads(text)["federations"]
    assert (listed["trust_domain"], listed["last_reason"], listed["bundle"]["jwt_authorities"]) == ("b.test", "", 1)
    assert (await _cli(a, "federation", "refresh", "b.test", "--force"))[0] == 2
    assert (await _cli(a, "federation", "refresh", "b.test", "--force", "--reason", "a test"))[0] == 0
    assert "federations" in (await _cli(a, "status"))[1]
    code, text, _ = await _cli(a, "federation", "delete", "b.test", "--yes", "--reason", "a test")
    assert (code, text) == (0, "ended the federation with b.test: its bundle is trusted by nobody here\n")
    assert (await _cli(a, "federation", "show", "b.test"))[0] == 4
    code, text, error = await _cli(a, *create, "--endpoint-id", f"{SERVER_OF_B}/2", "--bundle", str(bundle))
    assert (code, "endpoint_untrusted" in error, "  try: compare" in error) == (0, True, True)  # kept, and told
    assert [text.count("never"), (await _cli(a, "federation", "list"))[1].count("never")] == [1, 1]
    acts = json.loads((await _cli(a, "-o", "json", "audit", "list"))[1])
    done = [(act["what"], act["why"]) for act in reversed(acts) if act["what"].startswith("federation.")]
    assert done[:3] == [(f"federation.{verb}", "a test") for verb in ("create", "refresh", "delete")]
