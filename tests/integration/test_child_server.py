"""A child server over the real wire: its start, its identity at the parent, and a parent that comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from structlog.testing import capture_logs

from ca.settings import ServerSettings
from citadel._wire import admin_pb2, clusters_pb2_grpc, types_pb2
from citadel.bundle import TrustBundle
from citadel.errors import FailedPrecondition, Reason
from citadel.reserved import SERVER_DNS_NAME
from citadel.svid import X509Svid, verify_x509_svid
from cli.server_process import run_server
from tests import certificates
from tests.children import A_TEST, svid_of
from tests.integration.meshes import until
from tests.servers import Member, Server, connected, http_status, running_server, server_settings
from tests.workload_endpoint import WorkloadEndpoint, workload_endpoint


@dataclass
class Above:
    """A parent, and an agent of it beside the child."""

    server: Server
    agent: Member
    entry: types_pb2.Entry
    endpoint: WorkloadEndpoint
    socket: Path
    listening: Any = field(default=None)

    async def give(self) -> None:
        """An SVID for the child's server, as the agent does when it is renewed."""
        member = await svid_of(self.server, self.agent, self.entry)
        await self.endpoint.give(member, self.server.bundle)


@asynccontextmanager
async def above(folder: Path, server: Server, name: str = "east", *, gives: bool = True) -> AsyncIterator[Above]:
    agent = await server.join(f"{name}-server")
    entry = await server.entry(f"/clusters/{name}", agent, downstream=True)
    endpoint, socket = WorkloadEndpoint(), folder / f"{name}.sock"
    async with workload_endpoint(socket, endpoint):
        made = Above(server, agent, entry, endpoint, socket)
        if gives:
            await made.give()
        yield made


def below(folder: Path, parent: ServerSettings, socket: Path, **sections: Any) -> ServerSettings:
    """Settings of a child of this parent."""
    folder.mkdir(exist_ok=True)
    upstream = {"citadel": {"address": str(parent.listen.agents), "workload_api": str(socket)}}
    return server_settings(folder, upstream=upstream, **sections)


@asynccontextmanager
async def starting(settings: ServerSettings) -> AsyncIterator[asyncio.Task[None]]:
    """A server that may never come to its end by itself."""
    stop = asyncio.Event()
    process = asyncio.create_task(run_server(settings, stop=stop))
    try:
        yield process
    finally:
        stop.set()
        async with asyncio.timeout(5):
            await asyncio.wait({process})


async def ready(settings: ServerSettings) -> tuple[int, str]:
    try:
        return await http_status(settings.listen.probes, "/ready")
    except OSError:
        return 0, ""


async def shown(settings: ServerSettings, *, code: int, words: str) -> None:
    async def is_shown() -> bool:
        found = await ready(settings)
        return found[0] == code and words in found[1]

    await until(f"/ready says {code} and {words!r}", is_shown, seconds=10)


async def upstream_of(server: Server) -> admin_pb2.UpstreamStatus:
    return (await server.status()).upstream


async def until_good(server: Server) -> None:
    async def is_good() -> bool:
        return (await upstream_of(server)).good

    await until("the parent is there", is_good, seconds=15)


async def leaf_of(server: Server) -> X509Svid:
    """An SVID that this server signs now."""
    joined = await server.join(f"node-{id(object())}")
    return X509Svid.from_der(list(joined.chain))


async def test_a_child_and_a_grandchild_issue_under_the_root_of_the_parent(tmp_path: Path) -> None:
    parent_settings = server_settings(tmp_path)
    async with running_server(parent_settings) as parent, above(tmp_path, parent) as seen:
        settings = below(tmp_path / "east", parent_settings, seen.socket)
        async with running_server(settings) as child, above(tmp_path, child, "far") as seen_below:
            assert child.bundle.x509_authorities == parent.bundle.x509_authorities
            svid = await leaf_of(child)
            verify_x509_svid(svid.chain_der, {A_TEST: parent.bundle}, datetime.now(UTC))
            status = await upstream_of(child)
            assert (status.kind, status.source, status.good) == ("citadel", str(parent_settings.listen.agents), True)
            async with running_server(below(tmp_path / "far", settings, seen_below.socket)) as grandchild:
                svid = await leaf_of(grandchild)
                verify_x509_svid(svid.chain_der, {A_TEST: parent.bundle}, datetime.now(UTC))
                await _tokens_are_known_everywhere(parent, child, grandchild)


async def _tokens_are_known_everywhere(*servers: Server) -> None:
    """Each has the keys for tokens of all of them."""

    async def are_known() -> bool:
        keys = [set((await _bundle(server))["keys"]) for server in servers]
        return len(keys[0]) == len(servers) and all(each == keys[0] for each in keys)

    await until("all have the keys of all", are_known, seconds=10)


async def _bundle(server: Server) -> dict[str, set[str]]:
    own = [each.kid for each in (await server.status()).authorities if each.kind == "jwt"]
    bundle = await server.admin().GetOwnBundle(admin_pb2.GetOwnBundleRequest())
    found = TrustBundle.from_json(A_TEST, bundle.json).jwt_authorities
    assert set(own) <= set(found)
    return {"keys": set(found)}


