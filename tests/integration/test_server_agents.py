"""Agents as an administrator sees and changes them, and the ways in that need no token, over the real wire."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_der_x509_certificate
from grpc import aio

from citadel._wire import agent_api_pb2, agents_pb2, bootstrap_pb2
from citadel._wire.agents_pb2_grpc import AgentAdminStub
from citadel.possession import Challenge, Purpose
from citadel.serial import serial_hex
from citadel.spiffe import TrustDomain
from citadel.wire import from_timestamp
from tests import certificates
from tests.csrs import csr, new_key
from tests.servers import Member, Server, refusal, running_server, server_settings, sign, synced

pytestmark = pytest.mark.integration

Code = grpc.StatusCode
A_TEST = TrustDomain("a.test")
# The machines' own authority, valid now: the server judges by its own clock.
DATES = {"not_before": certificates.datetime.now(certificates.UTC) - timedelta(hours=1)}
DATES["not_after"] = DATES["not_before"] + timedelta(days=2)
MACHINES = certificates.root("machines", uri=None, **DATES)


def machine(**changes: Any) -> certificates.Signed:
    return certificates.leaf(MACHINES, **({"names": None, **DATES} | changes))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """One that trusts the machines' authority."""
    ca_file = tmp_path / "machines.pem"
    ca_file.write_bytes(MACHINES.pem)
    settings = server_settings(
        tmp_path, joining={"x509pop": {"ca_file": ca_file}}, svids={"agent_lifetime": "30s", "backdate": "1s"}
    )
    async with running_server(settings) as running:
        yield running


class Administrator:
    """What an administrator asks about agents."""

    def __init__(self, stub: Any) -> None:
        self.stub = stub

    async def get(self, agent: str) -> agents_pb2.AgentDetails:
        return await self.stub.GetAgent(agents_pb2.GetAgentRequest(agent=agent))

    async def ban(self, agent: str) -> agents_pb2.Agent:
        return await self.stub.BanAgent(agents_pb2.BanAgentRequest(agent=agent, reason="stolen"))

    async def evict(self, agent: str) -> agents_pb2.Agent:
        return await self.stub.EvictAgent(agents_pb2.EvictAgentRequest(agent=agent))

    async def names(self, **request: Any) -> list[list[str]]:
        """The names on each page."""
        pages, token = [], ""
        while not pages or token:
            page = await self.stub.ListAgents(agents_pb2.ListAgentsRequest(page_token=token, **request))
            pages.append([agent.spiffe_id.rpartition("/")[2] for agent in page.agents])
            token = page.next_page_token
        return pages


@pytest.fixture
async def admin(server: Server) -> AsyncIterator[Administrator]:
    async with aio.insecure_channel(f"unix:{server.settings.listen.admin_socket}") as channel:
        yield Administrator(AgentAdminStub(channel))


async def ended(stream: Any) -> tuple[Code, str]:
    return await refusal(asyncio.wait_for(stream.call.read(), 5))


async def test_agents_are_listed_in_pages_and_by_state(server: Server, admin: Administrator) -> None:
    members = {name: await server.join(name) for name in ("e", "a", "d", "c", "b")}
    await admin.ban("d")
    async with synced(server, members["c"]) as stream:
        await stream.next()
        assert await admin.names(page_size=2) == [["a", "b"], ["c", "d"], ["e"]]
        assert await admin.names(page_size=5) == [["a", "b", "c", "d", "e"]]
        assert await admin.names(state=agents_pb2.ListAgentsRequest.CONNECTED) == [["c"]]
        assert await admin.names(state=agents_pb2.ListAgentsRequest.AWAY) == [["a", "b", "e"]]
        assert await admin.names(state=agents_pb2.ListAgentsRequest.BANNED) == [["d"]]


async def test_an_agent_is_shown_with_its_facts_entries_and_streams(server: Server, admin: Administrator) -> None:
    member = await server.join("node-1", "node:rack:a")
    mine, _ = await server.entry("/web", member), await server.entry("/x", "spiffe://a.test/citadel/agent/node-2")
    shown = await admin.get("node-1")
    assert (shown.agent.connected, shown.agent.HasField("last_seen"), shown.agent.version) == (False, False, "")
    async with synced(server, member) as stream:
        await stream.next()
        report = agent_api_pb2.Streams(snapshot=True)
        report.reports.add(stream_id="7", pid=42)
        await stream.say(streams=report)
        async with asyncio.timeout(5):
            while not (shown := await admin.get(member.spiffe_id)).streams:
                await asyncio.sleep(0.01)
        assert (shown.agent.connected, shown.agent.version, shown.agent.streams) == (True, "1.2.3", 1)
        assert (list(shown.agent.selectors), shown.agent.joined_by) == (["node:name:node-1", "node:rack:a"], "token")
        assert [entry.id for entry in shown.entries] == [mine.id]
        leaf = certificates.x509.load_der_x509_certificate(member.chain[0])
        assert int(shown.agent.svid_serial, 16) == leaf.serial_number
        assert from_timestamp(shown.agent.svid_not_after) == leaf.not_valid_after_utc
        connected_at = from_timestamp(shown.agent.connected_at)
    async with asyncio.timeout(5):
        while (shown := await admin.get("node-1")).agent.connected:
            await asyncio.sleep(0.01)
    assert from_timestamp(shown.agent.last_seen) >= connected_at


