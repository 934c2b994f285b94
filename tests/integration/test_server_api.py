"""The server's three doors from outside: real gRPC over real TLS, every refusal with its code and reason."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ca.keys.disk import DiskKeyManager
from ca.keys.kek import read_kek
from ca.keys.sealing import KeyPurpose, Sealer
from ca.store.authorities import SqlAuthorityStore
from ca.store.database import open_engine
from citadel._wire import admin_pb2, bootstrap_pb2, types_pb2
from citadel._wire import agent_api_pb2 as pb
from citadel.bundle import TrustBundle
from citadel.config.types import HostPort
from citadel.errors import InvalidArgument
from citadel.join_string import JoinString
from citadel.svid import X509Svid
from cli.server_process import run_server
from tests import certificates
from tests.csrs import csr, new_key, signed_by_another_key, with_wrong_signature
from tests.servers import (
    Member,
    Server,
    connected,
    free_port,
    http_status,
    reason_of,
    running_server,
    server_settings,
    sign,
)

pytestmark = pytest.mark.integration

SECONDS_TO_PUSH = 1.0  # DESIGN: "in well under a second"
Code = grpc.StatusCode


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(server_settings(tmp_path)) as running:
        yield running


@pytest.fixture
async def agent(server: Server) -> Member:
    return await server.join("node-1", "node:rack:a")


async def refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """Status code and reason code of a call that must be refused."""
    with pytest.raises(aio.AioRpcError) as refused:
        await call
    return refused.value.code(), reason_of(refused.value)


# The bootstrap door


async def test_the_bundle_needs_no_client_certificate(server: Server) -> None:
    answer = await server.bootstrap().GetBundle(bootstrap_pb2.GetBundleRequest())
    assert (answer.bundle.trust_domain, answer.bundle.json) == ("a.test", server.published)


async def test_a_join_string_leads_to_an_identity(server: Server) -> None:
    made = await server.admin().CreateToken(admin_pb2.CreateTokenRequest(agent_name="node-7"))
    join = JoinString.parse(made.join_string)
    assert join.address == server.settings.listen.bootstrap
    assert join.bundle_sha256 == server.bundle.x509_digest()
    key = new_key()
    answer = await server.bootstrap().Join(bootstrap_pb2.JoinRequest(token=join.token, csr=csr(key)))
    svid = X509Svid.from_der(answer.chain)
    assert str(svid.spiffe_id) == answer.spiffe_id == made.agent_id == "spiffe://a.test/citadel/agent/node-7"
    assert svid.leaf.public_key() == key.public_key()
    assert (answer.agent_api, answer.bundle.json) == (str(server.settings.listen.agents), server.published)
    assert svid.serial in server.ledger.serials()


async def test_advertised_addresses_are_what_others_are_told(tmp_path: Path) -> None:
    told = {"bootstrap": "citadel.example:1", "agents": "citadel.example:2"}
    async with running_server(server_settings(tmp_path, advertise=told)) as server:
        made = await server.admin().CreateToken(admin_pb2.CreateTokenRequest())
        join = JoinString.parse(made.join_string)
        assert join.address == HostPort("citadel.example", 1)
        answer = await server.bootstrap().Join(bootstrap_pb2.JoinRequest(token=join.token, csr=csr()))
        assert answer.agent_api == "citadel.example:2"


async def test_a_token_used_twice_expired_or_made_up_is_refused_with_its_reason(server: Server) -> None:
    used, expired = await server.token("node-1"), await server.token("node-2", seconds=0.05)
    join = server.bootstrap().Join
    await join(bootstrap_pb2.JoinRequest(token=used, csr=csr()))
    await asyncio.sleep(0.1)
    for token, reason in ((used, "token_used"), (expired, "token_expired"), ("made-up", "token_unknown")):
        got = await refusal(join(bootstrap_pb2.JoinRequest(token=token, csr=csr())))
        assert got == (Code.UNAUTHENTICATED, reason)
    status = await server.status()
    assert dict(status.refused) == {"token_used": 1, "token_expired": 1, "token_unknown": 1}
    assert len(status.agents) == 1


async def test_a_bad_request_to_join_is_refused_and_leaves_the_token_good(server: Server) -> None:
    token = await server.token("node-1")
    join = server.bootstrap().Join
    got = await refusal(join(bootstrap_pb2.JoinRequest(token=token, csr=b"garbage")))
    assert got == (Code.INVALID_ARGUMENT, "csr_malformed")
    await join(bootstrap_pb2.JoinRequest(token=token, csr=csr()))


async def test_the_bootstrap_door_takes_no_large_messages(server: Server) -> None:
    got = await refusal(server.bootstrap().Join(bootstrap_pb2.JoinRequest(token="t", csr=bytes(512 * 1024))))
    assert got == (Code.RESOURCE_EXHAUSTED, "")


async def test_callers_without_an_identity_are_limited(tmp_path: Path) -> None:
    async with running_server(server_settings(tmp_path, limits={"joins_per_second": 2})) as server:
        ask = server.bootstrap().GetBundle
        results = await asyncio.gather(
            *(ask(bootstrap_pb2.GetBundleRequest()) for _ in range(10)), return_exceptions=True
        )
        refused = [result for result in results if isinstance(result, aio.AioRpcError)]
        assert len(refused) >= 7
        assert {(error.code(), reason_of(error)) for error in refused} == {
            (Code.RESOURCE_EXHAUSTED, "too_many_requests")
        }


async def test_a_client_that_trusts_another_root_does_not_talk_to_this_server(server: Server) -> None:
    stranger = certificates.bundle(certificates.root())
    got = await refusal(server.bootstrap(bundle=stranger).GetBundle(bootstrap_pb2.GetBundleRequest(), timeout=5))
    assert got == (Code.UNAVAILABLE, "")


# The agents' door: who gets in


async def signing_key(server: Server) -> certificates.Signed:
    """The issuing authority with its key, as only the server has it: what an attacker with its disk could use."""
    settings = server.settings
    engine = open_engine(f"sqlite+aiosqlite:///{settings.data_dir / 'citadel.db'}")
    store = SqlAuthorityStore(engine=engine, trust_domain=settings.trust_domain)
    issuer = (await store.load())[-1]
    await engine.dispose()
    keys = DiskKeyManager(
        folder=settings.data_dir / "keys",
        trust_domain=settings.trust_domain,
        sealer=Sealer(read_kek(settings.keys, {})),
    )
    return certificates.Signed(issuer.certificate, await keys.signer(issuer.key_id, KeyPurpose.ISSUER))


def forged(issuer: certificates.Signed, spiffe_id: str) -> Member:
    """A chain that verifies, made past the server."""
    authority = issuer.certificate
    key = new_key()
    leaf = certificates.leaf(
        issuer,
        spiffe_id,
        key=key,
        not_before=authority.not_valid_before_utc,
        not_after=authority.not_valid_after_utc,
    )
    return Member(key, (leaf.der, issuer.der), spiffe_id)


async def test_a_valid_chain_is_not_enough(server: Server, agent: Member) -> None:
    issuer = await signing_key(server)
    for spiffe_id, reason in (
        (agent.spiffe_id, "agent_key_mismatch"),
        ("spiffe://a.test/citadel/agent/never-joined", "agent_unknown"),
        ("spiffe://a.test/citadel/server", "agent_svid_refused"),
        ("spiffe://a.test/citadel/agent/a/b", "agent_svid_refused"),
        ("spiffe://b.test/citadel/agent/node-1", "agent_svid_refused"),
        ("spiffe://a.test/workload", "agent_svid_refused"),
    ):
        agents = server.agents(forged(issuer, spiffe_id))
        got = await refusal(agents.SignX509Svids(pb.SignX509SvidsRequest()))
        assert got == (Code.PERMISSION_DENIED, reason), spiffe_id
        assert await refusal(agents.RenewAgent(pb.RenewAgentRequest(csr=csr()))) == got
        assert await refusal(anext(aiter(agents.Sync(iter([HELLO]))))) == got


async def test_a_workload_s_svid_does_not_open_the_agents_door(server: Server, agent: Member) -> None:
    entry, key = await server.entry("/web", agent), new_key()
    (result,) = await sign(server.agents(agent), (entry.id, csr(key)))
    workload = Member(key, tuple(result.svid.chain))
    got = await refusal(server.agents(workload).SignX509Svids(pb.SignX509SvidsRequest()))
    assert got == (Code.PERMISSION_DENIED, "agent_svid_refused")


@pytest.mark.invariant(7)
async def test_the_agents_door_is_closed_to_certificates_of_other_roots(
    server: Server, agent: Member, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stranger = certificates.root()
    unknown = forged(stranger, agent.spiffe_id)
    self_made = Member(unknown.key, unknown.chain[:1])
    async with running_server(server_settings(tmp_path_factory.mktemp("other"))) as other:
        of_another_server = await other.join("node-1")
        for member in (None, unknown, self_made, of_another_server):
            agents = server.agents(member, bundle=server.bundle)
            got = await refusal(agents.SignX509Svids(pb.SignX509SvidsRequest(), timeout=5))
            assert got == (Code.UNAVAILABLE, ""), "TLS refuses before any handler is reached"


# The agents' door: signing


@pytest.mark.invariant(2)
async def test_a_refused_item_takes_nothing_from_its_neighbours_and_leaves_no_row(
    server: Server, agent: Member
) -> None:
    other = await server.join("node-2")
    mine, foreign = await server.entry("/web", agent), await server.entry("/other", other)
    good = csr()
    items = [
        (mine.id, good, ""),
        (mine.id, b"garbage", "INVALID_ARGUMENT csr_malformed"),
        (mine.id, b"", "INVALID_ARGUMENT csr_malformed"),
        (mine.id, with_wrong_signature(good), "INVALID_ARGUMENT csr_bad_signature"),
        (mine.id, signed_by_another_key(), "INVALID_ARGUMENT csr_bad_signature"),
        (mine.id, csr(certificates.rsa_key(1024)), "INVALID_ARGUMENT csr_key_refused"),
        (mine.id, csr(new_key(ec.SECP224R1())), "INVALID_ARGUMENT csr_key_refused"),
        (mine.id, bytes(64 * 1024 + 1), "INVALID_ARGUMENT csr_too_large"),
        # RFC 2986 section 4.1: version 0 is the only one.
        (mine.id, good.replace(b"\x02\x01\x00", b"\x02\x01\x01", 1), "INVALID_ARGUMENT csr_malformed"),
        (foreign.id, good, "PERMISSION_DENIED entry_not_authorized"),
        ("made-up", good, "PERMISSION_DENIED entry_not_authorized"),
        (mine.id, csr(), ""),
    ]
    before = server.ledger.serials()
    results = await sign(server.agents(agent), *((entry_id, der) for entry_id, der, _ in items))
    got = [f"{result.refusal.code} {result.refusal.reason}" if result.HasField("refusal") else "" for result in results]
    assert got == [expected for _, _, expected in items]
    issued = [X509Svid.from_der(result.svid.chain).serial for result in results if result.HasField("svid")]
    assert server.ledger.serials() == before + issued
    status = await server.status()
    assert status.issued == 4  # two agents, two workloads
    assert sum(status.refused.values()) == 10


async def test_an_entry_under_an_alias_is_for_the_agents_of_that_kind(server: Server, agent: Member) -> None:
    elsewhere = await server.join("node-2", "node:rack:b")
    await server.entry("/nodes/rack-a", "spiffe://a.test/citadel/server", "node:rack:a")
    entry = await server.entry("/web", "spiffe://a.test/nodes/rack-a")
    (mine,) = await sign(server.agents(agent), (entry.id, csr()))
    (theirs,) = await sign(server.agents(elsewhere), (entry.id, csr()))
    assert mine.svid.spiffe_id == "spiffe://a.test/web"
    assert (theirs.refusal.code, theirs.refusal.reason) == ("PERMISSION_DENIED", "entry_not_authorized")


async def test_a_batch_over_the_limit_is_refused_whole(tmp_path: Path) -> None:
    async with running_server(server_settings(tmp_path, limits={"batch": 3})) as server:
        agent = await server.join("node-1")
        entry, agents = await server.entry("/web", agent), server.agents(agent)
        assert len(await sign(agents, *[(entry.id, csr())] * 3)) == 3
        before = server.ledger.serials()
        assert await refusal(sign(agents, *[(entry.id, csr())] * 4)) == (Code.INVALID_ARGUMENT, "batch_too_large")
        assert server.ledger.serials() == before


async def test_the_largest_batch_of_the_default_settings_fits(server: Server, agent: Member) -> None:
    entry, request = await server.entry("/web", agent), csr()
    results = await sign(server.agents(agent), *[(entry.id, request)] * 500)
    assert len({X509Svid.from_der(result.svid.chain).serial for result in results}) == 500


async def test_the_answer_says_how_long_and_why(server: Server, agent: Member) -> None:
    entry = await server.entry("/web", agent, x509_svid_ttl={"seconds": 90})
    (result,) = await sign(server.agents(agent), (entry.id, csr()))
    svid = X509Svid.from_der(result.svid.chain)
    assert result.svid.lifetime_limited_by == "entry"
    assert result.svid.not_after.seconds == svid.not_after.timestamp()
    assert 85 <= svid.not_after.timestamp() - time.time() <= 90


# The agents' door: renewing the agent itself


async def renewed(server: Server, member: Member) -> Member:
    key = new_key()
    answer = await server.agents(member).RenewAgent(pb.RenewAgentRequest(csr=csr(key)))
    return Member(key, tuple(answer.chain), member.spiffe_id)


@pytest.mark.invariant(12)
async def test_a_lost_answer_locks_no_agent_out_and_the_new_key_ends_the_old_one(server: Server, agent: Member) -> None:
    async def asks(member: Member) -> None:
        await sign(server.agents(member))

    lost = await renewed(server, agent)
    await asks(agent)  # the answer never came: the agent goes on with what it has
    new = await renewed(server, agent)
    await asks(agent)
    assert await refusal(asks(lost)) == (Code.PERMISSION_DENIED, "agent_key_mismatch")
    await asks(new)
    assert await refusal(asks(agent)) == (Code.PERMISSION_DENIED, "agent_key_mismatch")
    await asks(await renewed(server, new))


async def test_a_bad_request_renews_nothing(server: Server, agent: Member) -> None:
    before = server.ledger.serials()
    got = await refusal(server.agents(agent).RenewAgent(pb.RenewAgentRequest(csr=signed_by_another_key())))
    assert got == (Code.INVALID_ARGUMENT, "csr_bad_signature")
    assert server.ledger.serials() == before
    await sign(server.agents(agent))


# The agents' door: the stream

HELLO = pb.AgentMessage(hello=pb.Hello(agent_version="1.2.3", host="node-1"))


@dataclass
class Stream:
    """One Sync stream, read as an agent reads it."""

    call: Any
    entries: dict[str, types_pb2.Entry] = field(default_factory=dict)

    async def next(self) -> pb.Update:
        update = await asyncio.wait_for(self.call.read(), 10)
        assert update is not aio.EOF
        if update.snapshot:
            self.entries.clear()
        self.entries |= {entry.id: entry for entry in update.entries}
        for entry_id in update.removed_entry_ids:
            del self.entries[entry_id]
        return update

    async def say(self, **kind: Any) -> None:
        await self.call.write(pb.AgentMessage(**kind))


@asynccontextmanager
async def synced(server: Server, member: Member) -> AsyncIterator[Stream]:
    stream = Stream(server.agents(member).Sync())
    await stream.call.write(HELLO)
    try:
        yield stream
    finally:
        stream.call.cancel()


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while not await condition():
            await asyncio.sleep(0.01)


async def test_the_first_update_is_a_snapshot_of_what_concerns_the_agent(server: Server, agent: Member) -> None:
    mine, _ = await server.entry("/web", agent), await server.entry("/x", "spiffe://a.test/citadel/agent/node-2")
    async with synced(server, agent) as stream:
        update = await stream.next()
        assert (update.snapshot, update.more, update.revision) == (True, False, 2)
        assert stream.entries == {mine.id: mine}
        assert [(bundle.trust_domain, bundle.json) for bundle in update.bundles] == [("a.test", server.published)]


async def test_a_change_is_pushed_in_well_under_a_second_and_only_to_whom_it_concerns(
    server: Server, agent: Member
) -> None:
    other = await server.join("node-2")
    async with synced(server, agent) as stream, synced(server, other) as elsewhere:
        await stream.next()
        await elsewhere.next()
        begun = time.monotonic()
        entry = await server.entry("/web", agent)
        update = await stream.next()
        assert time.monotonic() - begun < SECONDS_TO_PUSH
        assert (update.snapshot, list(update.entries), len(update.bundles)) == (False, [entry], 0)

        begun = time.monotonic()
        await server.admin().DeleteEntry(admin_pb2.DeleteEntryRequest(id=entry.id))
        update = await stream.next()
        assert time.monotonic() - begun < SECONDS_TO_PUSH
        assert (list(update.removed_entry_ids), update.revision, stream.entries) == ([entry.id], 2, {})

        theirs = await server.entry("/other", other)
        assert list((await elsewhere.next()).entries) == [theirs], "the first change was not told to them"
    (result,) = await sign(server.agents(agent), (entry.id, csr()))
    assert result.refusal.reason == "entry_not_authorized"


async def test_many_entries_come_in_parts(server: Server, agent: Member) -> None:
    admin = server.admin()
    wanted = [types_pb2.Entry(spiffe_id=f"spiffe://a.test/w{n}", parent_id=agent.spiffe_id) for n in range(501)]
    for entry in wanted:
        entry.selectors.append("unix:uid:1")
    await asyncio.gather(*(admin.CreateEntry(admin_pb2.CreateEntryRequest(entry=entry)) for entry in wanted))
    async with synced(server, agent) as stream:
        assert (await stream.next()).more
        assert not (await stream.next()).more
        assert {entry.spiffe_id for entry in stream.entries.values()} == {entry.spiffe_id for entry in wanted}


async def test_what_the_agent_says_shows_in_the_status(server: Server, agent: Member) -> None:
    await server.entry("/web", agent)
    assert not (await server.status_of(agent)).connected
    async with synced(server, agent) as stream:
        revision = (await stream.next()).revision
        await stream.say(acknowledge=pb.Acknowledge(revision=revision))
        resource = types_pb2.ResourceReport(
            name="default", state=types_pb2.ResourceReport.REFUSED, version="3", refusal="no such key", serial="0abc"
        )
        report = types_pb2.StreamReport(stream_id="s1", protocol="sds", pid=7, uid=1000, resources=[resource])
        await stream.say(streams=pb.Streams(snapshot=True, reports=[report]))

        async def shows() -> bool:
            found = await server.status_of(agent)
            return found.acknowledged_revision == revision == 1 and list(found.streams) == [report]

        await eventually(shows)
        found = await server.status_of(agent)
        assert (found.connected, found.version) == (True, "1.2.3")
        closed = types_pb2.StreamReport(stream_id="s1", closed=True)
        await stream.say(streams=pb.Streams(reports=[closed]))
        await eventually(lambda: _is(lambda status: not status.streams, server, agent))
    await eventually(lambda: _is(lambda status: not status.connected, server, agent))


async def _is(holds: Callable[[admin_pb2.AgentStatus], bool], server: Server, agent: Member) -> bool:
    return holds(await server.status_of(agent))


@pytest.mark.parametrize(
    "first", [pb.AgentMessage(), pb.AgentMessage(acknowledge=pb.Acknowledge(revision=1))], ids=["empty", "no hello"]
)
async def test_a_stream_that_does_not_begin_with_hello_is_refused(
    server: Server, agent: Member, first: pb.AgentMessage
) -> None:
    got = await refusal(anext(aiter(server.agents(agent).Sync(iter([first])))))
    assert got == (Code.INVALID_ARGUMENT, "request_malformed")


async def test_a_stream_ends_with_the_certificate_that_opened_it(tmp_path: Path) -> None:
    brief = {"agent_lifetime": "2s", "backdate": "0s"}
    async with running_server(server_settings(tmp_path, svids=brief)) as server:
        agent = await server.join("node-1")
        async with synced(server, agent) as stream:
            await stream.next()
            got = await refusal(stream.call.read())
        assert got == (Code.UNAUTHENTICATED, "agent_svid_expired")


# The admin socket


async def test_an_entry_is_created_shown_listed_and_deleted(server: Server, agent: Member) -> None:
    admin = server.admin()
    made = await server.entry("/web", agent, admin=True, downstream=True, dns_names=["web.a.test"], hint="main")
    assert (made.admin, made.downstream, made.revision, made.id != "") == (True, True, 1, True)
    assert await admin.GetEntry(admin_pb2.GetEntryRequest(id=made.id)) == made
    assert list((await admin.ListEntries(admin_pb2.ListEntriesRequest())).entries) == [made]
    assert await admin.DeleteEntry(admin_pb2.DeleteEntryRequest(id=made.id)) == made
    assert await refusal(admin.GetEntry(admin_pb2.GetEntryRequest(id=made.id))) == (Code.NOT_FOUND, "entry_not_found")
    assert await refusal(admin.DeleteEntry(admin_pb2.DeleteEntryRequest(id=made.id))) == (
        Code.NOT_FOUND,
        "entry_not_found",
    )


async def test_a_duplicate_names_the_entry_that_is_there(server: Server, agent: Member) -> None:
    made = await server.entry("/web", agent)
    with pytest.raises(aio.AioRpcError) as refused:
        await server.entry("/web", agent, hint="another")
    assert (refused.value.code(), reason_of(refused.value)) == (Code.ALREADY_EXISTS, "entry_duplicate")
    assert made.id in (refused.value.details() or "")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"spiffe_id": "spiffe://a.test//x"}, "id_malformed"),
        ({"spiffe_id": "spiffe://a.test"}, "entry_root_path"),
        ({"spiffe_id": "spiffe://a.test/citadel/agent/x"}, "entry_reserved_id"),
        ({"spiffe_id": "spiffe://b.test/x"}, "entry_foreign_trust_domain"),
        ({"dns_names": ["*.a.test"]}, "entry_bad_dns_name"),
        ({"dns_names": ["Server.CITADEL.internal."]}, "entry_reserved_dns_name"),
        ({"selectors": []}, "entry_no_selectors"),
    ],
)
async def test_an_entry_that_breaks_a_rule_is_refused(server: Server, change: dict[str, Any], reason: str) -> None:
    fields: dict[str, Any] = {
        "spiffe_id": "spiffe://a.test/web",
        "parent_id": "spiffe://a.test/citadel/agent/node-1",
        "selectors": ["unix:uid:1"],
    }
    entry = types_pb2.Entry(**(fields | change))
    got = await refusal(server.admin().CreateEntry(admin_pb2.CreateEntryRequest(entry=entry)))
    assert got == (Code.INVALID_ARGUMENT, reason)
    assert (await server.status()).entries == 0


async def test_pages_of_a_list_lose_and_repeat_nothing_while_entries_go(server: Server, agent: Member) -> None:
    made = [await server.entry(f"/w{number}", agent) for number in range(7)]
    elsewhere = await server.entry("/w0", "spiffe://a.test/citadel/agent/node-2")
    admin, seen, token = server.admin(), [], ""
    while True:
        request = admin_pb2.ListEntriesRequest(parent_id=agent.spiffe_id, page_size=3, page_token=token)
        page = await admin.ListEntries(request)
        seen += [entry.id for entry in page.entries]
        token = page.next_page_token
        if not token:
            break
        await admin.DeleteEntry(admin_pb2.DeleteEntryRequest(id=seen[-1]))
    assert seen == [entry.id for entry in made]
    by_id = await admin.ListEntries(admin_pb2.ListEntriesRequest(spiffe_id="spiffe://a.test/w0"))
    assert [entry.id for entry in by_id.entries] == [made[0].id, elsewhere.id]
    bad = admin.ListEntries(admin_pb2.ListEntriesRequest(page_token="made-up"))
    assert await refusal(bad) == (Code.INVALID_ARGUMENT, "request_malformed")


async def test_the_status_says_who_is_there_and_what_signs(server: Server, agent: Member) -> None:
    await server.entry("/web", agent)
    status = await server.status()
    assert (status.trust_domain, status.entries, status.revision, status.bundle_sequence) == ("a.test", 1, 1, 1)
    assert [(found.kind, found.state) for found in status.authorities] == [("root", "active"), ("issuer", "active")]
    assert status.authorities[0].serial == _serial(server.bundle.x509_authorities[0])
    (found,) = status.agents
    assert (found.spiffe_id, found.connected, found.banned) == (agent.spiffe_id, False, False)


def _serial(certificate: x509.Certificate) -> str:
    digits = f"{certificate.serial_number:x}"
    return digits.zfill(len(digits) + len(digits) % 2)


async def test_the_admin_socket_has_health_and_reflection_and_is_closed_to_others(server: Server) -> None:
    path = server.settings.listen.admin_socket
    assert path.stat().st_mode & 0o777 == 0o660
    async with aio.insecure_channel(f"unix:{path}") as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        asking = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asking]))
        names = {service.name for service in (await anext(aiter(answers))).list_services_response.service}
        assert "citadel.v1.Admin" in names


STATUS_AS_ANOTHER_USER = """
import os, sys, grpc
from citadel._wire import admin_pb2, admin_pb2_grpc
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
channel = grpc.insecure_channel("unix:" + sys.argv[1])
try:
    admin_pb2_grpc.AdminStub(channel).GetStatus(admin_pb2.GetStatusRequest(), timeout=5)
    print("answered")
except grpc.RpcError as error:
    print(error.code().name)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(("uid", "answer"), [(0, "answered"), (65534, "UNAVAILABLE")])
async def test_the_admin_socket_answers_root_and_no_other_user(
    server: Server, uid: int, answer: str
) -> None:
    path = server.settings.listen.admin_socket
    path.chmod(0o666)  # so that nothing but the kernel's word about the caller stands in the way
    for folder in path.parents[:2]:
        folder.chmod(0o755)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STATUS_AS_ANOTHER_USER, str(path), str(uid), stdout=subprocess.PIPE
    )
    said, _ = await asyncio.wait_for(child.communicate(), 20)
    assert said.decode().strip() == answer


# Start and stop


async def test_probes_say_live_and_ready(server: Server) -> None:
    probes = server.settings.listen.probes
    assert (await http_status(probes, "/live"))[0] == 200
    status, body = await http_status(probes, "/ready")
    assert (status, json.loads(body)["status"]) == (200, "ready")


async def test_a_stop_ends_within_the_grace_while_a_stream_is_open(tmp_path: Path) -> None:
    settings, stop = server_settings(tmp_path), asyncio.Event()
    process = asyncio.create_task(run_server(settings, stop=stop))
    server = await connected(settings, process)
    try:
        async with synced(server, await server.join("node-1")) as stream:
            await stream.next()
            stop.set()
            begun = time.monotonic()
            await process
            assert time.monotonic() - begun < 5
            assert (await refusal(stream.call.read()))[0] in (Code.UNAVAILABLE, Code.CANCELLED)
    finally:
        await server.close()
    assert not settings.listen.admin_socket.exists()


