"""The command that a user has run after each change, such as a server's own reload."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Self

from citadel.config.types import format_duration
from citadel.errors import InvalidArgument, Reason

_STANDARD_ERROR: Final = 2  # standard output is the watch's own


@dataclass(frozen=True, slots=True)
class Hook:
    """A program with its arguments, run without a shell; after `within` it is killed, and what it started with it."""

    words: tuple[str, ...]
    within: timedelta

    @classmethod
    def parse(cls, text: str, *, within: timedelta) -> Self:
        """Split `text` as a shell would. Raises `InvalidArgument` (`config_invalid`)."""
        try:
            words = tuple(shlex.split(text))
        except ValueError as error:
            raise InvalidArgument(Reason.CONFIG_INVALID, f"the command {text!r} cannot be read: {error}") from error
        if not words:
            raise InvalidArgument(Reason.CONFIG_INVALID, "the command is empty")
        return cls(words, within)

    async def run(self) -> str:
        """Run it to its end. What went wrong, in words; empty when nothing did."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self.words, stdin=asyncio.subprocess.DEVNULL, stdout=_STANDARD_ERROR, start_new_session=True
            )
        except OSError as error:
            return f"{self.words[0]} cannot be started: {error.strerror}"
        try:
            async with asyncio.timeout(self.within.total_seconds()):
                code = await process.wait()
        except TimeoutError:
            return f"{self.words[0]} did not end within {format_duration(self.within)} and was killed"
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # it leads a group of its own
                await process.wait()
        return f"{self.words[0]} ended with {code}" if code else ""
