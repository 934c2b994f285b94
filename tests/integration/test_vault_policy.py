"""Citadel works with exactly the policy that is shipped, and no more: each use goes through its paces, and Vault's own
audit log says which rights were asked for."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from ca.settings import ServerSettings
from ca.vault_check.policy import Rule, as_hcl, rules_for
from citadel._wire import admin_pb2, agent_api_pb2, rotation_pb2
from citadel.bundle import TrustBundle
from citadel.clock import SystemClock
from citadel.finding import is_fit
from cli.vault_check import look
from tests.csrs import csr, new_key
from tests.folders import a_root, an_issuer, contents, put
from tests.openbao import OpenBao, new_openbao
from tests.servers import Server, running_server, server_settings, sign

pytestmark = pytest.mark.integration

_POLICIES: Final = Path(__file__).resolve().parents[2] / "deploy" / "vault"
_PATIENCE: Final = 30.0
_AUDITED: Final = 'audit "file" "seen" {{\n  options = {{\n    file_path = "{}"\n  }}\n}}\n'


@dataclass
class Audited:
    """A real OpenBao, and what it has noted of each call."""

    bao: OpenBao
    log: Path

    def asked(self, policy: str) -> list[tuple[str, str, bool]]:
        """Path, capability, and whether it was allowed, of each call with a token of this policy alone."""
        with self.log.open() as log:
            noted = [json.loads(line) for line in log if line.endswith("\n")]
        return [
            (each["request"]["path"], each["request"]["operation"], each["auth"]["policy_results"]["allowed"])
            for each in noted
            if each["type"] == "request" and each.get("auth", {}).get("policies") == [policy]
        ]


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    folder = tmp_path_factory.mktemp("audited")
    bao = new_openbao(folder / "bao", config=_AUDITED.format(folder / "audit.log"))
    bao.mount("pki", "pki")
    # Without a name, as who leaves that out makes it.
    bao.write("pki/root/generate/internal", common_name="Root", ttl="8760h", key_type="ec", key_bits=256)
    bao.mount("transit", "transit")
    bao.write("transit/keys/citadel-seal", type="aes256-gcm96")
    yield Audited(bao, folder / "audit.log")
    bao.stop()


async def _issue(server: Server, name: str, *, token: bool = False) -> None:
    agent = await server.join(name)
    entry = await server.entry(f"/{name}", agent)
    [answer] = await sign(server.agents(agent), (entry.id, csr(new_key())))
    assert answer.refusal.reason == ""
    if not token:  # which a rotation of its key would wait for
        return
    asked = agent_api_pb2.JwtSvidRequest(entry_id=entry.id, audience=["shop"])
    tokens = await server.agents(agent).SignJwtSvids(agent_api_pb2.SignJwtSvidsRequest(requests=[asked]))
    assert tokens.results[0].refusal.reason == ""


async def _rotate(server: Server, kind: str) -> None:
    # Agents of this test join, and never connect.
    await server.rotations().StartRotation(rotation_pb2.StartRotationRequest(kind=kind, skip=["before", "after"]))
    last = rotation_pb2.RotationView()
    async with asyncio.timeout(_PATIENCE):
        async for view in server.rotations().WatchRotation(rotation_pb2.WatchRotationRequest()):
            last = view
    assert (last.rotation.phase, last.rotation.alarm) == ("done", "")
    own = await server.admin().GetOwnBundle(admin_pb2.GetOwnBundleRequest())
    server.bundle = TrustBundle.from_json(server.settings.trust_domain, own.json)


async def _of_an_upstream(server: Server) -> None:
    await _issue(server, "before")
    await _rotate(server, "issuer")
    await _issue(server, "after")


async def _of_a_root(server: Server) -> None:
    """Its keys, or its root, are made and retired in Vault."""
    await _issue(server, "before")
    await _rotate(server, "root")
    await _rotate(server, "jwt")
    await _issue(server, "after")


USES: Final[dict[str, tuple[dict[str, Any], Callable[[Server], Awaitable[None]]]]] = {
    "upstream": ({"upstream": {"vault": {}}}, _of_an_upstream),
    "upstream-rotate-root": ({"upstream": {"vault": {"alone": True, "rotate_root": True}}}, _of_a_root),
    "transit": ({"keys": {"vault_transit": {}}}, _of_a_root),
    "seal": ({"keys": {"vault_seal": {}}}, _of_a_root),
}


@pytest.mark.parametrize("use", USES)
async def test_a_server_works_with_the_shipped_policy_and_needs_all_of_it(
    use: str, audited: Audited, tmp_path: Path
) -> None:
    sections, paces = USES[use]
    settings = _settings(use, sections, audited.bao, tmp_path)
    async with running_server(settings) as server:
        await paces(server)
    async with running_server(settings) as server:  # which opens what was sealed, and finds what was made
        await _issue(server, "again", token=True)
        # Until the log-in was renewed, at two thirds of its life.
        await _until(lambda: ("auth/token/renew-self", "update", True) in audited.asked(use))
    assert [path for path, _, is_allowed in audited.asked(use) if not is_allowed] == []
    assert is_fit(await look(settings, SystemClock()))
    asked = audited.asked(use)
    unused = [
        (rule.path, capability)
        for rule in rules_for(settings)
        for capability in rule.capabilities
        if not any(_fits(rule, path) and capability == operation for path, operation, _ in asked)
    ]
    assert unused == [], "a right that nobody has used is none that is needed"


async def test_an_authority_of_a_folder_is_taken_into_transit_with_what_is_printed_for_it(
    audited: Audited, tmp_path: Path
) -> None:
    folder = put(tmp_path / "cacerts", contents(an_issuer(root := a_root()), root))
    sections = {"keys": {"vault_transit": {}}, "upstream": {"files": {"folder": folder, "alone": True}}}
    settings = _settings("folder", sections, audited.bao, tmp_path)
    audited.bao.root.sys.create_or_update_policy("folder", as_hcl(rules_for(settings)))
    async with running_server(settings) as server:
        await _issue(server, "before", token=True)
    asked = audited.asked("folder")
    assert [path for path, _, is_allowed in asked if not is_allowed] == []
    assert any(re.fullmatch(r"transit/keys/citadel-x509-issuer-\w+/import", path) for path, _, _ in asked)


def _settings(use: str, sections: dict[str, Any], bao: OpenBao, folder: Path) -> ServerSettings:
    if use in USES:
        bao.root.sys.create_or_update_policy(use, (_POLICIES / f"{use}.hcl").read_text())
    login = bao.approle(use, folder, use, token_ttl="5s", token_no_default_policy=True)
    vault = {"address": bao.address, "ca_file": str(bao.ca_file), "login": login}
    return server_settings(folder, vault=vault, rotation={"margin": "500ms", "window": "0s"}, **sections)


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(_PATIENCE):
        while not is_so():
            await asyncio.sleep(0.05)


def _fits(rule: Rule, path: str) -> bool:
    pattern = re.escape(rule.path).replace(r"\+", "[^/]+")
    pattern = pattern[:-2] + ".*" if rule.path.endswith("*") else pattern
    return re.fullmatch(pattern, path) is not None
