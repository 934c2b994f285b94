"""Files with secrets: what is read, what is refused, and that a write leaves the old content or the new."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from citadel.config.files import (
    MAX_SECRET_BYTES,
    empty_private_dir,
    ensure_private_dir,
    read_secret_file,
    remove_unfinished,
    write_private,
)
from citadel.errors import InvalidArgument, Reason

ANOTHER_UID = 12345
A_GROUP = 23456


def refused(act: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(InvalidArgument) as error:
        act(path)
    assert error.value.reason is Reason.FILE_UNSAFE
    assert str(path) in error.value.message
    return str(error.value)


@contextmanager
def another_user() -> Iterator[None]:
    """Within this the process is not root's, and has one group more."""
    groups = os.getgroups()
    os.setgroups([A_GROUP])
    os.setegid(ANOTHER_UID)
    os.seteuid(ANOTHER_UID)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def secret(tmp_path: Path, mode: int, content: bytes = b"secret") -> Path:
    path = tmp_path / "kek"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_of_ours_alone_is_read(tmp_path: Path, mode: int) -> None:
    assert read_secret_file(secret(tmp_path, mode)) == b"secret"


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o610, 0o644, 0o666])
def test_a_file_that_others_can_touch_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = secret(tmp_path, mode)
    text = refused(read_secret_file, path)
    assert f"mode {mode:04o}" in text
    assert f"chmod 0600 {path}" in text
    assert "secret" not in text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize(
    ("owner", "group", "mode", "taken"),
    [
        (0, A_GROUP, 0o440, True),
        (0, A_GROUP, 0o640, True),
        (0, A_GROUP, 0o400, False),  # it cannot even be opened
        (0, A_GROUP, 0o460, False),
        (0, A_GROUP, 0o444, False),
        (0, 0, 0o444, False),
        (ANOTHER_UID, A_GROUP, 0o440, False),  # its own: nobody else is to have it
        (ANOTHER_UID, A_GROUP, 0o400, True),
    ],
)
def test_who_is_not_root_may_be_given_a_file_of_roots_by_its_group(
    owner: int, group: int, mode: int, taken: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = secret(Path(folder), mode)
        os.chown(path, owner, group)
        Path(folder).chmod(0o755)  # where every user can look
        with another_user():
            if taken:
                assert read_secret_file(path) == b"secret"
            else:
                refused(read_secret_file, path)


def test_a_missing_file_a_folder_a_pipe_and_a_huge_file_are_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(read_secret_file, tmp_path / "none")
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    assert "Is a directory" in refused(read_secret_file, folder)
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "not a regular file" in refused(read_secret_file, tmp_path / "pipe")
    assert "larger than" in refused(read_secret_file, secret(tmp_path, 0o600, b"x" * (MAX_SECRET_BYTES + 1)))


def test_a_link_is_judged_by_the_file_behind_it(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(secret(tmp_path, 0o600))
    assert read_secret_file(link) == b"secret"
    (tmp_path / "kek").chmod(0o644)
    assert "mode 0644" in refused(read_secret_file, link)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_belongs_to_another_user_is_refused(tmp_path: Path) -> None:
    path = secret(tmp_path, 0o600)
    os.chown(path, ANOTHER_UID, -1)
    assert f"belongs to uid {ANOTHER_UID}" in refused(read_secret_file, path)
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    os.chown(folder, ANOTHER_UID, -1)
    assert f"belongs to uid {ANOTHER_UID}" in refused(ensure_private_dir, folder)


def test_a_private_folder_is_made_and_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "parent" / "state"
    ensure_private_dir(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    ensure_private_dir(path)


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o711, 0o777])
def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "state"
    path.mkdir()
    path.chmod(mode)
    assert f"chmod 0700 {path}" in refused(ensure_private_dir, path)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    refused(ensure_private_dir, secret(tmp_path, 0o600))


def test_a_folder_is_emptied_whatever_it_was_and_a_link_is_not_followed(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "relay", tmp_path / "elsewhere"
    empty_private_dir(path)
    (path / "left").mkdir()
    (path / "left" / "file").touch()
    path.chmod(0o755)
    empty_private_dir(path)
    assert (stat.S_IMODE(path.stat().st_mode), list(path.iterdir())) == (0o700, [])
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    path.rmdir()
    path.symlink_to(elsewhere)
    assert "cannot be emptied" in refused(empty_private_dir, path)
    assert (elsewhere / "precious").exists()


def test_writing_replaces_the_whole_file_and_its_mode(tmp_path: Path) -> None:
    path = secret(tmp_path, 0o644, b"a longer old content")
    write_private(path, b"new")
    assert read_secret_file(path) == b"new"
    assert [item.name for item in tmp_path.iterdir()] == ["kek"]


def test_writing_does_not_follow_a_link(tmp_path: Path) -> None:
    target = secret(tmp_path, 0o600, b"theirs")
    link = tmp_path / "link"
    link.symlink_to(target)
    write_private(link, b"ours")
    assert target.read_bytes() == b"theirs"
    assert not link.is_symlink()


@pytest.mark.invariant(12)
@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_content_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    path = secret(tmp_path, 0o600, b"old")
    # The disk itself cannot be made to fail here, so its calls are.
    monkeypatch.setattr(*((os, "fsync") if failing == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="No space"):
        write_private(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["kek"]


@pytest.mark.invariant(12)
def test_what_a_killed_write_left_behind_can_be_removed(tmp_path: Path) -> None:
    kept = {"kek", ".hidden", "note.unfinished"}
    for name in kept:
        (tmp_path / name).touch()
    child = os.fork()
    if child == 0:  # dies between writing and renaming
        os.fsync = lambda _: os._exit(9)
        write_private(tmp_path / "kek", b"new")
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == len(kept) + 1
    remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept
