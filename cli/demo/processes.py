"""Child processes of the demo: started, watched, and ended by their id."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from citadel.errors import CitadelError, Reason

_GRACE_SECONDS: Final = 5.0
_START_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.05


class Child:
    """A process with its output in a file."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @classmethod
    async def start(
        cls,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        uid: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        """Start `command`, as user and group `uid` where that is given (which only root can).

        The change of user is made by `setpriv`, which then becomes the command (same process, same pid): asked for it
        itself, Python forks with gRPC's fork handlers, which have crashed such a child before it was the command.
        """
        as_user = () if uid is None else ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--")
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *as_user,
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # Ctrl-C in the terminal is for the demo, which then ends its children in order
            )
        return cls(name, process, log)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise if it has ended, with the last lines of its log."""
        if self._process.returncode is not None:
            last = "\n  ".join(self.log.read_text(errors="replace").splitlines()[-8:])
            raise CitadelError(
                Reason.INTERNAL,
                f"{self.name} ended by itself with code {self._process.returncode}; its last words:\n  {last}",
            )

    async def kill(self) -> None:
        """End it at once, as a crash would; it may have ended already."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        """Ask it to end, and kill it where it does not within the grace."""
        if self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_GRACE_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


async def until(what: str, holds: Callable[[], Awaitable[bool]], *, check: Callable[[], None], logs: Path) -> None:
    """Return once it holds; `check` raises where what is waited for has ended. Raises `CitadelError` after a while."""
    try:
        async with asyncio.timeout(_START_SECONDS):
            while not await holds():
                check()
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        told = f"{what} was not ready within {_START_SECONDS:.0f} s"
        raise CitadelError(Reason.INTERNAL, told, fix=f"see {logs}") from None
