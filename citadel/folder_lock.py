"""One process per data folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from citadel.errors import FailedPrecondition, Reason

_NAME: Final = "lock"


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; the kernel lets go of it when the process ends, however it ends.

    Raises `FailedPrecondition` (`data_dir_in_use`) where another process holds it.
    """
    descriptor = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FailedPrecondition(
                Reason.DATA_DIR_IN_USE,
                f"another process runs on data_dir {folder}",
                fix="stop it, or give this one a data_dir of its own",
            ) from None
        yield
    finally:
        os.close(descriptor)
