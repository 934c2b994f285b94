"""The parent's side of a shared root over the real wire: who is signed for, what is told, and what is believed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from grpc import aio

from citadel._wire import admin_pb2, agents_pb2, revocation_pb2, rotation_pb2
from citadel._wire import clusters_pb2 as pb
from citadel._wire.agents_pb2_grpc import AgentAdminStub
from citadel.bundle import TrustBundle
from citadel.serial import serial_hex
from citadel.wire import to_duration
from tests.children import A_TEST, ChildIssuer, FakeChild, child_csr, child_of, svid_of
from tests.csrs import new_key
from tests.servers import Member, Server, http_status, reason_of, refusal, running_server, server_settings

DENIED = (grpc.StatusCode.PERMISSION_DENIED, "downstream_refused")
DAYS = timedelta(days=1)
CA = x509.BasicConstraints


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    rotation = {"margin": "500ms"}
    async with running_server(server_settings(tmp_path, rotation=rotation)) as server:
        yield server


@pytest.fixture
async def agent(server: Server) -> Member:
    return await server.join("node-1")


@pytest.fixture
async def child(server: Server, agent: Member) -> FakeChild:
    return await child_of(server, agent)


def _rows(server: Server, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(server.settings.data_dir / "citadel.db")) as database:
        return list(database.execute(query))


@pytest.mark.invariant(2)
async def test_a_child_gets_an_authority_of_the_root_on_record_before_it_leaves(
    server: Server, child: FakeChild
) -> None:
    issuer = await child.sign(lifetime=2 * DAYS)
    made = issuer.certificate
    made.verify_directly_issued_by(issuer.root)
    assert issuer.root in server.bundle.x509_authorities
    assert issuer.chain == (made,)
    assert made.extensions.get_extension_for_class(CA).value == CA(ca=True, path_length=0)
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://a.test"]
    assert made.subject not in (issuer.root.subject, (await child.sign()).certificate.subject)
    assert made.public_key() == issuer.key.public_key()
    life = made.not_valid_after_utc - made.not_valid_before_utc
    assert 2 * DAYS <= life <= 2 * DAYS + timedelta(minutes=1)
    stored = _rows(server, "SELECT child, certificate FROM downstream_authority ORDER BY signed_at")
    assert stored[0] == ("spiffe://a.test/cluster/east", made.public_bytes(Encoding.DER))
    acts = _rows(server, "SELECT actor, target FROM audit WHERE what = 'downstream.sign'")
    assert acts == [("spiffe://a.test/cluster/east",) * 2] * 2


async def test_a_child_that_asks_for_another_domain_a_longer_life_or_path_is_refused_and_audited(
    server: Server, child: FakeChild
) -> None:
    good = pb.SignIssuerRequest(trust_domain="a.test", csr=child_csr(new_key()))
    longer = pb.SignIssuerRequest(lifetime=to_duration(8 * DAYS))
    deeper = pb.SignIssuerRequest(csr=child_csr(new_key(), constraints=CA(ca=True, path_length=1)))
    for change in (pb.SignIssuerRequest(trust_domain="b.test"), longer, deeper):
        asked = pb.SignIssuerRequest()
        asked.CopyFrom(good)
        asked.MergeFrom(change)
        assert await refusal(child.stub().SignIssuer(asked)) == DENIED
    assert _rows(server, "SELECT * FROM downstream_authority") == []
    audited = "SELECT actor FROM audit WHERE what LIKE '%SignIssuer' AND reason = 'downstream_refused'"
    async with asyncio.timeout(5):
        while len(_rows(server, audited)) < 3:  # refusals are written in the background
            await asyncio.sleep(0.01)
    assert set(_rows(server, audited)) == {("spiffe://a.test/cluster/east",)}


async def test_only_a_downstream_entry_of_this_very_server_is_a_child(
    server: Server, agent: Member, child: FakeChild
) -> None:
    request = pb.SignIssuerRequest(trust_domain="a.test", csr=child_csr(new_key()))
    web = await server.entry("/web", agent)
    assert await refusal(child.stub(await svid_of(server, agent, web)).SignIssuer(request)) == DENIED
    assert await refusal(child.stub(agent).SignIssuer(request)) == DENIED  # an agent

    # The child's own authority can sign its own identity here, and everybody's: the chain is good.
    issuer, key = await child.sign(), new_key()
    own = x509.load_der_x509_certificate(child.member.chain[0])
    forged = issuer.svid("spiffe://a.test/cluster/east", key, like=own)
    chain = (forged.public_bytes(Encoding.DER), issuer.certificate.public_bytes(Encoding.DER))
    assert await refusal(child.stub(Member(key, chain)).SignIssuer(request)) == DENIED
    async with child.following(Member(key, chain)) as follow:
        await follow.until(lambda me: me.is_over)
        assert follow.ended is not None
        assert follow.ended.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_the_identity_of_a_child_by_another_door_than_its_entry_is_no_child(
    server: Server, agent: Member, child: FakeChild
) -> None:
    request = pb.SignIssuerRequest(trust_domain="a.test", csr=child_csr(new_key()))
    # Another entry of the same identity, such as that of a pod by template.
    other_node = await server.join("node-2")
    same = await server.entry("/cluster/east", other_node)
    impostor = await svid_of(server, other_node, same)
    assert await refusal(child.stub(impostor).SignIssuer(request)) == DENIED
    async with child.following(impostor) as follow:
        await follow.until(lambda me: me.is_over)
        assert follow.ended is not None
        assert reason_of(follow.ended) == "downstream_refused"
    assert await child.sign()
    # One that Kubernetes has proved is on record with no entry.
    serial = serial_hex(x509.load_der_x509_certificate(child.member.chain[0]).serial_number)
    with closing(sqlite3.connect(server.settings.data_dir / "citadel.db")) as database, database:
        assert database.execute("UPDATE ledger SET entry_id = '' WHERE serial = ?", (serial,)).rowcount == 1
    assert await refusal(child.stub().SignIssuer(request)) == DENIED
    child.member = await svid_of(server, agent, child.entry)
    assert await child.sign()


async def test_a_child_whose_certificate_is_not_on_record_waits_for_the_next_one(
    server: Server, agent: Member, child: FakeChild
) -> None:
    """As after a restore: nobody knows through whom it came, so no ban and no revocation would be seen."""
    serial = serial_hex(x509.load_der_x509_certificate(child.member.chain[0]).serial_number)
    with closing(sqlite3.connect(server.settings.data_dir / "citadel.db")) as database, database:
        assert database.execute("DELETE FROM ledger WHERE serial = ?", (serial,)).rowcount == 1
    request = pb.SignIssuerRequest(trust_domain="a.test", csr=child_csr(new_key()))
    assert await refusal(child.stub().SignIssuer(request)) == DENIED
    child.member = await svid_of(server, agent, child.entry)
    assert await child.sign()


async def test_a_child_is_told_what_is_to_be_trusted(server: Server, child: FakeChild) -> None:
    async with child.following() as follow:
        trust = await follow.trusted()
        bundle = TrustBundle.from_json(A_TEST, trust.bundle.json)
        assert bundle == server.bundle
        (root,) = trust.roots
        assert (root.certificate, root.state) == (bundle.x509_authorities[0].public_bytes(Encoding.DER), "active")
        assert trust.revocations_are_whole
        assert len(trust.revocations.lists) == 2  # of the root, and of the issuing authority


async def test_what_a_child_says_of_its_own_is_brought_in_and_of_others_ignored(
    server: Server, agent: Member, child: FakeChild
) -> None:
    other = await child_of(server, agent, "/cluster/west")
    own, foreign, token_key = await child.sign(), await other.sign(), new_key().public_key()
    stranger = ChildIssuer(new_key(), foreign.chain, foreign.root)  # signs lists of an issuer that is not its own
    async with child.following() as east, other.following() as west:
        before = await east.trusted()
        await east.say(own.reported(), keys={"east-1": token_key})
        trust = await west.trusted(lambda trust: own.reported().crl in _crls(trust) and b"east-1" in trust.bundle.json)
        assert trust.revocations_are_whole
        assert trust.versions.x509 != before.versions.x509
        assert trust.versions.jwt != before.versions.jwt
        # East cannot speak of what is West's, and West cannot have East's key id.
        east_again = [own.reported(), foreign.reported(), stranger.reported()]
        await east.say(*east_again, keys={"east-1": token_key, "east-2": token_key})
        await west.say(stranger.reported(), keys={"east-1": new_key().public_key(), "west-1": new_key().public_key()})
        trust = await west.trusted(lambda trust: all(kid in trust.bundle.json for kid in (b"east-2", b"west-1")))
        keys = TrustBundle.from_json(A_TEST, trust.bundle.json).jwt_authorities
        assert keys["east-1"] == token_key
        assert not {foreign.reported().crl, stranger.reported().crl}.intersection(_crls(trust))
        # West has named its authority and sent no list of it that could be used: nobody checks any.
        await west.trusted(lambda trust: not trust.revocations_are_whole and not trust.revocations.lists)
        ready = await http_status(server.settings.listen.probes, "/ready")
        assert (ready[0], "has sent no list of its issuing authority" in ready[1]) == (200, True)
        await west.say(foreign.reported(), keys={"west-1": new_key().public_key()})
        await east.trusted(lambda trust: {own.reported().crl, foreign.reported().crl} <= _crls(trust))
    audited = "SELECT actor, detail FROM audit WHERE reason = 'downstream_refused' ORDER BY detail"
    async with asyncio.timeout(5):
        while len(_rows(server, audited)) < 3:  # the first of each kind is told at once
            await asyncio.sleep(0.01)
    told = [detail.partition(" reported ")[2].partition(":")[0][:35] for _, detail in _rows(server, audited)]
    assert told == [
        "an issuing authority that was not s",
        "a revocation list was not signed by",
        "the JWT key 'east-1'",
    ]
    assert [actor[-4:] for actor, _ in _rows(server, audited)] == ["east", "west", "west"]


@pytest.mark.parametrize(
    "more",
    [
        {"issuers": [pb.IssuerReport()] * 10_001},
        {"below": [rotation_pb2.ClusterView()] * 1001},
        {"withdrawn_jwt_keys": [""] * 30_001},
    ],
)
async def test_a_child_that_tells_of_more_than_any_clusters_have_is_heard_no_further(
    child: FakeChild, more: dict[str, Any]
) -> None:
    async with child.following() as follow:
        await follow.trusted()
        await follow.call.write(pb.ClusterReport(**more))
        await follow.until(lambda me: me.is_over)
        assert follow.ended is not None
        assert (follow.ended.code(), reason_of(follow.ended)) == (grpc.StatusCode.INVALID_ARGUMENT, "request_malformed")


async def test_tokens_of_a_child_whose_entry_is_deleted_are_believed_no_longer(
    server: Server, child: FakeChild
) -> None:
    issuer = await child.sign()
    async with child.following() as follow:
        await follow.say(issuer.reported(), keys={"east-1": new_key().public_key()})
        await follow.trusted(lambda trust: b"east-1" in trust.bundle.json and len(trust.revocations.lists) == 3)
        await server.admin().DeleteEntry(admin_pb2.DeleteEntryRequest(id=child.entry.id))
        await follow.until(lambda me: me.is_over)
        assert follow.ended is not None
        assert reason_of(follow.ended) == "downstream_refused"
    async with asyncio.timeout(5):
        while b"east-1" in (await server.admin().GetOwnBundle(admin_pb2.GetOwnBundleRequest())).json:
            await asyncio.sleep(0.01)
    request = pb.SignIssuerRequest(trust_domain="a.test", csr=child_csr(new_key()))
    assert await refusal(child.stub().SignIssuer(request)) == DENIED


async def test_a_stream_ends_with_the_reason_when_its_child_may_not_go_on(
    server: Server, agent: Member, child: FakeChild
) -> None:
    revoked = await child_of(server, agent, "/cluster/west")
    async with child.following() as first:
        await first.trusted()
        async with child.following() as follow:
            await follow.trusted()
            await first.until(lambda me: me.is_over)  # of several streams of a child the newest counts
            assert first.ended is None
    async with child.following() as follow, revoked.following() as other:
        await follow.trusted()
        await other.trusted()
        newer = await svid_of(server, agent, revoked.entry)
        svid = x509.load_der_x509_certificate(revoked.member.chain[0])
        await server.revocations().Revoke(
            revocation_pb2.RevokeRequest(target=serial_hex(svid.serial_number), reason="broken into")
        )
        await other.until(lambda me: me.is_over)
        assert other.ended is not None
        assert reason_of(other.ended) == "downstream_refused"
        request = pb.SignIssuerRequest(trust_domain="a.test", csr=child_csr(new_key()))
        assert await refusal(revoked.stub().SignIssuer(request)) == DENIED
        await revoked.stub(newer).SignIssuer(request)  # an older certificate bars nothing
        async with aio.insecure_channel(f"unix:{server.settings.listen.admin_socket}") as channel:
            await AgentAdminStub(channel).BanAgent(agents_pb2.BanAgentRequest(agent="node-1", reason="broken into"))
        await follow.until(lambda me: me.is_over)
        assert follow.ended is not None
        assert reason_of(follow.ended) == "downstream_refused"


async def test_a_rotation_is_held_up_by_a_child_until_it_knows_the_new_root_and_has_left_the_old_one(
    server: Server, agent: Member, child: FakeChild
) -> None:
    issuer = await child.sign()
    async with child.following() as follow:
        await follow.say(issuer.reported())
        trust = await follow.trusted(lambda trust: issuer.crl() in _crls(trust))
        await follow.say(issuer.reported(), acknowledged=trust.versions)
        # Its agent is away, and skipped in what follows.
        wish = rotation_pb2.StartRotationRequest(kind="root", window=to_duration(timedelta(0)), skip=["node-1"])
        await server.rotations().StartRotation(wish)
        trust = await follow.trusted(lambda trust: len(trust.roots) == 2)
        assert sorted(root.state for root in trust.roots) == ["active", "prepared"]
        view = await _view(server, lambda view: view.rotation.phase == "observe" and bool(view.holders))
        assert [each.name for each in view.holders] == [child.member.spiffe_id]
        assert [(each.name, each.connected) for each in view.clusters] == [(child.member.spiffe_id, True)]
        own = rotation_pb2.ClusterView(proxies=2, proxies_acknowledged=2)
        await follow.say(issuer.reported(), acknowledged=trust.versions, own=own)
        await follow.until(lambda me: me.everywhere == trust.versions)
        trust = await follow.trusted(lambda trust: {root.state for root in trust.roots} == {"active", "old"})
        view = await _view(server, lambda view: view.rotation.phase == "drain" and bool(view.holders))
        assert [each.name for each in view.holders] == [child.member.spiffe_id]
        assert view.clusters[0].proxies_acknowledged == 2
        server.bundle = TrustBundle.from_json(A_TEST, trust.bundle.json)
        # By its own SVID, which is renewed like all others: what signed the old one goes too.
        child.member = await svid_of(server, agent, child.entry)
        new = await child.sign()
        assert new.root != issuer.root
        async with child.following() as again:
            await again.say(new.reported(), acknowledged=trust.versions)
            trust = await again.trusted(lambda trust: len(trust.roots) == 1)
            await again.say(new.reported(), acknowledged=trust.versions)
            assert (await _view(server, lambda view: view.rotation.phase == "done")).rotation.alarm == ""
            (cluster,) = (await server.status()).clusters
            assert (cluster.name, cluster.connected) == (child.member.spiffe_id, True)


async def _view(server: Server, condition: Callable[[rotation_pb2.RotationView], bool]) -> rotation_pb2.RotationView:
    async with asyncio.timeout(20):
        while True:
            view = await server.rotations().GetRotation(rotation_pb2.GetRotationRequest())
            if condition(view):
                return view
            await asyncio.sleep(0.05)


def _crls(trust: pb.ClusterTrust) -> set[bytes]:
    return {each.crl for each in trust.revocations.lists}