async def test_a_first_start_waits_for_the_agent_and_for_the_parent_and_says_so(tmp_path: Path) -> None:
    parent_settings = server_settings(tmp_path)
    socket = tmp_path / "east.sock"
    settings = below(tmp_path / "east", parent_settings, socket)
    with capture_logs() as logs:
        async with starting(settings) as process:
            await shown(settings, code=503, words="agent of the parent at")
            async with running_server(parent_settings) as parent, above(tmp_path, parent, gives=False) as seen:
                await shown(settings, code=503, words="--downstream")
                await seen.give()
                child = await connected(settings, process)
                await until_good(child)
                await child.close()
            assert not process.done()
        assert process.exception() is None
    waits = [each for each in logs if "waiting for the parent" in each["event"]]
    assert 1 <= len(waits) <= 3
    assert "agent of the parent" in waits[0]["why"]
    assert not [each for each in waits if "has ended" in each["why"]], "of an SVID that it never had"


async def test_a_start_that_waits_ends_when_it_is_told_to(tmp_path: Path) -> None:
    settings = below(tmp_path / "east", server_settings(tmp_path), tmp_path / "nobody.sock")
    async with starting(settings) as process:
        await shown(settings, code=503, words="agent of the parent at")
    assert process.done()
    assert process.exception() is None


async def test_a_parent_of_another_trust_domain_is_refused_at_the_start(tmp_path: Path) -> None:
    parent_settings = server_settings(tmp_path)
    async with running_server(parent_settings) as parent, above(tmp_path, parent) as seen:
        settings = below(tmp_path / "east", parent_settings, seen.socket, trust_domain="b.test")
        async with starting(settings) as process:
            async with asyncio.timeout(15):
                await asyncio.wait({process})
        error = process.exception()
    assert isinstance(error, FailedPrecondition)
    assert error.reason is Reason.UPSTREAM_INVALID
    assert "spiffe://a.test/clusters/east" in error.message
    assert "trust_domain" in error.fix


async def test_a_child_outlasts_its_parent_its_agent_and_its_entry(tmp_path: Path) -> None:
    parent_settings = server_settings(tmp_path)
    socket = tmp_path / "east.sock"
    settings = below(tmp_path / "east", parent_settings, socket)
    async with (
        running_server(parent_settings) as parent,
        above(tmp_path, parent) as seen,
        running_server(settings) as child,
    ):
        await until_good(child)
        await parent.admin().DeleteEntry(admin_pb2.DeleteEntryRequest(id=seen.entry.id))
        await seen.endpoint.deny()
        await _is_said(child, "downstream_refused")
        await leaf_of(child)
        seen.entry = await parent.entry("/clusters/east", seen.agent, downstream=True)
        await seen.give()
        await until_good(child)
    async with running_server(settings) as child:  # with nobody above
        await _is_said(child, "upstream_unavailable")
        status = await upstream_of(child)
        assert status.lasts_until.ToSeconds() > datetime.now(UTC).timestamp()
        code, text = await ready(settings)
        assert code == 200
        assert "nothing is issued from" in text
        svid = await leaf_of(child)
        verify_x509_svid(svid.chain_der, {A_TEST: child.bundle}, datetime.now(UTC))


async def _is_said(server: Server, reason: str) -> None:
    async def is_said() -> bool:
        return (await upstream_of(server)).reason == reason

    await until(f"status says {reason}", is_said, seconds=10)


VALID: dict[str, Any] = {
    "not_before": datetime.now(UTC) - timedelta(minutes=5),
    "not_after": datetime.now(UTC) + timedelta(days=1),
}
OWN, EXCHANGED = certificates.root("own", **VALID), certificates.root("exchanged", **VALID)


class Listening(clusters_pb2_grpc.ClustersServicer):
    """Notes whether a child has believed it."""

    def __init__(self) -> None:
        self.was_believed = asyncio.Event()

    async def Follow(self, request_iterator: Any, context: Any) -> None:  # noqa: N802 - gRPC's name for it
        del request_iterator
        self.was_believed.set()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "enough")


@pytest.mark.parametrize(
    ("signer", "name", "is_believed"),
    [
        (OWN, SERVER_DNS_NAME, True),
        (OWN, "web.example", False),
        (EXCHANGED, SERVER_DNS_NAME, False),  # it is in the bundle, for workloads alone
    ],
    ids=["parent", "workload", "another cluster"],
)
async def test_a_parent_has_the_reserved_name_and_a_root_that_signs(
    tmp_path: Path, signer: certificates.Signed, name: str, *, is_believed: bool
) -> None:
    parent_settings, endpoint, socket = server_settings(tmp_path), WorkloadEndpoint(), tmp_path / "east.sock"
    shown_by = certificates.leaf(signer, "spiffe://a.test/citadel/server", dns=[name], **VALID)
    own = certificates.leaf(OWN, "spiffe://a.test/clusters/east", **VALID)
    bundle = TrustBundle(trust_domain=A_TEST, x509_authorities=(OWN.certificate, EXCHANGED.certificate))
    await endpoint.give(Member(own.key, (own.der,), "spiffe://a.test/clusters/east"), bundle)
    listening, impostor = Listening(), aio.server()
    clusters_pb2_grpc.add_ClustersServicer_to_server(listening, impostor)
    credentials = grpc.ssl_server_credentials(
        [(Member(shown_by.key, (shown_by.der,)).key_pem, shown_by.pem)], OWN.pem, require_client_auth=True
    )
    impostor.add_secure_port(str(parent_settings.listen.agents), credentials)
    await impostor.start()
    settings = below(tmp_path / "east", parent_settings, socket)
    async with workload_endpoint(socket, endpoint), starting(settings):
        await shown(settings, code=503, words="enough" if is_believed else "cannot be reached")
        assert listening.was_believed.is_set() == is_believed
    await impostor.stop(None)
