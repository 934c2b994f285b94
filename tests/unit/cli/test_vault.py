"""`citadel-cli vault policy`, which asks nobody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

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


@pytest.mark.parametrize("command", ["policy"])
async def test_settings_that_do_not_use_vault_are_told(program: Program, tmp_path: Path, command: str) -> None:
    file = written(tmp_path, {"trust_domain": "a.test", "data_dir": "data", "keys": {"kek_file": "kek"}})
    said = await program("vault", command, "-c", file)
    assert said.exit_code == 3
    assert f"error: {file} does not use Vault (config_invalid)" in said.stderr
