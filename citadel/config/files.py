"""Files that hold secrets: refused when others could read them, and written so that a crash leaves old or new.

These calls block on the disk; inside a running loop use them through `asyncio.to_thread`.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final

from citadel.errors import InvalidArgument, Reason

MAX_SECRET_BYTES: Final = 1 << 20
_OTHERS: Final = 0o077
_OTHERS_WRITE: Final = 0o022
_MORE_THAN_READ: Final = 0o037  # by the group; and anything by others
_UNFINISHED: Final = ".unfinished"


def read_secret_file(path: Path, *, max_bytes: int = MAX_SECRET_BYTES) -> bytes:
    """The content of a file that only its owner, who is root or this process's user, can touch.

    One of root's may be read by a group of this process's too: for who is not root that is the only way to be given a
    file that it cannot change, and how Kubernetes gives secrets (`fsGroup`).

    Symbolic links are followed, because Kubernetes mounts secrets as such; what is checked is the file that was opened,
    so that it cannot be exchanged between check and reading. Raises `InvalidArgument` (`file_unsafe`).
    """
    with _open_regular(path) as file:
        status = os.fstat(file.fileno())
        _check_owner_and_mode(path, status, wanted="0600", forbidden=_MORE_THAN_READ if _is_given(status) else _OTHERS)
        return _whole(path, file, max_bytes)


def read_public_file(path: Path) -> bytes:
    """The content of a file that anybody may read. Raises `InvalidArgument` (`file_unsafe`) for what is no file."""
    with _open_regular(path) as file:
        return _whole(path, file, MAX_SECRET_BYTES)


def read_trusted_file(path: Path) -> bytes:
    """The content of a file that anybody may read, and nobody but root and this process's user may change.

    Raises `InvalidArgument` (`file_unsafe`).
    """
    with _open_regular(path) as file:
        _check_owner_and_mode(path, os.fstat(file.fileno()), wanted="0644", forbidden=_OTHERS_WRITE)
        return _whole(path, file, MAX_SECRET_BYTES)


def ensure_private_dir(path: Path) -> None:
    """Make `path` a folder of mode 0700, or check that it is one already.

    Raises `InvalidArgument` (`file_unsafe`) when it is something else, belongs to another user, or others can enter it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unsafe(path, f"cannot be used as a folder: {error.strerror}") from error
    try:
        _check_owner_and_mode(path, os.fstat(descriptor), wanted="0700")
    finally:
        os.close(descriptor)


def empty_private_dir(path: Path) -> None:
    """Make `path` a folder of mode 0700 with nothing in it. Only while nobody else writes there. Raises as above."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _unsafe(path, f"cannot be emptied: {error.strerror or error}") from error
    ensure_private_dir(path)


def write_private(path: Path, data: bytes) -> None:
    """Replace `path` by a file of mode 0600 with `data`, durable on return; a crash leaves the old content or the new.

    Raises `OSError` when the disk refuses.
    """
    # Mode 0600, in the same folder.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_UNFINISHED)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def make_private_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Make a folder of mode 0700 that holds these files (0600), durable on return: all of it or nothing.

    Raises `FileExistsError` where `path` is there already, and any other `OSError` when the disk refuses.
    """
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=_UNFINISHED))
    try:
        for name, data in files.items():
            write_private(temporary / name, data)
        _rename_new(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(path.parent)


def append_private(path: Path, line: str) -> None:
    """Add a line to a file of mode 0600, durable on return. Raises `OSError` when the disk refuses."""
    is_new = not path.exists()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(f"{line}\n")
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        _sync_folder(path.parent)


def remove_unfinished(folder: Path) -> None:
    """Remove what `write_private` left in `folder` when its process was killed. Only while nobody else writes there."""
    for path in folder.glob(f".*{_UNFINISHED}"):
        path.unlink(missing_ok=True)


def _open_regular(path: Path) -> BinaryIO:
    try:
        file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115 - `Path.open` takes no opener
    except OSError as error:
        raise _unsafe(path, f"cannot be opened: {error.strerror}") from error
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise _unsafe(path, "is not a regular file")


def _whole(path: Path, file: BinaryIO, max_bytes: int) -> bytes:
    content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise _unsafe(path, f"is larger than {max_bytes} bytes")
    return content


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a named pipe in this place would hang the start


def _rename_new(temporary: Path, path: Path) -> None:
    if os.path.lexists(path):  # a rename would take the place of an empty folder
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    temporary.rename(path)


def _sync_folder(path: Path) -> None:
    # The new name is durable only when its folder is: fsync(2), "does not necessarily ensure that the entry in the
    # directory containing the file has also reached disk".
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_given(status: os.stat_result) -> bool:
    """Whether root gave the file to a group of this process, which is not root."""
    return status.st_uid == 0 != os.geteuid() and status.st_gid in (os.getegid(), *os.getgroups())


def _check_owner_and_mode(path: Path, status: os.stat_result, *, wanted: str, forbidden: int = _OTHERS) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise _unsafe(path, f"belongs to uid {status.st_uid}, neither root nor uid {os.geteuid()} of this process")
    mode = stat.S_IMODE(status.st_mode)
    if mode & forbidden:
        can = "change" if forbidden == _OTHERS_WRITE else "access"
        raise _unsafe(path, f"has mode {mode:04o}: others than its owner can {can} it", fix=f"chmod {wanted} {path}")


def _unsafe(path: Path, problem: str, *, fix: str = "") -> InvalidArgument:
    return InvalidArgument(Reason.FILE_UNSAFE, f"{path} {problem}", fix=fix)
