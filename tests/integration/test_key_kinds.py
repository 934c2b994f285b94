"""A whole server for each kind of key that authorities can have, here and on the disk: others verify all it signs."""

from __future__ import annotations

import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes

from citadel._wire import bootstrap_pb2, revocation_pb2
from citadel._wire.revocation_pb2_grpc import RevocationsStub
from citadel.bundle import TrustBundle
from citadel.succession import heirs_of
from citadel.succession_wire import successions_from_wire
from citadel.svid import verify_x509_svid
from cli.demo.bookinfo import Productpage
from tests.csrs import csr
from tests.integration.meshes import live_mesh
from tests.integration.test_vault_keys import check_token, issued, member, revoke, rotated
from tests.servers import Member, Server, running_server, server_settings, sign

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("kind", "jwt_kind", "digest"),
    [
        ("ec-p384", "ec-p384", hashes.SHA384),
        ("rsa-2048", "rsa-2048", hashes.SHA256),
        ("rsa-4096", "ec-p256", hashes.SHA256),  # to make one takes seconds
    ],
)
async def test_a_server_whose_authorities_have_keys_of_this_kind(
    tmp_path: Path, kind: str, jwt_kind: str, digest: type[hashes.HashAlgorithm]
) -> None:
    settings = server_settings(
        tmp_path, authorities={"key": kind, "jwt_key": jwt_kind}, rotation={"margin": "500ms", "window": "0s"}
    )
    async with running_server(settings) as server:
        first = server.bundle
        if kind != "rsa-4096":
            await rotated(server, "root")
            await check_heirs(server, first)
        agent, entry_id = await member(server)
        leaves = await issued(server, agent, entry_id, count=20)
        assert {type(leaf.signature_hash_algorithm) for leaf in leaves} == {digest}
        await check_ours(server, agent, entry_id)
        await check_token(server, agent, entry_id)
        [leaf] = await issued(server, agent, entry_id)
        await revoke(server, agent, leaf)


async def check_heirs(server: Server, before: TrustBundle) -> None:
    """Whoever knew the first root alone is led to what the server has now."""
    answer = await server.bootstrap().GetBundle(bootstrap_pb2.GetBundleRequest())
    said = list(successions_from_wire(before.trust_domain, answer.successions))
    heirs = heirs_of(before.x509_authorities, said, trust_domain=before.trust_domain, now=datetime.now(UTC))
    assert heirs == set(server.bundle.x509_authorities)
    assert not heirs & set(before.x509_authorities)


async def check_ours(server: Server, agent: Member, entry_id: str) -> None:
    """What this project's own verifier says, as agents ask it."""
    [result] = await sign(server.agents(agent), (entry_id, csr()))
    bundles = {server.bundle.trust_domain: server.bundle}
    assert verify_x509_svid(list(result.svid.chain), bundles, datetime.now(UTC)).spiffe_id.path == "/web"


@pytest.mark.invariant(3, 5)
@pytest.mark.parametrize("kind", ["ec-p384", pytest.param("rsa-2048", marks=pytest.mark.soak)])
async def test_envoys_take_what_such_authorities_sign_also_while_they_rotate(kind: str) -> None:
    server = {"authorities": {"key": kind, "jwt_key": kind}}
    async with live_mesh(leaf_seconds=60, as_root=os.geteuid() == 0, server=server) as mesh:
        page = Productpage(sidecar_port=mesh.plan.productpage.listen_port)
        assert await page.render() == (str(mesh.plan.productpage.spiffe_id), str(mesh.plan.reviews.spiffe_id))
        async with mesh.under_load() as tally:
            view = await mesh.rotate_root()
        assert (view.rotation.phase, view.rotation.alarm, tally.failures) == ("done", "", Counter())
        async with mesh.mesh.admin_channel() as channel:
            request = revocation_pb2.RevokeRequest(target=str(mesh.plan.productpage.spiffe_id), reason="a test")
            answer = await RevocationsStub(channel).Revoke(request)
        assert answer.proxies_in_force == answer.proxies > 0, "the lists that it signed are taken too"
        await page.close()
