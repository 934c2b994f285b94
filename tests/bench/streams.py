"""One bundle change to thousands of SDS streams of one agent: how long until the last has it, and what it costs.

The agent is the real process, `citadel agent run`, with its relay and its attestation, and reports every stream. The
server is a stand-in in this process that speaks the real protocol over real mutual TLS, because it can change the
bundle whenever it is told to. The proxies are a process of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from subprocess import PIPE
from typing import Any, Final

import httpx
import yaml

from citadel._wire import agent_api_pb2
from citadel.bundle import TrustBundle
from citadel.selector import Selector
from citadel.spiffe import TrustDomain
from citadel.wire import entry_to_wire
from cli.limits import raise_open_files
from sds.link.identity import IdentityFile
from tests import certificates
from tests.bench.machine import Cores, cpu_seconds, resident_bytes
from tests.ports import free_port
from tests.unit.sds.fake_authority import FakeAuthority, entry
from tests.unit.sds.fake_server import FakeAgentApi, bundle_message, make_identity, now, serve_agents

_OWN, _ALL = "ROOTCA", "ALL"  # what the streams ask for
_ROOTS: Final = 3  # of each foreign trust domain
_PATIENCE: Final = 120.0
_SETTLED: Final = 1.0  # seconds in which the agent's reports of a push are through


@dataclass
class _Bench:
    """The stand-in server and the agent under measurement."""

    folder: Path
    authority: FakeAuthority
    api: FakeAgentApi
    foreign: Sequence[TrustBundle] = ()
    agent: int = 0
    _revision: int = 1
    _extra: list[certificates.Signed] = field(default_factory=lambda: [certificates.root(f"extra {n}") for n in "ab"])

    @property
    def socket(self) -> Path:
        return self.folder / "agent.sock"

    def change(self) -> float:
        """Tell the agent of a bundle with another root, of a foreign domain where there are any, and when that was."""
        return self._change_foreign() if self.foreign else self._change_own()

    def _change_foreign(self) -> float:
        self._revision += 1
        bundle = self.foreign[self._revision % len(self.foreign)]
        roots = (*bundle.x509_authorities[1:], certificates.root("next", str(bundle.trust_domain.id)).certificate)
        changed = replace(bundle, x509_authorities=roots, sequence=self._revision)
        update = agent_api_pb2.Update(revision=self._revision, bundles=[bundle_message(changed)])
        begun = time.monotonic()
        self.api.syncs[-1].updates.put_nowait(update)
        return begun

    def _change_own(self) -> float:
        self._revision += 1
        extra = self._extra[self._revision % len(self._extra)].certificate
        changed = replace(
            self.authority.bundle,
            x509_authorities=(*self.authority.bundle.x509_authorities, extra),
            sequence=self._revision,
        )
        bundles = [bundle_message(changed)]
        update = agent_api_pb2.Update(revision=self._revision, bundles=bundles)
        for known in self.api.snapshot:  # for the line that the agent opens with the new roots
            known.ClearField("bundles")
            known.bundles.extend(bundles)
            known.revision = self._revision
        begun = time.monotonic()
        self.api.syncs[-1].updates.put_nowait(update)
        return begun


async def measure_streams(
    count: int, *, per_connection: int = 2, rounds: int = 5, delta: bool = False, foreign: int = 0
) -> dict[str, Any]:
    """Fill an agent with `count` streams and change its bundle, or one of its `foreign` ones, `rounds` times.

    Returns:
        `fill`, `push_p50` and `push_last` in seconds (medians over the rounds), `push_worst_last`; `bytes_per_stream`
        after all rounds and `idle_bytes`, resident; `agent_cpu` and `load_cpu` in seconds a push.
    """
    raise_open_files()
    async with _agent(_foreign(foreign)) as bench:
        idle = resident_bytes(bench.agent)
        cores = Cores.of_this_machine()
        load = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-m",
                "tests.bench.stream_load",
                f"unix:{bench.socket}",
                "--name",
                _ALL if foreign else _OWN,
            ),
            *("--streams", str(count), "--per-connection", str(per_connection), *(["--delta"] if delta else [])),
            stdin=PIPE,
            stdout=PIPE,
            limit=2**24,
        )
        os.sched_setaffinity(load.pid, {cores.load})
        try:
            fill = (await _heard(load))["filled"]
            pushes = [await _push(bench, load) for _ in range(rounds)]
            resident = resident_bytes(bench.agent)
        finally:
            load.kill()
            await load.wait()
    return {
        "streams": count,
        "connections": -(-count // per_connection),
        "protocol": "sds-delta" if delta else "sds",
        "fill": round(fill, 3),
        "push_p50": round(median(each.middle for each in pushes), 3),
        "push_last": round(median(each.last for each in pushes), 3),
        "push_worst_last": round(max(each.last for each in pushes), 3),
        "bytes_per_stream": (resident - idle) // count,
        "idle_bytes": idle,
        "agent_cpu": round(median(each.agent_cpu for each in pushes), 3),
        "load_cpu": round(median(each.load_cpu for each in pushes), 3),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Push:
    middle: float
    last: float
    agent_cpu: float
    load_cpu: float


async def _push(bench: _Bench, load: asyncio.subprocess.Process) -> _Push:
    await asyncio.sleep(_SETTLED)
    assert load.stdin is not None
    agent_cpu, load_cpu = cpu_seconds(bench.agent), cpu_seconds(load.pid)
    begun = bench.change()
    load.stdin.write(b"next\n")
    moments = (await _heard(load))["received"]
    await asyncio.sleep(_SETTLED)
    return _Push(
        middle=median(moments) - begun,
        last=moments[-1] - begun,
        agent_cpu=cpu_seconds(bench.agent) - agent_cpu,
        load_cpu=cpu_seconds(load.pid) - load_cpu,
    )


async def _heard(load: asyncio.subprocess.Process) -> dict[str, Any]:
    assert load.stdout is not None
    line = await asyncio.wait_for(load.stdout.readline(), _PATIENCE)
    return dict(json.loads(line))


def _foreign(count: int) -> list[TrustBundle]:
    domains = [TrustDomain(f"foreign-{number}.test") for number in range(count)]
    return [
        certificates.bundle(
            *(certificates.root(f"{domain} {number}", str(domain.id)) for number in range(_ROOTS)),
            trust_domain=domain,
            sequence=1,
        )
        for domain in domains
    ]


@asynccontextmanager
async def _agent(foreign: Sequence[TrustBundle]) -> AsyncIterator[_Bench]:
    """A real agent with one entry, which matches this user and federates with these, and its certificate."""
    folder = Path(tempfile.mkdtemp(prefix="citadel-bench-"))
    authority = FakeAuthority(now())
    bench = _Bench(folder, authority, FakeAgentApi(authority), foreign)
    with_whom = frozenset(bundle.trust_domain for bundle in foreign)
    web = entry("web", selectors=frozenset({_myself()}), federates_with=with_whom)
    bench.api.entries["web"] = web
    bundles = map(bundle_message, (authority.bundle, *foreign))
    first = agent_api_pb2.Update(revision=1, snapshot=True, entries=[entry_to_wire(web)], bundles=bundles)
    bench.api.snapshot = [first]
    server, address = await serve_agents(bench.api, authority)
    data_dir = folder / "data"
    data_dir.mkdir(mode=0o700)
    IdentityFile(data_dir).save(make_identity(authority, address))
    probes = f"127.0.0.1:{free_port()}"
    config = folder / "agent.yaml"
    settings = {"trust_domain": "a.test", "data_dir": str(data_dir), "socket": str(bench.socket), "probes": probes}
    config.write_text(yaml.safe_dump(settings | {"log": {"level": "warning"}}))
    with (folder / "agent.log").open("wb") as log:
        agent = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli.entry", "agent", "run", "--config", config), stdout=log, stderr=log
        )
    bench.agent = agent.pid
    os.sched_setaffinity(agent.pid, {Cores.of_this_machine().server})
    try:
        await _ready(probes, agent)
        yield bench
    except BaseException:
        sys.stderr.write((folder / "agent.log").read_text(errors="replace")[-4000:])
        raise
    finally:
        if agent.returncode is None:
            agent.terminate()
        await agent.wait()
        await server.stop(None)
        shutil.rmtree(folder, ignore_errors=True)


def _myself() -> Selector:
    return Selector("unix", f"uid:{os.geteuid()}")


async def _ready(probes: str, agent: asyncio.subprocess.Process) -> None:
    async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(_PATIENCE):
        while agent.returncode is None:
            try:
                answer = (await client.get(f"http://{probes}/ready")).json()
            except httpx.TransportError:
                answer = {}
            if answer.get("status") == "ready":
                return
            await asyncio.sleep(0.05)
    raise AssertionError("the agent ended before it was ready")


def main() -> None:
    """Measure once and print it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("streams", type=int)
    parser.add_argument("--per-connection", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--delta", action="store_true")
    parser.add_argument("--foreign", type=int, default=0, help="change one of so many federated domains")
    asked = parser.parse_args()
    measured = measure_streams(
        asked.streams,
        per_connection=asked.per_connection,
        rounds=asked.rounds,
        delta=asked.delta,
        foreign=asked.foreign,
    )
    print(json.dumps(asyncio.run(measured), indent=2))  # noqa: T201 - what this command is for


if __name__ == "__main__":
    main()