async def test_when_an_agent_was_last_seen_survives_a_restart(tmp_path: Path) -> None:
    settings = server_settings(tmp_path)

    async def seen() -> Any:
        async with aio.insecure_channel(f"unix:{settings.listen.admin_socket}") as channel:
            return (await Administrator(AgentAdminStub(channel)).get("node-1")).agent.last_seen

    async with running_server(settings) as first:
        member = await first.join("node-1")
        async with synced(first, member) as stream:
            await stream.next()
            before = await seen()
    async with running_server(settings):
        assert from_timestamp(await seen()) >= from_timestamp(before)


async def test_a_ban_ends_the_streams_at_once_and_shuts_the_door(server: Server, admin: Administrator) -> None:
    member, other = await server.join("node-1"), await server.join("node-2")
    entry = await server.entry("/web", member)
    agents = server.agents(member)
    async with synced(server, member) as stream, synced(server, other) as elsewhere:
        await stream.next()
        await elsewhere.next()
        begun = time.monotonic()
        await admin.ban("node-1")
        assert await ended(stream) == (Code.PERMISSION_DENIED, "agent_banned")
        assert time.monotonic() - begun < 1
        assert await refusal(sign(agents, (entry.id, csr()))) == (Code.PERMISSION_DENIED, "agent_banned")
        renewal = agent_api_pb2.RenewAgentRequest(csr=csr())
        assert await refusal(agents.RenewAgent(renewal)) == (Code.PERMISSION_DENIED, "agent_banned")
        async with synced(server, member) as again:  # a new connection
            assert await ended(again) == (Code.PERMISSION_DENIED, "agent_banned")
        join = bootstrap_pb2.JoinRequest(token=await server.token("node-1"), csr=csr())
        assert await refusal(server.bootstrap().Join(join)) == (Code.PERMISSION_DENIED, "agent_banned")
        assert await refusal(rejoin(server, member)) == (Code.PERMISSION_DENIED, "agent_banned")
        await server.entry("/theirs", other)
        assert len((await elsewhere.next()).entries) == 1
    await admin.stub.UnbanAgent(agents_pb2.UnbanAgentRequest(agent="node-1"))
    (result,) = await sign(agents, (entry.id, csr()))
    assert result.svid.chain


async def test_an_evicted_agent_is_gone(server: Server, admin: Administrator) -> None:
    member = await server.join("node-1")
    async with synced(server, member) as stream:
        await stream.next()
        await admin.evict("node-1")
        assert await ended(stream) == (Code.PERMISSION_DENIED, "agent_unknown")
    assert await admin.names() == [[]]
    assert await refusal(admin.get("node-1")) == (Code.NOT_FOUND, "agent_unknown")
    assert await refusal(rejoin(server, member)) == (Code.UNAUTHENTICATED, "rejoin_refused")
    async with synced(server, await server.join("node-1")) as stream:
        await stream.next()


async def test_nothing_in_flight_is_signed_after_the_ban(server: Server, admin: Administrator) -> None:
    """Whatever is answered stood in the ledger when the ban was done; how late it is read here says nothing."""
    member = await server.join("node-1")
    entry = await server.entry("/web", member)
    agents = server.agents(member)
    answered: set[str] = set()
    refused = 0

    async def ask_for_ever() -> None:
        nonlocal refused
        while True:
            try:
                results = await sign(agents, *[(entry.id, csr())] * 3)
            except aio.AioRpcError as error:
                refused += error.code() is Code.PERMISSION_DENIED
                return
            chains = (each.svid.chain for each in results if each.HasField("svid"))
            answered.update(serial_hex(load_der_x509_certificate(chain[0]).serial_number) for chain in chains)

    asking = [asyncio.create_task(ask_for_ever()) for _ in range(16)]  # as many as one agent may
    async with asyncio.timeout(20):
        while len(answered) < 30:
            await asyncio.sleep(0.001)
        await admin.ban("node-1")
        signed = {*server.ledger.serials()}
        await asyncio.gather(*asking)
    assert refused == 16
    assert answered <= signed
    assert {*server.ledger.serials()} == signed


async def prove(
    server: Server, claim: bootstrap_pb2.ProveRequest, answer: Callable[[bytes], bytes]
) -> bootstrap_pb2.JoinResponse:
    """Claim, and answer the nonce with what `answer` makes of it."""
    call = server.bootstrap().Prove()
    await call.write(claim)
    nonce = (await call.read()).nonce
    await call.write(bootstrap_pb2.ProveRequest(signature=answer(nonce)))
    response = await call.read()
    assert isinstance(response, bootstrap_pb2.ProveResponse)
    return response.joined


