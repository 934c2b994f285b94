"""The parent's side of a shared root over the real wire: who is signed for, what is told, and what is believed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from citadel._wire import clusters_pb2 as pb
from citadel.bundle import TrustBundle
from citadel.wire import to_duration
from tests.children import A_TEST, FakeChild, child_csr, child_of, svid_of
from tests.csrs import new_key
from tests.servers import Member, Server, refusal, running_server, server_settings

DENIED = (grpc.StatusCode.PERMISSION_DENIED, "downstream_refused")
DAYS = timedelta(days=1)
CA = x509.BasicConstraints


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(server_settings(tmp_path)) as server:
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


async def test_a_child_is_told_what_is_to_be_trusted(server: Server, child: FakeChild) -> None:
    async with child.following() as follow:
        trust = await follow.trusted()
        bundle = TrustBundle.from_json(A_TEST, trust.bundle.json)
        assert bundle == server.bundle
        (root,) = trust.roots
        assert (root.certificate, root.state) == (bundle.x509_authorities[0].public_bytes(Encoding.DER), "active")
        assert trust.revocations_are_whole
        assert len(trust.revocations.lists) == 2  # of the root, and of the issuing authority
