"""Being told by the system that something in a folder has changed (inotify, through watchfiles)."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog
from watchfiles import Change, awatch

from citadel.clock import Clock

_log = structlog.get_logger(__name__)

_QUIET_MS: Final = 100  # whoever writes several files is mostly done after this
_LONGEST_MS: Final = 1000  # and not waited for longer
_LOOK_MS: Final = 1000  # whether it is the same folder still: what happens while a watch is begun is not told


class FolderChanges:
    """Fulfils `ca.upstream.files.keeper.Changes` for as long as `run` runs.

    The folder above is watched too: the folder itself may be moved away or deleted, and another one put in its place,
    which is noticed here at the next event or within seconds.
    """

    def __init__(self, folder: Path, *, again: timedelta, clock: Clock) -> None:
        self._folder = folder.absolute()
        self._again = again
        self._clock = clock
        self._changed = asyncio.Event()
        self._is_troubled = False

    async def wait(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    async def run(self) -> None:
        """Watch, for ever. Where that cannot be done now, it is tried again; whoever waits polls as well."""
        while True:
            try:
                await self._watch()
            except (OSError, RuntimeError) as error:  # the latter is what watchfiles makes of the system's limits
                if not self._is_troubled:
                    _log.warning("folder cannot be watched, only polled", folder=str(self._folder), error=str(error))
                self._is_troubled = True
                await self._clock.sleep(self._again.total_seconds())

    async def _watch(self) -> None:
        """Until there is another folder of this name, or none, or one again."""
        watched = _identity(self._folder)
        seen = awatch(
            *(() if watched is None else (self._folder,)),
            self._folder.parent,
            watch_filter=self._is_ours,
            step=_QUIET_MS,
            debounce=_LONGEST_MS,
            rust_timeout=min(self._again // timedelta(milliseconds=1), _LOOK_MS),
            yield_on_timeout=True,
            recursive=False,
        )
        async for changes in seen:
            self._is_troubled = False
            if changes:
                self._changed.set()
            # A new folder may have the number that the deleted one had.
            is_another = any(what is not Change.modified and path == str(self._folder) for what, path in changes)
            if is_another or _identity(self._folder) != watched:
                self._changed.set()
                return

    def _is_ours(self, _: Change, path: str) -> bool:
        return path == str(self._folder) or path.startswith(f"{self._folder}{os.sep}")


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
