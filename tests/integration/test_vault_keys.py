"""Whole servers whose keys are in Vault, or sealed by it: against the real one, with no more than the least policy."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jwt
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from grpc import StatusCode, aio

from ca.settings import ServerSettings
from ca.vault_check.policy import as_hcl, rules_for
from citadel._wire import admin_pb2, agent_api_pb2, backup_pb2, bootstrap_pb2, revocation_pb2, rotation_pb2
from citadel._wire.backup_pb2_grpc import BackupStub
from citadel.bundle import TrustBundle
from citadel.clock import SystemClock
from citadel.config.files import write_private
from citadel.errors import CitadelError, Reason
from cli.server_backup import backup_offline
from cli.server_process import run_server, validate_server
from tests.csrs import csr, new_key
from tests.folders import a_root, an_issuer, contents, put
from tests.integration.test_backup_restore import citadel_cli
from tests.openbao import OpenBao, new_openbao
from tests.servers import (
    Member,
    Server,
    connected,
    http_status,
    reason_of,
    refusal,
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
    """Revoke what was issued last, and see that the list of its issuer is one for OpenSSL too."""
    answer = await server.revocations().Revoke(revoke_request(server, leaf))
    assert (answer.is_published, answer.trouble) == (True, "")
    await check_lists(server, agent, leaf)


def revoke_request(server: Server, leaf: x509.Certificate) -> revocation_pb2.RevokeRequest:
    serial = server.ledger.serials()[-1]
    assert int(serial, 16) == leaf.serial_number
    return revocation_pb2.RevokeRequest(target=serial, reason="test")


async def check_lists(server: Server, agent: Member, leaf: x509.Certificate) -> None:
    """That agents have a list with it, sooner or later, which its issuer has signed."""
    held: list[tuple[x509.CertificateRevocationList, bytes]] = []
    async with synced(server, agent) as stream:
        while not held:
            lists = (await stream.next()).revocations.lists
            crls = [(x509.load_der_x509_crl(each.crl), each.issuer) for each in lists]
            held = [each for each in crls if each[0].get_revoked_certificate_by_serial_number(leaf.serial_number)]
    folder, [(crl, issuer)] = server.settings.data_dir, held
    (folder / "list.pem").write_bytes(crl.public_bytes(Encoding.PEM))
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
    assert validate_server(settings) == []
    async with running_server(settings) as server:
        if kind != "rsa-4096":  # to make one takes seconds
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


async def backed_up(server: Server) -> bytes:
    """A backup of a server that runs."""
    channel = server._open(aio.insecure_channel(f"unix:{server.settings.listen.admin_socket}"))
    return b"".join([part.data async for part in BackupStub(channel).MakeBackup(backup_pb2.MakeBackupRequest())])


@pytest.fixture(scope="module")
def frail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """One that is sealed and stopped, and started again by whoever did that."""
    bao = new_openbao(tmp_path_factory.mktemp("frail"))
    yield prepare(bao)
    bao.stop()


async def refused_with(server: Server, agent: Member, entry_id: str) -> str:
    """The reason why a certificate is not issued; "" where it is."""
    try:
        [result] = await sign(server.agents(agent), (entry_id, csr(new_key())))
    except aio.AioRpcError as error:
        if error.code() is not StatusCode.UNAVAILABLE:  # for which agents keep what they have
            raise
        return reason_of(error)
    return result.refusal.reason


async def until(server: Server, agent: Member, entry_id: str, reason: str) -> None:
    async with asyncio.timeout(30):
        while await refused_with(server, agent, entry_id) != reason:
            await asyncio.sleep(0.05)


async def until_ready_says(settings: ServerSettings, words: str, *, code: int = 200) -> None:
    said = (0, "")
    async with asyncio.timeout(30):
        while (said[0], words in said[1]) != (code, True):
            with suppress(OSError):  # before it listens
                said = await http_status(settings.listen.probes, "/ready")
            await asyncio.sleep(0.02)


async def test_while_vault_is_sealed_nothing_is_issued_and_it_is_said_until_when_that_lasts(
    frail: OpenBao, tmp_path: Path
) -> None:
    settings = settings_of(frail, tmp_path, TRANSIT)
    async with running_server(settings) as server:
        agent, entry_id = await member(server)
        [leaf] = await issued(server, agent, (await server.entry("/gone", agent)).id)
        await asyncio.to_thread(frail.seal)
        assert await refused_with(server, agent, entry_id) == "vault_unavailable"
        revoked = await server.revocations().Revoke(revoke_request(server, leaf))
        assert (revoked.is_published, "sealed" in revoked.trouble) == (False, True), "its list follows"
        await until_ready_says(settings, "nothing new is issued; workloads keep what they have, which begins to end")
        status = await server.status()
        assert (status.vault.good, status.vault.reason) == (False, "vault_unavailable")
        assert "sealed" in status.revocation_behind
        assert status.refused["vault_unavailable"] == 1
        assert "nothing new is issued" in status.vault.message
        await asyncio.to_thread(frail.unseal)
        await until(server, agent, entry_id, "")
        await check_token(server, agent, entry_id)
        await check_lists(server, agent, leaf)
        await until_ready_says(settings, '"keys"')
        assert (await server.status()).vault.good


async def test_sealed_keys_that_are_open_sign_while_vault_is_away_and_a_start_waits_for_it(
    frail: OpenBao, tmp_path: Path
) -> None:
    settings = settings_of(frail, tmp_path, SEAL)
    async with running_server(settings) as server:
        agent, entry_id = await member(server)
        await asyncio.to_thread(frail.stop)
        try:
            [leaf] = await issued(server, agent, entry_id)
            await check_token(server, agent, entry_id)
            await revoke(server, agent, leaf)
            assert await refusal(backed_up(server)) == (StatusCode.UNAVAILABLE, "vault_unavailable")
            await until_ready_says(settings, "keys that are open sign on until")
        except BaseException:
            await asyncio.to_thread(frail.start)
            await asyncio.to_thread(frail.unseal)
            raise
    stop = asyncio.Event()
    starting = asyncio.create_task(run_server(settings, stop=stop))
    try:
        await until_ready_says(settings, "start waits: Vault", code=503)
        await asyncio.to_thread(frail.start)
        await asyncio.to_thread(frail.unseal)
        server = await connected(settings, starting)
        await check_token(server, agent, (await server.entry("/later/web", agent)).id)
        await server.close()
    finally:
        stop.set()
        await starting


async def test_keys_that_are_deleted_in_vault_have_others_in_their_places_soon_and_at_a_start(
    bao: OpenBao, tmp_path: Path
) -> None:
    settings = settings_of(bao, tmp_path, {"vault_transit": {"prefix": "citadel-lost"}})
    async with running_server(settings) as server:
        agent, entry_id = await member(server)
        delete(bao, "citadel-lost-x509-issuer", "citadel-lost-jwt")
        assert await refused_with(server, agent, entry_id) == "vault_key_lost"
        await until(server, agent, entry_id, "")
        with pytest.raises(aio.AioRpcError) as refused_token:
            await check_token(server, agent, entry_id)
        assert reason_of(refused_token.value) == "vault_key_lost"
        async with asyncio.timeout(30):
            while True:
                with suppress(aio.AioRpcError):
                    await check_token(server, agent, entry_id)
                    break
        assert (await server.status()).vault.good
        delete(bao, "citadel-lost-x509-issuer", "citadel-lost-jwt")
    async with running_server(settings) as server:
        await issued(server, agent, entry_id)
        await check_token(server, agent, entry_id)
        assert (await server.status()).vault.good
    delete(bao, "citadel-lost-x509-root")
    async with running_server(settings) as server:
        await until_ready_says(settings, "the root signs no other authority; the one that issues goes on until")
        status = await server.status()
        assert (status.vault.good, status.vault.reason) == (False, "vault_key_lost")
        await issued(server, agent, entry_id)
    delete(bao, "citadel-lost-x509")
    with pytest.raises(CitadelError) as refused:
        await run_server(settings, stop=asyncio.Event())
    assert (refused.value.reason, "citadel-lost-x509-root" in refused.value.message) == (Reason.VAULT_KEY_LOST, True)


async def test_what_is_wrong_with_signing_alone_is_told(bao: OpenBao, tmp_path: Path) -> None:
    """The token is good, and Vault answers, so that nobody who looks at these alone would know."""
    bao.mount("transit", "unmounted")
    settings = settings_of(bao, tmp_path, {"vault_transit": {"mount": "unmounted"}})
    async with running_server(settings) as server:
        agent, entry_id = await member(server)
        await until_ready_says(settings, '"keys":"in Vault"')
        bao.root.sys.disable_secrets_engine("unmounted")
        assert await refused_with(server, agent, entry_id) == "vault_not_found"
        await until_ready_says(settings, "nothing new is issued; workloads keep what they have, which begins to end")
        vault = (await server.status()).vault
        assert (vault.good, vault.reason, vault.HasField("since")) == (False, "vault_not_found", True)
        assert "citadel_vault_good 0.0" in (await http_status(settings.listen.probes, "/metrics"))[1]


def delete(bao: OpenBao, *prefixes: str) -> None:
    """As somebody does who thinks that these keys are not needed."""
    for name in bao.root.list("transit/keys")["data"]["keys"]:
        if name.startswith(prefixes):
            bao.write(f"transit/keys/{name}/config", deletion_allowed=True)
            bao.root.delete(f"transit/keys/{name}")


async def test_a_backup_is_sealed_in_vault_and_brings_back_a_server_whose_keys_went_on(
    bao: OpenBao, tmp_path: Path
) -> None:
    keys = {"vault_transit": {"prefix": "citadel-restored"}}
    unsealable = settings_of(bao, tmp_path, keys)
    async with running_server(unsealable) as server:
        assert await refusal(backed_up(server)) == (StatusCode.FAILED_PRECONDITION, "key_unsealable")
    settings, file = settings_of(bao, tmp_path, keys | SEAL), tmp_path / "backup"
    async with running_server(settings) as server:
        agent, entry_id = await member(server)
        file.write_bytes(await backed_up(server))
    delete(bao, "citadel-restored-x509-issuer", "citadel-restored-jwt")  # as rotations do in time
    config = tmp_path / "server.yaml"
    config.write_text(settings_document(bao, settings, keys | SEAL))
    code, said = await citadel_cli("restore", str(file), "--config", str(config), "--replace", "--yes")
    assert (code, "3 keys of authorities are in Vault" in said) == (0, True), said
    async with running_server(settings) as server:
        await issued(server, agent, entry_id)
        await check_token(server, agent, entry_id)
    with (tmp_path / "offline").open("wb") as offline:
        assert await backup_offline(settings, offline, clock=SystemClock()) > 0


def settings_document(bao: OpenBao, settings: ServerSettings, keys: dict[str, Any]) -> str:
    """The settings as a file says them."""
    document = {
        "trust_domain": settings.trust_domain.name,
        "data_dir": str(settings.data_dir),
        "listen": {"admin_socket": str(settings.listen.admin_socket)},
        "keys": keys,
        "vault": bao.section(settings.data_dir.parent / "token"),
    }
    return yaml.safe_dump(document)


async def test_a_root_that_lost_its_key_is_rotated_away_while_the_server_runs(bao: OpenBao, tmp_path: Path) -> None:
    keys = {"vault_transit": {"prefix": "citadel-gone"}}
    async with running_server(settings_of(bao, tmp_path, keys)) as server:
        delete(bao, "citadel-gone-x509")
        await rotated(server, "root")
        agent, entry_id = await member(server)
        await issued(server, agent, entry_id)
        await check_token(server, agent, entry_id)
