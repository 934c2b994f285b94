"""Foreign bundles and exchanged roots at a running server: who is told, and whose doors they open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from citadel._wire import admin_pb2, bootstrap_pb2, types_pb2
from citadel._wire import federation_pb2 as pb
from citadel.bundle import TrustBundle
from citadel.join_string import JoinString
from citadel.spiffe import TrustDomain
from sds.link.identity import IdentityFile
from tests import certificates
from tests.agents import running_agent
from tests.foreign import ForeignDomain, endpoint_of
from tests.servers import Member, Server, Stream, refusal, running_server, server_settings, synced

pytestmark = pytest.mark.integration

Code = grpc.StatusCode
A_TEST, B_TEST = TrustDomain("a.test"), TrustDomain("b.test")
SECONDS_TO_PUSH = 3.0  # pushed, not polled; how fast is what `make bench` measures


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(server_settings(tmp_path)) as running:
        yield running


def root(name: str, uri: str) -> certificates.Signed:
    now = certificates.NOW
    return certificates.root(name, uri, not_before=now, not_after=now + timedelta(days=3650))


OF_B, NEXT_OF_B = root("b", "spiffe://b.test"), root("b, next", "spiffe://b.test")
THEIRS = root("the other a.test", "spiffe://a.test")


def of_b(*roots: certificates.Signed, sequence: int = 1) -> TrustBundle:
    return certificates.bundle(*roots, trust_domain=B_TEST, sequence=sequence)


async def give(server: Server, bundle: TrustBundle, **fields: object) -> pb.KnownBundle:
    message = types_pb2.Bundle(trust_domain=bundle.trust_domain.name, json=bundle.to_json())
    return await server.bundles().SetBundle(pb.SetBundleRequest(bundle=message, why="a test", **fields))  # type: ignore[arg-type]


@dataclass
class Listener:
    """What one agent makes of its stream."""

    stream: Stream
    bundles: dict[str, TrustBundle] = field(default_factory=dict)
    alone: frozenset[bytes] = frozenset()

    async def next(self) -> float:
        """Take the next update; when it came."""
        update = await self.stream.next()
        for each in update.bundles:
            domain = TrustDomain(each.trust_domain)
            self.bundles[domain.name] = TrustBundle.from_json(domain, each.json)
            if domain == A_TEST:
                self.alone = frozenset(each.for_workloads_alone)
        for name in update.removed_bundles:
            del self.bundles[name]
        return time.monotonic()


@pytest.mark.spec("FED-36", "FED-41")
async def test_a_foreign_bundle_comes_changes_and_goes_for_those_agents_alone_whose_entries_federate(
    server: Server,
) -> None:
    agent, other = await server.join("node-1"), await server.join("node-2")
    web = await server.entry("/web", agent, federates_with=["b.test"])  # before any bundle of it is known
    bystander = await server.entry("/other", other)
    async with synced(server, agent) as stream, synced(server, other) as elsewhere:
        told, not_told = Listener(stream), Listener(elsewhere)
        await told.next()
        await not_told.next()
        for bundle in (of_b(OF_B), of_b(OF_B, NEXT_OF_B, sequence=2), of_b(sequence=3)):
            begun = time.monotonic()
            known = await give(server, bundle)
            assert await told.next() - begun < SECONDS_TO_PUSH
            assert told.bundles["b.test"] == bundle
            assert (known.source, known.entries, known.x509_authorities) == ("set", 1, len(bundle.x509_authorities))
        in_use = server.bundles().DeleteBundle(pb.DeleteBundleRequest(trust_domain="b.test", why="a test"))
        assert await refusal(in_use) == (Code.FAILED_PRECONDITION, "bundle_in_use")
        begun = time.monotonic()
        dissociated = pb.DeleteBundleRequest(trust_domain="b.test", why="a test", mode="dissociate")
        assert (await server.bundles().DeleteBundle(dissociated)).entries == 1
        while "b.test" in told.bundles:
            assert await told.next() - begun < SECONDS_TO_PUSH
        changed = await server.admin().GetEntry(admin_pb2.GetEntryRequest(id=web.id))
        assert (list(changed.federates_with), changed.revision) == ([], web.revision + 1)
        await server.admin().DeleteEntry(admin_pb2.DeleteEntryRequest(id=bystander.id))
        await not_told.next()
        assert (set(not_told.bundles), len(elsewhere.entries)) == ({"a.test"}, 0), "the first it hears of all this"


async def test_a_bundle_that_was_set_is_there_after_a_restart(tmp_path: Path) -> None:
    settings = server_settings(tmp_path)
    async with running_server(settings) as server:
        agent = await server.join("node-1")
        await server.entry("/web", agent, federates_with=["b.test"])
        await give(server, of_b(OF_B))
    async with running_server(settings) as server, synced(server, agent) as stream:
        told = Listener(stream)
        await told.next()
        assert told.bundles["b.test"] == of_b(OF_B)
        found = await server.bundles().ListBundles(pb.ListBundlesRequest())
        assert [(each.bundle.trust_domain, each.source, each.entries) for each in found.bundles] == [
            ("a.test", "own", 0),
            ("b.test", "set", 1),
        ]


@pytest.mark.invariant(7)
async def test_a_foreign_root_opens_no_door_of_the_server(server: Server) -> None:
    agent = await server.join("node-1")
    await server.entry("/web", agent, federates_with=["b.test"])
    await give(server, of_b(OF_B))
    assert await _refused_at_the_door(server, OF_B)


@dataclass(frozen=True)
class _Exchange:
    server: Server
    own_roots: frozenset[x509.Certificate]

    async def bundle(self) -> TrustBundle:
        message = await self.server.admin().GetOwnBundle(admin_pb2.GetOwnBundleRequest())
        return TrustBundle.from_json(A_TEST, message.json)


@pytest.fixture
async def exchange(server: Server) -> _Exchange:
    return _Exchange(server, frozenset(server.bundle.x509_authorities))


async def test_exchanged_roots_are_for_workloads_alone_and_go_again(exchange: _Exchange) -> None:
    server, theirs = exchange.server, certificates.bundle(THEIRS)
    agent = await server.join("node-1")
    refused = give(server, theirs)
    assert await refusal(refused) == (Code.INVALID_ARGUMENT, "federation_own_domain"), "not without being on purpose"
    async with synced(server, agent) as stream:
        told = Listener(stream)
        await told.next()
        assert (await server.status()).revocation_trouble == ""
        known = await give(server, theirs, own_domain=True)
        assert (known.source, known.x509_authorities) == ("exchanged", 1)
        while not told.alone:
            await told.next()
        assert frozenset(told.bundles["a.test"].x509_authorities) == exchange.own_roots | {THEIRS.certificate}
        assert told.alone == {THEIRS.certificate.fingerprint(hashes.SHA256())}
        assert await exchange.bundle() == told.bundles["a.test"]
        assert "lists of other clusters" in (await server.status()).revocation_trouble

        # Whoever joins now knows the servers of this cluster by the own roots alone.
        made = await server.admin().CreateToken(admin_pb2.CreateTokenRequest())
        served = await server.bootstrap().GetBundle(bootstrap_pb2.GetBundleRequest())
        joining = TrustBundle.from_json(A_TEST, served.bundle.json)
        assert frozenset(joining.x509_authorities) == exchange.own_roots
        assert JoinString.parse(made.join_string).bundle_sha256 == joining.x509_digest()
        assert await _refused_at_the_door(server, THEIRS)

        await server.bundles().DeleteBundle(pb.DeleteBundleRequest(own_domain=True, why="a test"))
        while told.alone:
            await told.next()
        assert frozenset(told.bundles["a.test"].x509_authorities) == exchange.own_roots
        assert (await server.status()).revocation_trouble == ""


async def test_an_agent_keeps_of_its_own_bundle_only_what_its_servers_stand_under(
    exchange: _Exchange, tmp_path: Path
) -> None:
    async with running_agent(exchange.server, tmp_path / "node") as agent:
        await give(exchange.server, certificates.bundle(THEIRS), own_domain=True)
        wanted = (await exchange.bundle()).sequence
        async with asyncio.timeout(5):
            while True:
                identity = IdentityFile(agent.settings.data_dir).load(A_TEST)
                assert identity is not None
                if identity.bundle.sequence == wanted:
                    break
                await asyncio.sleep(0.02)
        assert frozenset(identity.bundle.x509_authorities) == exchange.own_roots


async def test_what_would_not_be_fetched_is_not_given_either(server: Server) -> None:
    large = types_pb2.Bundle(trust_domain="b.test", json=b'{"keys":[]}'.ljust((1 << 20) + 1))
    by_hand = server.bundles().SetBundle(pb.SetBundleRequest(bundle=large, why="a test"))
    assert await refusal(by_hand) == (Code.INVALID_ARGUMENT, "bundle_malformed")
    federation = pb.CreateFederationRequest(
        trust_domain="b.test",
        endpoint_url="https://127.0.0.1:1/",
        profile="https_spiffe",
        endpoint_spiffe_id="spiffe://b.test/endpoint",
        bootstrap=large,
    )
    assert await refusal(server.federations().CreateFederation(federation)) == (
        Code.INVALID_ARGUMENT,
        "bundle_malformed",
    )


async def test_an_exchanged_root_proves_no_bundle_endpoint_of_the_own_domain(exchange: _Exchange) -> None:
    server, theirs = exchange.server, ForeignDomain(A_TEST)
    await give(server, theirs.bundle(), own_domain=True)
    async with endpoint_of(theirs) as endpoint:
        endpoint.answers(of_b(OF_B))
        made = await server.federations().CreateFederation(
            pb.CreateFederationRequest(
                trust_domain="b.test",
                endpoint_url=endpoint.url,
                profile="https_spiffe",
                endpoint_spiffe_id="spiffe://a.test/endpoint",
                why="a test",
            )
        )
    assert made.last_reason == "endpoint_untrusted"


async def _refused_at_the_door(server: Server, by: certificates.Signed) -> bool:
    """Whether an agent of this name, by this root, does not come through the handshake."""
    leaf = certificates.leaf(
        by, "spiffe://a.test/citadel/agent/node-1", not_after=certificates.NOW + timedelta(days=3650)
    )
    stranger = Member(leaf.key, (leaf.der,))  # type: ignore[arg-type] # an EC key, as leaves have by default
    call = server.agents(stranger).Sync()
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        return error.code() is Code.UNAVAILABLE
    return False
