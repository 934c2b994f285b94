"""Whole servers whose keys are in Vault, or sealed by it: against the real one, with no more than the least policy."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.settings import ServerSettings
from ca.vault_check.policy import as_hcl, rules_for
from citadel._wire import admin_pb2, agent_api_pb2, bootstrap_pb2, revocation_pb2, rotation_pb2
from citadel.bundle import TrustBundle
from citadel.config.files import write_private
from tests.csrs import csr, new_key
from tests.folders import a_root, an_issuer, contents, put
from tests.openbao import OpenBao, new_openbao
from tests.servers import (
    Member,
    Server,
    running_server,
    server_settings,
    sign,
    synced,
)

pytestmark = pytest.mark.integration


def prepare(bao: OpenBao) -> OpenBao:
    """What somebody does who follows `deploy/vault/README.md`."""
    bao.mount("transit", "transit")
    bao.write("transit/keys/citadel-seal", type="aes256-gcm96")
    return bao


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    bao = new_openbao(tmp_path_factory.mktemp("openbao"))
    yield prepare(bao)
    bao.stop()


def settings_of(bao: OpenBao, folder: Path, keys: dict[str, Any], **sections: Any) -> ServerSettings:
    """Settings of a server in `folder` whose keys have to do with this Vault, where it may do what it must."""
    token = folder / "token"
    defaults = {"rotation": {"margin": "500ms", "window": "0s"}, "vault": bao.section(token)}
    settings = server_settings(folder, keys=keys, **defaults | sections)
    bao.root.sys.create_or_update_policy(folder.name, as_hcl(rules_for(settings)))
    if not token.exists():
        write_private(token, bao.token(folder.name).encode())
    return settings


def kek_of(folder: Path) -> dict[str, Any]:
    server_settings(folder)  # makes it
    return {"kek_file": folder / "kek"}


TRANSIT: dict[str, Any] = {"vault_transit": {}}
SEAL: dict[str, Any] = {"vault_seal": {}}


async def rotated(server: Server, kind: str) -> None:
    await server.rotations().StartRotation(rotation_pb2.StartRotationRequest(kind=kind))
    last = rotation_pb2.RotationView()
    async with asyncio.timeout(30):
        async for view in server.rotations().WatchRotation(rotation_pb2.WatchRotationRequest()):
            last = view
    assert (last.rotation.phase, last.rotation.alarm) == ("done", "")
    own = await server.admin().GetOwnBundle(admin_pb2.GetOwnBundleRequest())
    server.bundle = TrustBundle.from_json(server.settings.trust_domain, own.json)


async def issued(server: Server, agent: Member, entry_id: str, *, count: int = 1) -> list[x509.Certificate]:
    """Leaves of a batch, the first and the last verified by OpenSSL up to a root of the bundle."""
    results = await sign(server.agents(agent), *((entry_id, csr(new_key())) for _ in range(count)))
    assert [each.refusal.reason for each in results] == [""] * count
    roots = server.bundle.to_pem()
    chains = [[x509.load_der_x509_certificate(der) for der in each.svid.chain] for each in results]
    folder = server.settings.data_dir
    (folder / "roots.pem").write_bytes(roots)
    (folder / "between.pem").write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in chains[0][1:]))
    for leaf, *_ in (chains[0], chains[-1]):
        (folder / "leaf.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
        openssl(folder, "verify", "-CAfile", "roots.pem", "-untrusted", "between.pem", "leaf.pem")
    return [leaf for leaf, *_ in chains]


def openssl(folder: Path, *command: str) -> None:
    done = subprocess.run(["openssl", *command], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


async def published(server: Server) -> bytes:
    return (await server.bootstrap().GetBundle(bootstrap_pb2.GetBundleRequest())).bundle.json


async def check_token(server: Server, agent: Member, entry_id: str) -> None:
    request = agent_api_pb2.JwtSvidRequest(entry_id=entry_id, audience=["shop"])
    answer = await server.agents(agent).SignJwtSvids(agent_api_pb2.SignJwtSvidsRequest(requests=[request]))
    assert answer.results[0].refusal.reason == ""
    token = answer.results[0].svid.token
    keys = TrustBundle.from_json(server.bundle.trust_domain, await published(server)).jwt_authorities
    header = jwt.get_unverified_header(token)
    assert jwt.decode(token, keys[header["kid"]], algorithms=[header["alg"]], audience="shop")["sub"].endswith("/web")


async def revoke(server: Server, agent: Member, leaf: x509.Certificate) -> None:
    """Revoke it, and see that the list of its issuer is one for OpenSSL too."""
    serial = server.ledger.serials()[-1]
    assert int(serial, 16) == leaf.serial_number
    answer = await server.revocations().Revoke(revocation_pb2.RevokeRequest(target=serial, reason="test"))
    assert (answer.is_published, answer.trouble) == (True, "")
    async with synced(server, agent) as stream:
        update = await stream.next()
        while not update.HasField("revocations"):
            update = await stream.next()
    crls = [x509.load_der_x509_crl(each.crl) for each in update.revocations.lists]
    [held] = [crl for crl in crls if crl.get_revoked_certificate_by_serial_number(leaf.serial_number) is not None]
    [issuer] = [each.issuer for each in update.revocations.lists if each.crl == held.public_bytes(Encoding.DER)]
    folder = server.settings.data_dir
    (folder / "list.pem").write_bytes(held.public_bytes(Encoding.PEM))
    (folder / "issuer.pem").write_bytes(x509.load_der_x509_certificate(issuer).public_bytes(Encoding.PEM))
    openssl(folder, "crl", "-in", "list.pem", "-CAfile", "issuer.pem", "-noout")


async def member(server: Server) -> tuple[Member, str]:
    """An agent, and the id of an entry of it."""
    agent = await server.join("node-1")
    return agent, (await server.entry("/web", agent)).id


@pytest.mark.invariant(1)
@pytest.mark.parametrize(
    ("kind", "jwt_kind"),
    [("ec-p256", "rsa-2048"), ("ec-p384", "ec-p384"), ("rsa-2048", "ec-p256"), ("rsa-4096", "rsa-4096")],
)
async def test_a_server_whose_keys_are_in_transit(bao: OpenBao, tmp_path: Path, kind: str, jwt_kind: str) -> None:
    prefix = f"citadel-{kind}"
    keys = {"vault_transit": {"prefix": prefix}}
    settings = settings_of(bao, tmp_path, keys, authorities={"key": kind, "jwt_key": jwt_kind})
    async with running_server(settings) as server:
        await rotated(server, "root")
        agent, entry_id = await member(server)
        await issued(server, agent, entry_id, count=20)
        await check_token(server, agent, entry_id)
        status = await server.status()
        assert (status.vault.keys, status.vault.good) == ("made", True)
    async with running_server(settings) as server:
        [leaf] = await issued(server, agent, entry_id)
        await check_token(server, agent, entry_id)
        await revoke(server, agent, leaf)
    assert not (settings.data_dir / "keys").exists()
    made = [name.removeprefix(prefix) for name in bao.root.list("transit/keys")["data"]["keys"] if prefix in name]
    assert sorted(name.rpartition("-")[0] for name in made) == ["-jwt", "-records", "-x509-issuer", "-x509-root"]


async def test_a_folder_with_an_authority_is_taken_into_transit(bao: OpenBao, tmp_path: Path) -> None:
    root = a_root()
    folder = put(tmp_path / "cacerts", contents(an_issuer(root), root))
    settings = settings_of(bao, tmp_path, TRANSIT, upstream={"files": {"folder": folder, "alone": True}})
    async with running_server(settings) as server:
        agent, entry_id = await member(server)
        [leaf] = await issued(server, agent, entry_id)
        await revoke(server, agent, leaf)
    assert not (settings.data_dir / "keys").exists()


@pytest.mark.parametrize("before", ["kek", "seal"])
async def test_a_server_with_sealed_keys_goes_on_in_transit(bao: OpenBao, tmp_path: Path, before: str) -> None:
    sealed = kek_of(tmp_path) if before == "kek" else SEAL
    settings = settings_of(bao, tmp_path, sealed, **({"vault": None} if before == "kek" else {}))
    async with running_server(settings):
        files = set((settings.data_dir / "keys").iterdir())
    settings = settings_of(bao, tmp_path, sealed | {"vault_transit": {"prefix": f"citadel-after-{before}"}})
    async with running_server(settings) as server:
        await rotated(server, "issuer")
        agent, entry_id = await member(server)
        [leaf] = await issued(server, agent, entry_id)
        await check_token(server, agent, entry_id)
        await revoke(server, agent, leaf)
    assert set((settings.data_dir / "keys").iterdir()) < files, "that of the issuing authority is gone"
    made = [name for name in bao.root.list("transit/keys")["data"]["keys"] if f"after-{before}" in name]
    assert [name.rpartition("-")[0] for name in made] == [f"citadel-after-{before}-x509-issuer"]
