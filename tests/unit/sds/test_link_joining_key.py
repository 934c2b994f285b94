from __future__ import annotations

import stat
from pathlib import Path

import pytest

from citadel.errors import CitadelError, Reason
from sds.keep.keys import to_pem
from sds.link.joining_key import JoiningKey


@pytest.mark.invariant(12)
def test_the_same_key_is_taken_until_it_is_discarded(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    first = JoiningKey(folder).take()
    assert to_pem(JoiningKey(folder).take()) == to_pem(first)
    assert stat.S_IMODE((folder / "joining-key.pem").stat().st_mode) == 0o600
    JoiningKey(folder).discard()
    JoiningKey(folder).discard()
    assert to_pem(JoiningKey(folder).take()) != to_pem(first)


@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"])
def test_a_damaged_one_is_refused_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    joining_key = JoiningKey(tmp_path / "data")
    joining_key.take()
    joining_key.path.write_bytes(content)
    with pytest.raises(CitadelError) as refused:
        joining_key.take()
    assert refused.value.reason is Reason.IDENTITY_CORRUPT
    assert "new join string" in refused.value.fix


def test_one_that_others_can_read_is_refused(tmp_path: Path) -> None:
    joining_key = JoiningKey(tmp_path / "data")
    joining_key.take()
    joining_key.path.chmod(0o644)
    with pytest.raises(CitadelError) as refused:
        joining_key.take()
    assert refused.value.reason is Reason.FILE_UNSAFE


def test_a_disk_that_refuses_it_is_told_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sds.link.joining_key.write_private", full)
    with pytest.raises(CitadelError) as refused:
        JoiningKey(tmp_path / "data").take()
    assert refused.value.reason is Reason.STORE_UNAVAILABLE
    assert "token was not sent" in refused.value.message
