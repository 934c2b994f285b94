"""`citadel server validate`, and that of the agent: what would stop the start is found without starting."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from cli.citadel import main
from tests import folders
from tests.csrs import new_key
from tests.strangers import WebCa, put

CONFIG = "trust_domain: a.test\ndata_dir: data\nkeys: {kek_file: kek}\n"
KEK = base64.b64encode(bytes(32))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    kek = tmp_path / "kek"
    kek.write_bytes(KEK)
    kek.chmod(0o600)
    return tmp_path


def validate(folder: Path, added: str = "", config: str = CONFIG) -> Result:
    path = folder / "server.yaml"
    path.write_text(config + added)
    return CliRunner().invoke(main, ["server", "validate", "-c", str(path)])


def test_good_settings_are_told_so_and_nothing_is_made(folder: Path) -> None:
    result = validate(folder, "store_url: sqlite+aiosqlite:///x.db\n")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "valid for a server of a.test" in result.stdout
    assert {path.name for path in folder.iterdir()} == {"kek", "server.yaml"}


def test_a_second_run_over_the_data_of_the_first_is_good(folder: Path) -> None:
    (folder / "data").mkdir(mode=0o700)
    (folder / "data" / "keys").mkdir(mode=0o700)
    assert validate(folder).exit_code == 0


def test_the_folder_with_the_authority_is_looked_at(folder: Path) -> None:
    for_long = {"lifetime": timedelta(days=36500)}
    root = folders.a_root(**for_long)
    cacerts = folders.put(folder / "cacerts", folders.contents(folders.an_issuer(root, **for_long), root))
    upstream = f"upstream: {{files: {{folder: {cacerts}}}}}\n"
    assert validate(folder, upstream).exit_code == 0
    (cacerts / "ca-key.pem").chmod(0o644)
    result = validate(folder, upstream)
    assert result.exit_code == 8
    assert "ca-key.pem has mode 0644: others than its owner can access it (upstream_invalid)" in result.stderr
    assert f"try: chmod 0600 {cacerts}/ca-key.pem" in result.stderr


def test_oidc_files_that_cannot_be_used_are_warned_of_and_stop_nothing(folder: Path) -> None:
    ca = WebCa()
    files = f"certificate_file: {folder}/web.pem, key_file: {folder}/web-key.pem"
    oidc = f"oidc: {{issuer: 'https://a.test', listen: 127.0.0.1:1, {files}}}\n"
    for signed, warned in (
        (None, "web.pem"),
        (ca.certificate(), ""),
        (ca.certificate(not_after=datetime.now(UTC) - timedelta(seconds=1)), "the certificate is good from"),
    ):
        if signed is not None:
            put(folder, signed)
        result = validate(folder, oidc)
        assert (result.exit_code, "valid for a server" in result.stdout) == (0, True)
        assert warned in result.stderr
        assert result.stderr.startswith("warning: oidc would not be served: ") is bool(warned), result.stderr


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_key_file_that_others_can_read(folder: Path, mode: int) -> None:
    (folder / "kek").chmod(mode)
    result = validate(folder)
    assert result.exit_code == 3
    assert f"error: keys.kek_file: {folder / 'kek'} has mode 0{mode:o}" in result.stderr
    assert "(file_unsafe)" in result.stderr


@pytest.mark.parametrize(
    ("content", "problem"), [(b"s3cret!", "is not base64"), (base64.b64encode(b"s3cret"), "has 6 bytes instead of 32")]
)
def test_a_key_file_without_a_key(folder: Path, content: bytes, problem: str) -> None:
    (folder / "kek").write_bytes(content)
    result = validate(folder)
    assert result.exit_code == 3
    assert f"error: keys.kek_file: the key-encryption key {problem}" in result.stderr
    assert content.decode() not in result.stderr


def test_a_missing_key_file_and_an_unset_variable_name_their_settings(folder: Path) -> None:
    (folder / "kek").unlink()
    assert "error: keys.kek_file: " in validate(folder).stderr
    config = CONFIG.replace("kek_file: kek", "kek_env: NOT_SET_ANYWHERE")
    assert "error: keys.kek_env: the environment variable 'NOT_SET_ANYWHERE'" in validate(folder, config=config).stderr


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("listen: {probes: 0.0.0.0:1}", "server.yaml:4: 'listen.probes' is wrong (value '0.0.0.0:1'): not a loopback"),
        ("store_url: foo", "server.yaml:4: 'store_url' is wrong"),
        ("store_url: postgresql+nosuch://h/d", "store_url names a driver that is not installed"),
        ("authorities: {root_lifetime: 9999999d}", "server.yaml:4: 'authorities.root_lifetime' is wrong"),
    ],
)
def test_settings_that_could_not_run(folder: Path, line: str, problem: str) -> None:
    result = validate(folder, f"{line}\n")
    assert result.exit_code == 3
    assert problem in result.stderr
    assert "(config_invalid)" in result.stderr


@pytest.mark.parametrize("name", ["data", "data/keys"])
def test_a_folder_that_others_can_enter(folder: Path, name: str) -> None:
    (folder / "data").mkdir(mode=0o700)
    (folder / name).mkdir(mode=0o700, exist_ok=True)
    (folder / name).chmod(0o755)
    result = validate(folder)
    assert result.exit_code == 3
    assert f"{folder / name} has mode 0755" in result.stderr


def test_a_file_in_the_place_of_the_folder(folder: Path) -> None:
    (folder / "data").write_bytes(b"")
    assert "(file_unsafe)" in validate(folder).stderr


@pytest.mark.parametrize("command", ["validate", "run"])
def test_an_agent_with_policies_that_cannot_be_meant_does_not_start(tmp_path: Path, command: str) -> None:
    (tmp_path / "policies.yaml").write_text(
        "policies:\n  - name: web\n    selectors: [unix:uid:1]\n    defualt: DENY\n    jwtRules: [{audiences: [a]}]\n"
    )
    path = tmp_path / "agent.yaml"
    path.write_text("trust_domain: a.test\ndata_dir: data\nprobes: 127.0.0.1:0\nauthz: {policy_file: policies.yaml}\n")
    result = CliRunner().invoke(main, ["agent", command, "-c", str(path)])
    assert result.exit_code == 3
    assert f"{tmp_path / 'policies.yaml'}:4: unknown key 'policies[0].defualt'" in result.stderr
    assert "policies.yaml:5: missing key 'policies[0].jwtRules[0].issuer'" in result.stderr


def with_a_passphrase() -> bytes:
    return new_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


VAULT = """vault:
  address: https://127.0.0.1:8200
  ca_file: {folder}/ca.pem
  login: {{certificate: {{certificate_file: {folder}/web.pem, key_file: {folder}/web-key.pem}}}}