async def test_a_door_that_cannot_open_ends_the_start_and_closes_the_others(tmp_path: Path) -> None:
    settings = server_settings(tmp_path)
    with pytest.raises(InvalidArgument):
        async with _listening(settings.listen.probes):
            await run_server(settings, stop=asyncio.Event())
    assert not settings.listen.admin_socket.exists()
    async with running_server(settings) as server:  # every address is free again
        await server.join("node-1")


@asynccontextmanager
async def _listening(address: HostPort) -> AsyncIterator[None]:
    taken = await asyncio.start_server(lambda *_: None, address.host, address.port)
    async with taken:
        yield


@pytest.mark.invariant(11, 12)
async def test_a_restart_keeps_agents_entries_tokens_and_trust(tmp_path: Path) -> None:
    async with running_server(server_settings(tmp_path)) as server:
        agent = await server.join("node-1")
        entry, token, before = await server.entry("/web", agent), await server.token("node-2"), server.published
    async with running_server(server_settings(tmp_path)) as server:
        assert server.published == before
        (result,) = await sign(server.agents(agent), (entry.id, csr()))
        assert result.svid.spiffe_id == "spiffe://a.test/web"
        await server.bootstrap().Join(bootstrap_pb2.JoinRequest(token=token, csr=csr()))


CONFIG = """
trust_domain: a.test
data_dir: {0.data_dir}
keys: {{kek_file: {0.keys.kek_file}}}
listen:
  bootstrap: {0.listen.bootstrap}
  agents: {0.listen.agents}
  probes: {0.listen.probes}
  admin_socket: {0.listen.admin_socket}
log: {{level: warning}}
"""


