"""Sealed keys in a folder, one file each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from citadel.config.files import ensure_private_dir, write_private
from citadel.errors import FailedPrecondition, Reason, Unavailable


class DiskKeys:
    """Fulfils `ca.keys.manager.SealedKeys` in `folder` (0700), each file 0600."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, key_id: str, sealed: bytes) -> None:
        await asyncio.to_thread(self._put, key_id, sealed)

    async def get(self, key_id: str) -> bytes:
        try:
            return await asyncio.to_thread(self._path(key_id).read_bytes)
        except OSError as error:
            raise FailedPrecondition(
                Reason.KEY_UNSEALABLE,
                f"the file of key {key_id} cannot be read: {error.strerror}",
                fix=f"restore it in {self._folder} from a backup",
            ) from error

    async def delete(self, key_id: str) -> None:
        with _disk_refusals():
            await asyncio.to_thread(self._path(key_id).unlink, missing_ok=True)

    def _put(self, key_id: str, sealed: bytes) -> None:
        ensure_private_dir(self._folder)
        with _disk_refusals():
            write_private(self._path(key_id), sealed)

    def _path(self, key_id: str) -> Path:
        return self._folder / f"{key_id}.sealed"


@contextmanager
def _disk_refusals() -> Iterator[None]:
    """A full disk is a refusal that a later try can overcome, not the end of who asked."""
    try:
        yield
    except OSError as error:
        raise Unavailable(
            Reason.STORE_UNAVAILABLE,
            f"the folder of keys does not take this now: {error.strerror}",
            fix="look at the disk of the server",
        ) from error
