"""The program `citadel-cli`, in this process: on a busy machine each process of it takes seconds to start."""

from __future__ import annotations

import asyncio
import threading
from typing import Final

from click.testing import CliRunner

from cli import citadel_cli as program
from tests.program_logs import logging_as_before

_ONE_AT_A_TIME: Final = threading.Lock()  # it has the process's standard output


async def citadel_cli(*words: str) -> tuple[int, str]:
    """How it ends, and all that it says."""
    return await asyncio.to_thread(_run, words)


def _run(words: tuple[str, ...]) -> tuple[int, str]:
    with _ONE_AT_A_TIME, logging_as_before():
        result = CliRunner().invoke(program.citadel_cli, list(words))
    return result.exit_code, result.output
