"""What the processes under measurement run on and use: cores, processor time, memory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cores:
    """The core of the server under measurement, and the core of everything that asks it."""

    server: int
    load: int

    @classmethod
    def of_this_machine(cls) -> Self:
        """The first and the last core that this process may use; the same one where there is no other."""
        usable = sorted(os.sched_getaffinity(0))
        return cls(server=usable[0], load=usable[-1])

    @contextmanager
    def on_the_servers(self) -> Iterator[None]:
        """Run the calling thread on the server's core, to measure what that core can do."""
        os.sched_setaffinity(0, {self.server})
        try:
            yield
        finally:
            os.sched_setaffinity(0, {self.load})


def confine(pid: int, cores: set[int]) -> None:
    """Keep every thread of a process that runs, and those that they start, on `cores`."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used; proc(5), fields 14 and 15 of `stat`."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


@dataclass(slots=True)
class Watch:
    """Measures a span of time: on the wall, and on the processors for the server and for this process."""

    server: int
    _began: tuple[float, float, float] = field(init=False)

    def __post_init__(self) -> None:
        self._began = self._now()

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter(), cpu_seconds(self.server), time.process_time()

    def elapsed(self) -> tuple[float, float, float]:
        """Seconds since the start, and the share of one core that the server and this process used of it."""
        seconds, server, load = (now - then for now, then in zip(self._now(), self._began, strict=True))
        return seconds, server / seconds, load / seconds