upstream: {{vault: {{}}}}
"""


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        (lambda folder: (folder / "web-key.pem").chmod(0o644), "web-key.pem has mode 0644"),
        (lambda folder: (folder / "web-key.pem").unlink(), "web-key.pem cannot be opened"),
        (lambda folder: (folder / "web.pem").write_text("nothing"), "TLS with Vault cannot use"),
        (lambda folder: (folder / "web-key.pem").write_bytes(with_a_passphrase()), "TLS with Vault cannot use"),
        (lambda folder: (folder / "ca.pem").unlink(), "No such file or directory"),
        (lambda folder: (folder / "ca.pem").write_text("nothing"), "ca.pem"),
    ],
)
def test_the_files_by_which_vault_is_reached_are_looked_at(
    folder: Path, spoilt: Callable[[Path], object], words: str
) -> None:
    authority = WebCa()
    (folder / "ca.pem").write_bytes(authority.pem)
    put(folder, authority.certificate())
    assert validate(folder, VAULT.format(folder=folder)).exit_code == 0
    spoilt(folder)
    result = validate(folder, VAULT.format(folder=folder))
    assert result.exit_code == 3
    assert words in result.stderr


def test_what_is_missing_to_speak_to_vault_is_said(folder: Path) -> None:
    (folder / "server.yaml").write_text(CONFIG + VAULT.format(folder=folder))
    program = "import sys; sys.modules['hvac'] = None; from cli.citadel import main; main()"
    command = [sys.executable, "-c", program, "server", "validate", "-c", str(folder / "server.yaml")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 3
    assert "the section vault needs hvac, which is not installed (config_invalid)" in result.stderr
    assert "in a clone of Citadel: pip install '.[vault]'" in result.stderr


def test_what_is_missing_to_speak_to_kubernetes_is_said(folder: Path) -> None:
    (folder / "server.yaml").write_text(CONFIG + "kubernetes: {clusters: [{name: main}]}\n")
    program = "import sys; sys.modules['kubernetes'] = None; from cli.citadel import main; main()"
    command = [sys.executable, "-c", program, "server", "validate", "-c", str(folder / "server.yaml")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 3
    assert "the section kubernetes needs kubernetes, which is not installed (config_invalid)" in result.stderr
    assert "in a clone of Citadel: pip install '.[kubernetes]'" in result.stderr


def test_a_kubeconfig_that_leads_nowhere_is_named_with_its_cluster(folder: Path) -> None:
    section = f"kubernetes: {{clusters: [{{name: main, api: {{kubeconfig: {folder / 'none'}}}}}]}}\n"
    result = validate(folder, section)
    assert result.exit_code == 3
    found = f"cluster main: kubeconfig {folder / 'none'} does not lead to an API server: there is no such file"
    assert result.stderr == f"error: {found} (config_invalid)\n  try: mend it, or name another one\n"
