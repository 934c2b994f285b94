"""`citadel-cli vault`, where it asks nobody, and where nobody answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ports import free_port
from tests.unit.cli.fake_admin import Program

SETTINGS: dict[str, Any] = {
    "trust_domain": "a.test",
    "data_dir": "data",
    "keys": {"vault_seal": {"key": "mine"}},
    "vault": {"address": "https://vault.test:8200", "login": {"token": {"token_file": "token"}}},
}


def written(folder: Path, settings: dict[str, Any]) -> str:
    (file := folder / "server.yaml").write_text(yaml.safe_dump(settings))
    return str(file)


async def test_the_policy_is_what_vault_takes_in_both_of_its_forms(program: Program, tmp_path: Path) -> None:
    file = written(tmp_path, SETTINGS)
    said = await program("vault", "policy", "-c", file)
    assert said.exit_code == 0
    assert 'path "transit/decrypt/mine" {\n  capabilities = ["update"]\n}\n' in said.stdout
    document = json.loads((await program("vault", "policy", "-c", file, "-o", "json")).stdout)
    assert document["path"]["transit/decrypt/mine"] == {"capabilities": ["update"]}
    assert said.stdout.count('path "') == len(document["path"])


@pytest.mark.parametrize("command", ["check", "policy"])
async def test_settings_that_do_not_use_vault_are_told(program: Program, tmp_path: Path, command: str) -> None:
    file = written(tmp_path, {"trust_domain": "a.test", "data_dir": "data", "keys": {"kek_file": "kek"}})
    said = await program("vault", command, "-c", file)
    assert said.exit_code == 3
    assert f"error: {file} does not use Vault (config_invalid)" in said.stderr


async def test_what_was_found_is_told_with_what_to_do_and_an_end(program: Program, tmp_path: Path) -> None:
    nowhere = SETTINGS["vault"] | {"address": f"https://127.0.0.1:{free_port()}"}
    said = await program("vault", "check", "-c", written(tmp_path, SETTINGS | {"vault": nowhere}))
    assert said.exit_code == 8
    [reached, fix, login] = said.stdout.splitlines()
    assert reached == "bad      reached: Vault cannot be reached: Connection refused"
    assert fix.startswith("         do: compare `vault.address`")
    assert login.split(" ")[0] == "unknown"
    assert said.stderr.startswith("error: a server with these settings would not work: 1 finding (reached)")
    assert "  try: compare `vault.address`" in said.stderr
