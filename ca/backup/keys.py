"""Where the sealed keys of a backup come from and go to: files, or the table of the database."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.backup.format import TableHead
from ca.store.schema import sealed_keys
from citadel.config.files import ensure_private_dir, write_private

KEYS: Final = TableHead(sealed_keys.name, (("id", "text"), ("sealed", "bytes")))
_SUFFIX: Final = ".sealed"


class KeyShelf(Protocol):
    """All sealed keys of a server at once."""

    async def read(self, connection: AsyncConnection) -> Mapping[str, bytes]:
        """Every sealed key by its id."""
        ...

    async def add(self, connection: AsyncConnection, keys: Mapping[str, bytes]) -> None:
        """Put keys there beside those that are there, before the rows that name them are committed."""
        ...

    async def keep_only(self, keys: Mapping[str, bytes]) -> None:
        """Forget all others, once nothing names them any more."""
        ...


class TableShelf:
    """Keys in the database: they come and go with its transaction."""

    async def read(self, connection: AsyncConnection) -> Mapping[str, bytes]:
        return {row.id: bytes(row.sealed) for row in await connection.execute(select(sealed_keys))}

    async def add(self, connection: AsyncConnection, keys: Mapping[str, bytes]) -> None:
        await connection.execute(delete(sealed_keys))
        if keys:
            rows = [{"id": key_id, "sealed": sealed} for key_id, sealed in keys.items()]
            await connection.execute(insert(sealed_keys), rows)

    async def keep_only(self, keys: Mapping[str, bytes]) -> None:
        """Nothing is left to do."""


class FolderShelf:
    """Keys in files: a crash before the commit leaves some that nothing names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def read(self, connection: AsyncConnection) -> Mapping[str, bytes]:  # noqa: ARG002 - the port's form
        return await asyncio.to_thread(self._read)

    async def add(self, connection: AsyncConnection, keys: Mapping[str, bytes]) -> None:  # noqa: ARG002 - the port's form
        await asyncio.to_thread(self._add, keys)

    async def keep_only(self, keys: Mapping[str, bytes]) -> None:
        await asyncio.to_thread(self._keep_only, keys)

    def _read(self) -> Mapping[str, bytes]:
        found: dict[str, bytes] = {}
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            try:
                found[path.name.removesuffix(_SUFFIX)] = path.read_bytes()
            except FileNotFoundError:
                continue  # renewed in this moment: nothing names it any more
        return found

    def _add(self, keys: Mapping[str, bytes]) -> None:
        ensure_private_dir(self._folder)
        for key_id, sealed in keys.items():
            write_private(self._path(key_id), sealed)

    def _keep_only(self, keys: Mapping[str, bytes]) -> None:
        for path in self._folder.glob(f"*{_SUFFIX}"):
            if path.name.removesuffix(_SUFFIX) not in keys:
                path.unlink(missing_ok=True)

    def _path(self, key_id: str) -> Path:
        return self._folder / f"{key_id}{_SUFFIX}"
