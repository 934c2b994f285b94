"""`citadel-cli vault check` against a real OpenBao: what fits, and each mistake found and named."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from click.testing import CliRunner

from ca.keys.disk import DiskKeys
from ca.keys.sealing import KeyLabel, KeyPurpose
from ca.keys.transit.sealer import VaultSealer
from ca.settings import ServerSettings
from ca.store.database import Database
from ca.store.sealed_keys import SqlKeys
from ca.vault_check.policy import Rule, as_hcl, rules_for
from citadel.config.files import write_private
from cli.citadel_cli import citadel_cli
from tests.openbao import OpenBao, new_openbao, running_openbao
from tests.ports import free_port

pytestmark = pytest.mark.integration

_USES: Final[dict[str, dict[str, Any]]] = {
    "upstream": {"upstream": {"vault": {}}},
    "rotating": {"upstream": {"vault": {"alone": True, "rotate_root": True}}},
    "transit": {"keys": {"vault_transit": {}}},
    "seal": {"keys": {"vault_seal": {}}},
}


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """One with everything that the defaults name, and a token role for each test's own policy."""
    bao = new_openbao(tmp_path_factory.mktemp("openbao"))
    bao.pki("pki")
    bao.mount("transit", "transit")
    bao.write("transit/keys/citadel-seal", type="aes256-gcm96")
    bao.root.sys.enable_auth_method("approle")
    yield bao
    bao.stop()


@dataclass
class Place:
    """A folder with settings of a server, whose log-in has the policy `rules` and no other."""

    bao: OpenBao
    folder: Path
    sections: dict[str, Any]

    def settings(self) -> ServerSettings:
        return ServerSettings.model_validate(self._document())

    def allow(self, rules: list[Rule] | str, **role: Any) -> None:
        policy = rules if isinstance(rules, str) else as_hcl(rules)
        name = self.folder.name
        self.bao.root.sys.create_or_update_policy(name, policy)
        options = {"token_policies": [name], "token_ttl": "1h", "token_no_default_policy": True}
        self.bao.write(f"auth/approle/role/{name}", **options | role)
        secret = self.bao.write(f"auth/approle/role/{name}/secret-id")["secret_id"]
        (self.folder / "secret-id").unlink(missing_ok=True)
        write_private(self.folder / "secret-id", secret.encode())
        role_id = self.bao.root.read(f"auth/approle/role/{name}/role-id")["data"]["role_id"]
        self.sections["vault"]["login"]["approle"]["role_id"] = role_id

    async def check(self) -> tuple[int, dict[str, Any], str]:
        """Exit code, what it says for programs, and its last word."""
        (self.folder / "server.yaml").write_text(yaml.safe_dump(self._document()))
        words = ["-o", "json", "vault", "check", "-c", str(self.folder / "server.yaml")]
        done = await asyncio.to_thread(CliRunner().invoke, citadel_cli, words, prog_name="citadel-cli")
        return done.exit_code, json.loads(done.stdout or "{}"), done.stderr

    async def off(self) -> list[tuple[str, str, str]]:
        """What is not good: subject, grade, words."""
        return _off((await self.check())[1])

    def _document(self) -> dict[str, Any]:
        defaults = {"trust_domain": "a.test", "data_dir": str(self.folder / "data"), "keys": {"kek_file": "/kek"}}
        return defaults | self.sections


def _off(said: dict[str, Any]) -> list[tuple[str, str, str]]:
    found = [(each["subject"], each["grade"], f"{each['finding']} -> {each['fix']}") for each in said["checks"]]
    return [each for each in found if each[1] != "good"]


def place_of(bao: OpenBao, folder: Path, sections: dict[str, Any]) -> Place:
    login = {"approle": {"role_id": "unknown", "secret_id_file": str(folder / "secret-id")}}
    vault = {"address": bao.address, "ca_file": str(bao.ca_file), "login": login}
    place = Place(bao, folder, json.loads(json.dumps({"vault": vault} | sections)))
    place.allow(list(rules_for(place.settings())))
    return place


