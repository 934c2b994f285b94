"""What an agent is given to join with a certificate, and what of it is refused before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from citadel.errors import CitadelError, Reason
from cli.agent_joining import check_can_join
from sds.settings import AgentSettings
from tests import certificates

MACHINES = certificates.root("machines", uri=None)
OWN = certificates.leaf(MACHINES, names=None)


def key_pem(signed: certificates.Signed) -> bytes:
    return signed.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
def settings(tmp_path: Path) -> AgentSettings:
    files = {name: tmp_path / name for name in ("node.pem", "node.key", "bundle.pem")}
    files["node.key"].touch(mode=0o600)
    files["node.key"].write_bytes(key_pem(OWN))
    files["node.pem"].write_bytes(OWN.pem + MACHINES.pem)
    files["bundle.pem"].write_bytes(certificates.root().pem)
    return AgentSettings.model_validate(
        {
            "trust_domain": "a.test",
            "data_dir": tmp_path / "data",
            "join": {
                "servers": ["127.0.0.1:1"],
                "bundle_file": files["bundle.pem"],
                "x509pop": {"certificate_file": files["node.pem"], "key_file": files["node.key"]},
            },
        }
    )


def test_a_certificate_its_key_a_bundle_and_an_address_are_enough(settings: AgentSettings) -> None:
    check_can_join(settings)


REFUSED: list[tuple[str, Callable[[Path], object], Reason]] = [
    ("no certificate", lambda folder: (folder / "node.pem").unlink(), Reason.CONFIG_INVALID),
    ("an empty certificate", lambda folder: (folder / "node.pem").write_bytes(b""), Reason.CONFIG_INVALID),
    ("garbage", lambda folder: (folder / "node.pem").write_bytes(b"garbage"), Reason.CONFIG_INVALID),
    ("the authority first", lambda folder: (folder / "node.pem").write_bytes(MACHINES.pem), Reason.CONFIG_INVALID),
    ("no key", lambda folder: (folder / "node.key").unlink(), Reason.FILE_UNSAFE),
    ("a key that others can read", lambda folder: (folder / "node.key").chmod(0o644), Reason.FILE_UNSAFE),
    ("half a key", lambda folder: (folder / "node.key").write_bytes(key_pem(OWN)[:100]), Reason.CONFIG_INVALID),
    ("another key", lambda folder: (folder / "node.key").write_bytes(key_pem(MACHINES)), Reason.CONFIG_INVALID),
    ("no bundle", lambda folder: (folder / "bundle.pem").unlink(), Reason.CONFIG_INVALID),
    ("half a bundle", lambda folder: (folder / "bundle.pem").write_bytes(b"{"), Reason.BUNDLE_MALFORMED),
]


@pytest.mark.parametrize(("spoil", "reason"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_cannot_be_used_is_named_and_no_key_is_shown(
    tmp_path: Path, settings: AgentSettings, spoil: Callable[[Path], object], reason: Reason
) -> None:
    spoil(tmp_path)
    with pytest.raises(CitadelError) as refused:
        check_can_join(settings)
    assert refused.value.reason is reason
    assert str(tmp_path) in str(refused.value) or reason is Reason.BUNDLE_MALFORMED
    assert "PRIVATE" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "words"), [("", "it is empty"), (" \n", "it is empty"), ("secret", "is not citadel:")]
)
def test_a_join_string_that_is_none_is_named_by_its_place_and_not_shown(
    tmp_path: Path, settings: AgentSettings, content: str, words: str
) -> None:
    (file := tmp_path / "join").touch(mode=0o600)
    file.write_text(content)
    join = settings.join.model_copy(update={"string_file": file, "x509pop": type(settings.join.x509pop)()})
    with pytest.raises(CitadelError, match=words) as refused:
        check_can_join(settings.model_copy(update={"join": join}))
    assert (refused.value.reason, str(file) in str(refused.value)) == (Reason.JOIN_STRING_MALFORMED, True)
    assert "secret" not in str(refused.value)
