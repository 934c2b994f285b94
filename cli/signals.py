"""Running a process until it ends or is asked to."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Final

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def run_until_signal(process: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run `process` with an event that SIGTERM and SIGINT set; a second signal has its usual, harsher effect."""

    async def body() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def ask_to_stop() -> None:
            stop.set()
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

        for number in _SIGNALS:
            loop.add_signal_handler(number, ask_to_stop)
        await process(stop)

    asyncio.run(body())
