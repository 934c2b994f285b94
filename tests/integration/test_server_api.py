"""The two TLS doors from outside: real gRPC over real TLS, every refusal with its code and reason."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ca.keys.disk import DiskKeys
from ca.keys.kek import read_kek
from ca.keys.manager import SealedKeyManager
from ca.keys.sealing import KekSealer, KeyPurpose
from ca.store.authorities import SqlAuthorityStore
from ca.store.database import Database
from ca.store.sealed_keys import SqlKeys
from citadel._wire import admin_pb2, bootstrap_pb2
from citadel._wire import agent_api_pb2 as pb
from citadel.config.types import HostPort
from citadel.join_string import JoinString
from citadel.svid import X509Svid
from tests import certificates
from tests.csrs import csr, new_key, signed_by_another_key, with_wrong_signature
from tests.servers import (
    HELLO,
    Member,
    Server,
    refusal,
    running_server,
    server_settings,
    sign,
)

pytestmark = pytest.mark.integration

Code = grpc.StatusCode


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
        bootstrap = server.bootstrap()
        request = bootstrap_pb2.JoinRequest(token="made-up", csr=csr())
        codes = Counter(await asyncio.gather(*(refusal(bootstrap.Join(request)) for _ in range(10))))
        assert codes[Code.RESOURCE_EXHAUSTED, "too_many_requests"] >= 7
        assert codes[Code.UNAUTHENTICATED, "token_unknown"] >= 2
        await bootstrap.GetBundle(bootstrap_pb2.GetBundleRequest())  # joins take nothing from those who only look


async def test_a_client_that_trusts_another_root_does_not_talk_to_this_server(server: Server) -> None:
    stranger = certificates.bundle(certificates.root())
    got = await refusal(server.bootstrap(bundle=stranger).GetBundle(bootstrap_pb2.GetBundleRequest(), timeout=5))
    assert got == (Code.UNAVAILABLE, "")


# The agents' door: who gets in


async def signing_key(server: Server) -> certificates.Signed:
    """The issuing authority with its key, as only the server has it: what an attacker with its disk could use."""
    settings = server.settings
    database = Database.open(settings.database_url)
    store = SqlAuthorityStore(database=database, trust_domain=settings.trust_domain)
    issuer = (await store.load())[-1]
    keys = SealedKeyManager(
        keys=SqlKeys(database=database) if settings.keys_in_database else DiskKeys(settings.data_dir / "keys"),
        trust_domain=settings.trust_domain,
        sealer=KekSealer(read_kek(settings.keys, {})),
    )
    key = await keys.signer(issuer.key_id, KeyPurpose.ISSUER)
    await database.close()
    return certificates.Signed(issuer.certificate, key)


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
    await asks(newest := await renewed(server, new))
    assert await refusal(asks(agent)) == (Code.PERMISSION_DENIED, "agent_key_mismatch"), "two renewals ago"
    await asks(newest)


async def test_a_bad_request_renews_nothing(server: Server, agent: Member) -> None:
    before = server.ledger.serials()
    got = await refusal(server.agents(agent).RenewAgent(pb.RenewAgentRequest(csr=signed_by_another_key())))
    assert got == (Code.INVALID_ARGUMENT, "csr_bad_signature")
    assert server.ledger.serials() == before
    await sign(server.agents(agent))