async def rejoin(server: Server, member: Member) -> bootstrap_pb2.JoinResponse:
    request = csr()
    public = member.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    claim = bootstrap_pb2.RecordedKeyClaim(spiffe_id=member.spiffe_id, public_key=public, csr=request)

    def answer(nonce: bytes) -> bytes:
        return Challenge(
            purpose=Purpose.REJOIN, trust_domain=A_TEST, claimant=member.spiffe_id, csr=request, nonce=nonce
        ).signed_by(member.key)

    return await prove(server, bootstrap_pb2.ProveRequest(recorded_key=claim), answer)


def claim_of(own: certificates.Signed, request: bytes) -> bootstrap_pb2.ProveRequest:
    return bootstrap_pb2.ProveRequest(certificate=bootstrap_pb2.CertificateClaim(chain=[own.der], csr=request))


def proof_of(own: certificates.Signed, request: bytes, nonce: bytes) -> bytes:
    claimant = own.certificate.fingerprint(hashes.SHA256()).hex()
    challenge = Challenge(purpose=Purpose.X509POP, trust_domain=A_TEST, claimant=claimant, csr=request, nonce=nonce)
    return challenge.signed_by(own.key)  # type: ignore[arg-type] # an EC key


async def test_a_recorded_key_comes_back_with_a_new_svid(server: Server) -> None:
    member = await server.join("node-1")
    answer = await rejoin(server, member)
    assert (answer.spiffe_id, answer.bundle.json) == (member.spiffe_id, server.published)
    assert answer.agent_api == str(server.settings.listen.agents)


async def test_a_machine_joins_with_its_certificate(server: Server, admin: Administrator) -> None:
    own, key = machine(), new_key()
    request = csr(key)
    answer = await prove(server, claim_of(own, request), lambda nonce: proof_of(own, request, nonce))
    member = Member(key, tuple(answer.chain), answer.spiffe_id)
    async with synced(server, member) as stream:
        await stream.next()
    shown = (await admin.get(f"x509pop/{own.certificate.fingerprint(hashes.SHA256()).hex()}")).agent
    assert (shown.spiffe_id, shown.joined_by) == (answer.spiffe_id, "x509pop")


async def test_a_signature_that_was_seen_before_is_worth_nothing(server: Server, admin: Administrator) -> None:
    own, request = machine(), csr()
    seen: list[bytes] = []

    def overheard(nonce: bytes) -> bytes:
        seen.append(proof_of(own, request, nonce))
        return seen[0]

    await prove(server, claim_of(own, request), overheard)
    await admin.evict((await admin.names())[0][0].join(("x509pop/", "")))
    assert await refusal(prove(server, claim_of(own, request), overheard)) == (
        Code.UNAUTHENTICATED,
        "x509pop_refused",
    )
    other = csr()  # the thief's own request with the proof of another one
    assert await refusal(prove(server, claim_of(own, other), lambda nonce: proof_of(own, request, nonce))) == (
        Code.UNAUTHENTICATED,
        "x509pop_refused",
    )
    assert await admin.names() == [[]]


OUT_OF_TURN: list[tuple[str, list[bootstrap_pb2.ProveRequest], tuple[Code, str]]] = [
    ("nothing", [], (Code.INVALID_ARGUMENT, "request_malformed")),
    ("an empty message", [bootstrap_pb2.ProveRequest()], (Code.INVALID_ARGUMENT, "request_malformed")),
    ("a signature first", [bootstrap_pb2.ProveRequest(signature=b"s")], (Code.INVALID_ARGUMENT, "request_malformed")),
    ("a claim twice", [claim_of(machine(), csr())] * 2, (Code.INVALID_ARGUMENT, "request_malformed")),
    (
        "garbage",
        [bootstrap_pb2.ProveRequest(certificate=bootstrap_pb2.CertificateClaim(chain=[b"x" * 100_000], csr=csr()))],
        (Code.UNAUTHENTICATED, "x509pop_refused"),
    ),
    (
        "a megabyte of garbage",
        [bootstrap_pb2.ProveRequest(certificate=bootstrap_pb2.CertificateClaim(chain=[b"x" * (1 << 20)]))],
        (Code.RESOURCE_EXHAUSTED, ""),
    ),
]


@pytest.mark.parametrize(("messages", "outcome"), [row[1:] for row in OUT_OF_TURN], ids=[row[0] for row in OUT_OF_TURN])
async def test_messages_out_of_turn_are_refused(
    server: Server, messages: list[bootstrap_pb2.ProveRequest], outcome: tuple[Code, str]
) -> None:
    async def all_answers() -> None:
        async for _ in server.bootstrap().Prove(iter(messages)):
            pass

    assert await refusal(asyncio.wait_for(all_answers(), 10)) == outcome


async def test_a_flood_of_claims_is_limited_like_joins(tmp_path: Path) -> None:
    async with running_server(server_settings(tmp_path, limits={"joins_per_second": 2})) as server:
        member = await server.join("node-1")
        outcomes = [await refusal(rejoin(server, Member(new_key(), (), member.spiffe_id))) for _ in range(5)]
    assert outcomes.count((Code.RESOURCE_EXHAUSTED, "too_many_requests")) >= 3