@pytest.mark.invariant(2, 12)
async def test_killed_while_issuing_it_has_recorded_all_that_it_answered(tmp_path: Path) -> None:
    settings = server_settings(tmp_path)
    config = tmp_path / "server.yaml"
    config.write_text(CONFIG.format(settings))
    command = [sys.executable, "-m", "cli.citadel", "server", "run", "--config", str(config)]
    child = await asyncio.create_subprocess_exec(*command)
    try:
        server = await connected(settings, asyncio.create_task(child.wait()))
        agent = await server.join("node-1")
        entry = await server.entry("/web", agent)
        answered = await _issue_until_killed(server, agent, entry.id, child)
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
    await server.close()

    assert len(answered) >= 100
    assert set(answered) <= set(server.ledger.serials())
    assert server.ledger.is_intact()
    async with running_server(settings) as again:
        assert again.published == server.published
        (result,) = await sign(again.agents(agent), (entry.id, csr()))
        assert result.svid.spiffe_id == "spiffe://a.test/web"
        assert set(answered) <= set(again.ledger.serials())


async def _issue_until_killed(
    server: Server, agent: Member, entry_id: str, child: asyncio.subprocess.Process
) -> list[str]:
    """Keep several calls in flight, kill -9 the server in their midst, and give back every serial that was answered."""
    answered: list[str] = []
    request = csr()

    async def ask() -> None:
        agents = server.agents(agent)
        while True:
            try:
                results = await sign(agents, *[(entry_id, request)] * 5)
            except aio.AioRpcError:
                return
            answered.extend(X509Svid.from_der(result.svid.chain).serial for result in results)

    asking = [asyncio.create_task(ask()) for _ in range(8)]
    async with asyncio.timeout(30):
        while len(answered) < 200:
            await asyncio.sleep(0)
    child.send_signal(signal.SIGKILL)
    await asyncio.gather(*asking)
    return answered