@pytest.mark.parametrize("use", _USES)
async def test_with_the_smallest_policy_everything_is_good(use: str, bao: OpenBao, tmp_path: Path) -> None:
    place = place_of(bao, tmp_path, _USES[use])
    code, said, error = await place.check()
    assert _off(said) == []
    assert (code, said["fits"], error) == (0, True, "")


@pytest.mark.parametrize("use", _USES)
async def test_each_line_that_is_left_out_is_named(use: str, bao: OpenBao, tmp_path: Path) -> None:
    place = place_of(bao, tmp_path, _USES[use])
    rules = list(rules_for(place.settings()))
    for missing in rules:
        for capability in missing.capabilities:
            left = tuple(each for each in missing.capabilities if each != capability)
            less = Rule(path=missing.path, capabilities=left or ("deny",), why=missing.why)
            place.allow([less if each is missing else each for each in rules])
            code, said, _ = await place.check()
            words = [each["finding"] for each in said["checks"] if each["grade"] in ("bad", "warning")]
            assert any(missing.path in each and capability in each for each in words), (missing.path, words)
            assert (code == 0) is (not missing.is_vital), missing.path


def _mistake(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def note(function: Callable[..., Any]) -> Callable[..., Any]:
        _MISTAKES[name] = function
        return function

    return note


_MISTAKES: Final[dict[str, Callable[[Place], tuple[str, str]]]] = {}


@_mistake("a mount that is not there")
def _(place: Place) -> tuple[str, str]:
    place.sections["upstream"]["vault"]["mount"] = "nowhere"
    place.allow(list(rules_for(place.settings())))
    return "mount", "nothing that may be seen is mounted at nowhere"


@_mistake("a mount of another engine")
def _(place: Place) -> tuple[str, str]:
    place.sections["upstream"]["vault"]["mount"] = "transit"
    place.allow(list(rules_for(place.settings())))
    return "mount", "at transit is the engine transit, not pki"


@_mistake("a mount without a root")
def _(place: Place) -> tuple[str, str]:
    place.sections["upstream"]["vault"]["mount"] = place.bao.mount("pki", "empty")
    place.allow(list(rules_for(place.settings())))
    return "issuer", "empty has none -> make a root there"


@_mistake("an issuer that is not there")
def _(place: Place) -> tuple[str, str]:
    place.sections["upstream"]["vault"]["issuer"] = "second"
    return "issuer", "the PKI engine at pki has no issuer second"


@_mistake("an issuer that was retired")
def _(place: Place) -> tuple[str, str]:
    _new_pki(place, "retired")
    place.bao.write("retired/issuer/first", issuer_name="first", usage="read-only,crl-signing")
    return "usage", "first may not sign certificates: its usage is crl-signing, read-only"


@_mistake("a root that may sign leaves alone")
def _(place: Place) -> tuple[str, str]:
    place.sections["upstream"]["vault"]["mount"] = place.bao.mount("pki", "short")
    place.bao.write("short/root/generate/internal", common_name="Root", ttl="8760h", max_path_length=0)
    place.allow(list(rules_for(place.settings())))
    return "issuer", "has path length 0: no authority may stand below it"


@_mistake("a root of another trust domain")
def _(place: Place) -> tuple[str, str]:
    place.bao.pki("other", trust_domain="b.test")
    place.sections["upstream"]["vault"]["mount"] = "other"
    place.allow(list(rules_for(place.settings())))
    return "issuer", "is for spiffe://b.test, not spiffe://a.test"


@_mistake("two roots of one name")
def _(place: Place) -> tuple[str, str]:
    _new_pki(place, "twins")
    place.bao.write("twins/root/generate/internal", common_name="Root first", issuer_name="twin", ttl="8760h")
    return "roots", "the issuer twin in twins is not trusted: it has the name of another root"


@_mistake("a root that ends before what it is to sign")
def _(place: Place) -> tuple[str, str]:
    _new_pki(place, "ending", lifetime="48h")
    return "lifetime", "it ends in 1d23h, before"


@_mistake("a mount that shortens what is asked for")
def _(place: Place) -> tuple[str, str]:
    _new_pki(place, "limited")
    place.bao.root.sys.tune_mount_configuration("limited", max_lease_ttl="24h")
    return "limit", "1d: authorities.issuer_lifetime (7d) would be shortened to it"


@_mistake("a secret that is wrong")
def _(place: Place) -> tuple[str, str]:
    (place.folder / "secret-id").write_text("wrong")
    return "login", "Vault does not log in role_id and the secret id in"


@_mistake("an authority file that is not Vault's")
def _(place: Place) -> tuple[str, str]:
    place.sections["vault"]["ca_file"] = None
    return "reached", "Vault's certificate does not verify"


@_mistake("an address where nobody listens")
def _(place: Place) -> tuple[str, str]:
    place.sections["vault"]["address"] = f"https://127.0.0.1:{free_port()}"
    return "reached", "Vault cannot be reached: Connection refused"


@_mistake("a namespace that is not there")
def _(place: Place) -> tuple[str, str]:
    place.sections["vault"]["namespace"] = "team"
    return "login", "namespace not found"


@_mistake("a policy for everything")
def _(place: Place) -> tuple[str, str]:
    place.allow('path "*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }')
    return "power", "the policy has a rule for every path"


@_mistake("a policy for all of the mount")
def _(place: Place) -> tuple[str, str]:
    place.allow(as_hcl(rules_for(place.settings())) + 'path "pki/*" { capabilities = ["read", "update"] }')
    return "power", "pki/sign-verbatim allows read, update"


@_mistake("tokens that are good for some calls")
def _(place: Place) -> tuple[str, str]:
    place.allow(list(rules_for(place.settings())), token_num_uses=40)
    return "lease", "calls more"


def _new_pki(place: Place, mount: str, **options: str) -> None:
    place.sections["upstream"]["vault"]["mount"] = place.bao.pki(mount, **options)
    place.allow(list(rules_for(place.settings())))


_WORKS: Final = {"two roots of one name", "a root that ends before what it is to sign", "a policy for everything"} | {
    "a mount that shortens what is asked for",
    "a policy for all of the mount",
}


@pytest.mark.parametrize("mistake", _MISTAKES)
async def test_each_mistake_is_found_and_named(mistake: str, bao: OpenBao, tmp_path: Path) -> None:
    place = place_of(bao, tmp_path, _USES["upstream"])
    subject, words = _MISTAKES[mistake](place)
    code, said, error = await place.check()
    off = _off(said)
    assert [each for each in off if each[0] == subject and words in each[2]], off
    assert (code, said["fits"]) == ((0, True) if mistake in _WORKS else (8, False))
    if code:
        assert json.loads(error)["error"]["message"].startswith("a server with these settings would not work")


async def test_a_seal_key_of_another_kind_and_one_that_is_not_there(bao: OpenBao, tmp_path: Path) -> None:
    bao.write("transit/keys/signing", type="ecdsa-p256")
    for key, words in (("signing", "is of type ecdsa-p256, not aes256-gcm96"), ("nowhere", "there is nothing at")):
        place = place_of(bao, tmp_path, {"keys": {"vault_seal": {"key": key}}})
        [(subject, grade, found)] = await place.off()
        assert (subject, grade) == ("seal_key", "bad")
        assert words in found
        assert f"transit/keys/{key} type=aes256-gcm96" in found or key == "signing"


@pytest.mark.parametrize("store", ["disk", "database"])
async def test_a_seal_key_that_does_not_open_what_is_on_record_is_told_and_not_made_anew(
    store: str, bao: OpenBao, tmp_path: Path
) -> None:
    bao.write(f"transit/keys/of-{store}", type="aes256-gcm96")
    place = place_of(bao, tmp_path, {"keys": {"vault_seal": {"key": f"of-{store}"}, "store": store}})
    with closing(bao.vault()) as vault:
        sealer = VaultSealer(vault=vault, mount="transit", key=f"of-{store}")
        label = KeyLabel(key_id="a" * 32, purpose=KeyPurpose.ISSUER, trust_domain=place.settings().trust_domain)
        sealed = await sealer.seal(b"a private key", label)
    await _put(place.settings(), label.key_id, sealed)
    assert await place.off() == []
    bao.write(f"transit/keys/of-{store}/config", deletion_allowed=True)
    bao.root.delete(f"transit/keys/of-{store}")
    [(subject, grade, found)] = await place.off()
    assert (subject, grade) == ("seal_key", "bad")
    assert "restore it from a backup of Vault: a new one opens nothing" in found
    bao.write(f"transit/keys/of-{store}", type="aes256-gcm96")
    code, said, _ = await place.check()
    assert code == 8
    assert "does not open what is sealed on record" in _off(said)[0][2]


async def _put(settings: ServerSettings, key_id: str, sealed: bytes) -> None:
    if not settings.keys_in_database:
        await DiskKeys(settings.data_dir / "keys").put(key_id, sealed)
        return
    settings.data_dir.mkdir()
    database = Database.open(settings.database_url)
    await database.migrate()
    await SqlKeys(database=database).put(key_id, sealed)
    await database.close()


async def test_keys_of_others_that_begin_alike_are_seen_by_who_may_list(bao: OpenBao, tmp_path: Path) -> None:
    place = place_of(bao, tmp_path, {"keys": {"vault_transit": {"prefix": "east"}}})
    place.allow(as_hcl(rules_for(place.settings())) + 'path "transit/keys" { capabilities = ["list"] }')
    assert await place.off() == []
    bao.write("transit/keys/east-2-jwt-1", type="ecdsa-p256")
    assert await place.off() == [], "the policy does not reach it"
    bao.write("transit/keys/east-jwt-1", type="ecdsa-p256")
    [(subject, grade, found)] = await place.off()
    assert (subject, grade) == ("prefix", "warning")
    assert "east-jwt-1: not of this server's making" in found


async def test_in_a_namespace_of_its_own_everything_is_good(bao: OpenBao, tmp_path: Path) -> None:
    bao.write("sys/namespaces/mesh")
    bao.root.adapter.namespace = "mesh"
    try:
        bao.pki("pki")
        bao.root.sys.enable_auth_method("approle")
        place = place_of(bao, tmp_path, _USES["upstream"])
    finally:
        bao.root.adapter.namespace = None
    place.sections["vault"]["namespace"] = "mesh"
    code, said, error = await place.check()
    assert (code, error) == (0, ""), said


async def test_a_token_of_the_root_is_warned_of_and_one_that_nobody_knows_is_refused(
    bao: OpenBao, tmp_path: Path
) -> None:
    place = place_of(bao, tmp_path, _USES["upstream"])
    write_private(tmp_path / "token", bao.root.token.encode())
    place.sections["vault"]["login"] = {"token": {"token_file": str(tmp_path / "token")}}
    [(subject, grade, found)] = await place.off()
    assert (subject, grade) == ("power", "warning")
    assert "this is a root token" in found
    (tmp_path / "token").write_text("s.nobody")
    code, said, _ = await place.check()
    assert (code, said["checks"][-1]["subject"], said["checks"][-1]["grade"]) == (8, "login", "bad")


async def test_it_leaves_nothing_behind(bao: OpenBao, tmp_path: Path) -> None:
    place = place_of(bao, tmp_path, _USES["rotating"])
    before = bao.root.list("auth/token/accessors")["data"]["keys"]
    issuers = bao.root.list("pki/issuers")["data"]["keys"]
    assert (await place.check())[0] == 0
    assert set(bao.root.list("auth/token/accessors")["data"]["keys"]) == set(before)
    assert bao.root.list("pki/issuers")["data"]["keys"] == issuers


async def test_a_sealed_vault_is_told_before_anything_else(tmp_path: Path) -> None:
    async with running_openbao(tmp_path / "bao") as bao:
        bao.root.sys.enable_auth_method("approle")
        place = place_of(bao, tmp_path, _USES["upstream"])
        bao.seal()
        code, said, _ = await place.check()
    assert code == 8
    assert [(each["subject"], each["grade"]) for each in said["checks"]] == [
        ("reached", "good"),
        ("sealed", "bad"),
        ("login", "unknown"),
    ]
    assert said["checks"][1]["fix"] == "unseal it"
