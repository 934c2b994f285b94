"""What a running server says of its trust, and `citadel-cli trust` on it."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from grpc import aio

from citadel._wire import federation_pb2, rotation_pb2, trust_pb2, types_pb2
from citadel._wire.federation_pb2_grpc import FederationsStub
from citadel._wire.trust_pb2_grpc import TrustFactsStub
from citadel.bundle import TrustBundle
from citadel.wire import from_timestamp, to_duration
from cli.citadel_cli import citadel_cli
from tests.certificates import B_TEST, bundle, root
from tests.integration.meshes import until
from tests.ports import free_port
from tests.servers import Member, Server

pytestmark = pytest.mark.integration


async def facts(server: Server) -> trust_pb2.ClusterFacts:
    async with aio.insecure_channel(f"unix:{server.settings.listen.admin_socket}") as channel:
        said: trust_pb2.ClusterFacts = await TrustFactsStub(channel).GetTrustFacts(trust_pb2.GetTrustFactsRequest())
        return said


async def run(*words: str) -> Any:
    return await asyncio.to_thread(CliRunner().invoke, citadel_cli, list(words))


async def test_a_server_says_what_signs_what_it_trusts_and_who_federates(server: Server, agent: Member) -> None:
    await server.entry("/web", agent, "unix:uid:1", federates_with=["b.test"])
    said = await facts(server)
    issuer, root = x509.load_der_x509_certificate(said.issuing[0]), server.bundle.x509_authorities[0]
    issuer.verify_directly_issued_by(root)
    assert len(said.issuing) == 1  # without the root
    assert said.bundle.json == server.published
    assert abs((from_timestamp(said.now) - datetime.now(UTC)).total_seconds()) < 5
    assert (said.trust_domain, said.upstream, said.issuing_trouble, said.endpoint_profile) == ("a.test", "self", "", "")
    assert (said.backdate.seconds, said.leaf_lifetime.seconds) == (10, 3600)
    [other] = said.foreign
    assert (other.trust_domain, other.entries, other.HasField("bundle")) == ("b.test", 1, False)


async def test_a_server_and_its_own_export_trust_each_other(server: Server, tmp_path: Path) -> None:
    socket, file = str(server.settings.listen.admin_socket), str(tmp_path / "a.json")
    assert (await run("--socket", socket, "trust", "export", "--write", file)).exit_code == 0
    assert "PRIVATE" not in Path(file).read_text()
    result = await run("trust", "verify", socket, file, "-o", "json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["clusters"] == [
        {"source": "server", "trust_domain": "a.test"},
        {"source": "file", "trust_domain": "a.test"},
    ]
    printed = await run("--socket", socket, "trust", "export")
    assert json.loads(printed.stdout)["trust_domain"] == "a.test"


async def test_an_export_from_before_a_rotation_no_longer_fits(server: Server, tmp_path: Path) -> None:
    socket, file = str(server.settings.listen.admin_socket), str(tmp_path / "a.json")
    await run("--socket", socket, "trust", "export", "--write", file)
    request = rotation_pb2.StartRotationRequest(kind="root", emergency=True, deadline=to_duration(timedelta(0)))
    await server.rotations().StartRotation(request)

    async def is_over() -> bool:
        said = await facts(server)
        return said.bundle.json != server.published and said.bundle.json.count(b'"x5c"') == 1

    await until("the old root is gone", is_over, seconds=20)
    result = await run("trust", "verify", socket, file)
    assert result.exit_code == 8
    assert "leads to no root that is trusted (of 1)" in result.stdout


async def test_what_is_known_of_a_foreign_domain_is_told_with_how_its_endpoint_is(server: Server) -> None:
    other = root("root b", uri="spiffe://b.test")
    trusted = bundle(other, trust_domain=B_TEST)
    request = federation_pb2.CreateFederationRequest(
        trust_domain="b.test",
        endpoint_url=f"https://127.0.0.1:{free_port()}/?key=s3cret",
        profile="https_spiffe",
        endpoint_spiffe_id="spiffe://b.test/citadel/server",
        bootstrap=types_pb2.Bundle(trust_domain="b.test", json=trusted.to_json()),
    )
    async with aio.insecure_channel(f"unix:{server.settings.listen.admin_socket}") as channel:
        await FederationsStub(channel).CreateFederation(request)
    [told] = (await facts(server)).foreign
    assert TrustBundle.from_json(B_TEST, told.bundle.json) == trusted
    url = request.endpoint_url.removesuffix("?key=s3cret")  # what is told is sent to others
    assert (told.endpoint_url, told.endpoint_profile, told.is_set) == (url, "https_spiffe", False)
    assert "s3cret" not in str(told)
    assert (told.entries, told.failures, told.last_reason) == (0, 1, "endpoint_unreachable")
