"""Being told of what changes in a folder, by the system that tests run on; nothing here waits for a poll."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from ca.upstream.files.watching import FolderChanges
from citadel.clock import SystemClock

SOON = 10.0  # seconds; a busy machine takes its time, and a poll would take an hour


@asynccontextmanager
async def watched(folder: Path, *, again: timedelta = timedelta(hours=1)) -> AsyncIterator[FolderChanges]:
    changes = FolderChanges(folder, again=again, clock=SystemClock())
    watching = asyncio.create_task(changes.run())
    try:
        await _begun(changes, folder)
        yield changes
    finally:
        watching.cancel()
        await asyncio.wait({watching})


async def _begun(changes: FolderChanges, folder: Path) -> None:
    """Until it tells of something: nothing says when the system has begun to watch."""
    async with asyncio.timeout(SOON):
        while True:
            (folder / "begun").write_text("x")
            try:
                await asyncio.wait_for(changes.wait(), 0.5)
            except TimeoutError:
                continue
            break
    await _quiet(changes)


async def _quiet(changes: FolderChanges) -> None:
    """Until it tells of nothing more."""
    while True:
        try:
            await asyncio.wait_for(changes.wait(), 0.5)
        except TimeoutError:
            return


def _swap(folder: Path) -> None:
    """As the kubelet does it: the link is made beside the old one, and takes its place."""
    (folder / "..data_tmp").symlink_to("..v2")
    (folder / "..data_tmp").rename(folder / "..data")


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file is written": lambda folder: (folder / "tls.crt").write_text("new"),
    "a file is moved in": lambda folder: (folder.parent / "elsewhere").rename(folder / "tls.crt"),
    "a file is removed": lambda folder: (folder / "tls.crt").unlink(),
    "a volume is swapped": _swap,
    "the folder is exchanged": lambda folder: (
        folder.rename(folder.with_name("old")),
        folder.with_name("next").rename(folder),
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("ca", "next", "ca/..v1", "ca/..v2"):
        (tmp_path / name).mkdir()
    (tmp_path / "ca" / "..data").symlink_to("..v1")
    (tmp_path / "ca" / "tls.crt").write_text("old")
    (tmp_path / "elsewhere").write_text("new")
    return tmp_path / "ca"


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_each_way_in_which_people_and_kubernetes_change_a_folder_is_told(
    folder: Path, change: Callable[[Path], object]
) -> None:
    async with watched(folder) as changes:
        change(folder)
        await asyncio.wait_for(changes.wait(), SOON)


async def test_what_is_in_its_place_is_watched_from_then_on(folder: Path) -> None:
    async with watched(folder) as changes:
        CHANGES["the folder is exchanged"](folder)
        await asyncio.wait_for(changes.wait(), SOON)
        await _begun(changes, folder)


async def test_what_changes_beside_the_folder_is_nobodys_business(folder: Path) -> None:
    async with watched(folder) as changes:
        (folder.parent / "ca-old").mkdir()
        (folder.parent / "elsewhere").write_text("newer")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(changes.wait(), 0.5)


async def test_what_is_made_in_its_place_after_it_was_deleted_is_watched(folder: Path) -> None:
    async with watched(folder) as changes:
        shutil.rmtree(folder)
        await asyncio.wait_for(changes.wait(), SOON)
        await _quiet(changes)
        folder.mkdir()
        await asyncio.wait_for(changes.wait(), SOON)
        await _begun(changes, folder)


async def test_what_is_made_in_its_place_at_once_is_watched(folder: Path) -> None:
    """It has the number of the deleted one then, where the file system gives numbers again."""
    async with watched(folder) as changes:
        shutil.rmtree(folder)
        folder.mkdir()
        await asyncio.wait_for(changes.wait(), SOON)
        await _begun(changes, folder)


async def test_a_folder_that_is_not_there_yet_is_watched_once_it_is(tmp_path: Path) -> None:
    changes = FolderChanges(tmp_path / "ca", again=timedelta(hours=1), clock=SystemClock())
    watching = asyncio.create_task(changes.run())
    await asyncio.sleep(0)
    (tmp_path / "ca").mkdir()
    await _begun(changes, tmp_path / "ca")
    watching.cancel()
    await asyncio.wait({watching})


async def test_where_the_folder_above_is_missing_too_it_is_tried_again(tmp_path: Path) -> None:
    changes = FolderChanges(tmp_path / "above" / "ca", again=timedelta(milliseconds=50), clock=SystemClock())
    watching = asyncio.create_task(changes.run())
    async with asyncio.timeout(SOON):
        while not changes._is_troubled:
            await asyncio.sleep(0.01)
    (tmp_path / "above" / "ca").mkdir(parents=True)
    await _begun(changes, tmp_path / "above" / "ca")
    watching.cancel()
    await asyncio.wait({watching})
