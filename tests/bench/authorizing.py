"""What it costs a request that Envoy asks the agent about it, beside a bare grpc.aio service that allows everything.

One Envoy with the configuration to copy and mutual TLS, in three listeners: asking nobody, the bare service, the agent.
Routes answer themselves, so that no workload is measured. The service that is asked has a core of its own; Envoy and
what sends the requests share the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import count, repeat
from pathlib import Path
from statistics import median
from typing import Any, Final

import yaml

from cli.demo.envoy import find_binary
from tests.bench.effort import FULL, QUICK, Effort
from tests.bench.machine import Cores
from tests.bench.processes import server_process, spawned
from tests.bench.push import running_agent
from tests.bench.report import Row, table
from tests.csrs import csr, new_key
from tests.end_users import AUDIENCE, ISSUER, SigningKey, jwks
from tests.servers import Member, Server, free_port, sign

_CONFIGURATION: Final = Path(__file__).resolve().parents[2] / "deploy" / "envoy" / "authorizing.yaml"
_IN_FLIGHT: Final = 32
_PATIENCE: Final = 20.0
_CALLER: Final = "spiffe://a.test/caller"


async def authorizing(folder: Path, cores: Cores, effort: Effort) -> list[Row]:
    """Milliseconds that the median request takes longer with the agent, and its rate beside the bare service's."""
    key = SigningKey.p256()
    policies = folder / "policies.json"
    folder.mkdir(parents=True)
    policies.write_text(json.dumps(_policies(key)))
    bare = folder / "bare.sock"
    asked_instead = [sys.executable, "-m", "tests.bench.bare_authorization", bare]
    settings = {"authz": {"policy_file": str(policies)}}
    async with (
        server_process(folder / "server", cores) as (server, _),
        running_agent(folder / "agent", server, cores, core=cores.server, **settings) as agent,
        spawned(asked_instead, core=cores.server, log=folder / "bare.log"),
        _envoy(folder, cores, {"nobody": None, "bare": bare, "agent": agent}) as ports,
    ):
        load = _Load(await _caller(server, folder), ports)
        known = repeat(key.token(exp=time.time() + 3600))
        unknown = (key.token(jti=str(number), exp=time.time() + 3600) for number in count())
        await load.until_served(known)
        rounds = [await _round(load, effort.seconds / 2, known, unknown) for _ in range(effort.rounds)]
    return _rows(rounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """Milliseconds of the median request of one client, and requests per second of many."""

    alone: dict[str, float]
    rate: dict[str, float]


async def _round(load: _Load, seconds: float, known: Iterator[str], unknown: Iterator[str]) -> _Round:
    alone, rate = {}, {}
    for name in ("nobody", "bare", "agent"):
        _, alone[name] = await load.measure(name, known, clients=1, seconds=seconds)
        rate[name], _ = await load.measure(name, known, clients=_IN_FLIGHT, seconds=seconds)
    rate["new tokens"], _ = await load.measure("agent", unknown, clients=_IN_FLIGHT, seconds=seconds)
    return _Round(alone=alone, rate=rate)


def _rows(rounds: list[_Round]) -> list[Row]:
    added = {name: median(each.alone[name] - each.alone["nobody"] for each in rounds) for name in ("bare", "agent")}
    rate = {name: median(each.rate[name] for each in rounds) for name in rounds[0].rate}
    share = {
        name: 100 * median(each.rate[name] / each.rate["bare"] for each in rounds) for name in ("agent", "new tokens")
    }
    without = median(each.alone["nobody"] for each in rounds)
    what = "ext_authz"
    return [
        Row(
            what=f"{what}, one client: p50 added",
            value=added["agent"],
            unit="ms",
            goal=1,
            at_most=True,
            note=f"{without:.2f} ms without it; a bare service adds {added['bare']:.2f} ms",
        ),
        Row(
            what=f"{what}, {_IN_FLIGHT} in flight: of a bare service's rate",
            value=share["agent"],
            unit="%",
            goal=70,
            note=f"{rate['agent']:,.0f}/s of {rate['bare']:,.0f}/s; {rate['nobody']:,.0f}/s without it; "
            f"a token that was not seen before in each request: {share['new tokens']:.0f} %",
            details={name: [round(each.rate[name]) for each in rounds] for name in rate},
        ),
    ]


class _Load:
    """Requests over kept connections, one after the other on each."""

    def __init__(self, context: ssl.SSLContext, ports: dict[str, int]) -> None:
        self._context = context
        self._ports = ports

    async def until_served(self, tokens: Iterator[str]) -> None:
        """Wait until every listener answers."""
        async with asyncio.timeout(_PATIENCE):
            for name in self._ports:
                while True:
                    try:
                        await self.measure(name, tokens, clients=1, seconds=0.2)
                        break
                    except (OSError, AssertionError, asyncio.IncompleteReadError):
                        await asyncio.sleep(0.1)

    async def measure(self, name: str, tokens: Iterator[str], *, clients: int, seconds: float) -> tuple[float, float]:
        """Requests per second, and the milliseconds of the median one."""
        taken: list[float] = []
        until = time.perf_counter() + seconds
        await asyncio.gather(*(self._client(self._ports[name], tokens, until, taken) for _ in range(clients)))
        return len(taken) / seconds, median(taken) * 1000

    async def _client(self, port: int, tokens: Iterator[str], until: float, taken: list[float]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=self._context)
        try:
            for each in tokens:
                request = f"GET /reviews HTTP/1.1\r\nhost: reviews.test\r\nauthorization: Bearer {each}\r\n\r\n"
                begun = time.perf_counter()
                if begun >= until:
                    return
                writer.write(request.encode())
                answer = await reader.readuntil(b"\r\n\r\n")
                taken.append(time.perf_counter() - begun)
                if not answer.startswith(b"HTTP/1.1 200"):
                    raise AssertionError(f"answered {answer[:200]!r}")
        finally:
            writer.close()


def _policies(key: SigningKey) -> dict[str, Any]:
    """Three rules, of which the last one allows the request: by peer, end user, method and path."""
    source = {"principals": [_CALLER], "requestPrincipals": [{"issuer": ISSUER, "subject": "*"}]}
    operation = {"methods": ["GET"], "paths": ["/reviews", "/reviews/*"]}
    return {
        "policies": [
            {
                "name": "reviews",
                "selectors": [f"unix:uid:{os.geteuid()}"],
                "jwtRules": [
                    {
                        "issuer": ISSUER,
                        "audiences": [AUDIENCE],
                        "jwks": json.dumps(jwks(key)),
                        "outputClaimToHeaders": [{"header": "x-end-user", "claim": "sub"}],
                    }
                ],
                "authorization": [
                    {"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/admin/*"]}}]}]},
                    {"action": "ALLOW", "rules": [{"to": [{"operation": {"paths": ["/health"]}}]}]},
                    {"action": "ALLOW", "rules": [{"from": [{"source": source}], "to": [{"operation": operation}]}]},
                ],
            }
        ]
    }


async def _caller(server: Server, folder: Path) -> ssl.SSLContext:
    """A client with an identity of this server's."""
    node = await server.join("node-2")
    await server.entry("/web", "spiffe://a.test/citadel/agent/node-1", f"unix:uid:{os.geteuid()}")
    entry = await server.entry("/caller", node)
    key = new_key()
    [result] = await sign(server.agents(node), (entry.id, csr(key)))
    caller = Member(key, tuple(result.svid.chain))
    pem = folder / "caller.pem"
    pem.write_bytes(caller.key_pem + caller.chain_pem)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(pem)
    return context


@asynccontextmanager
async def _envoy(folder: Path, cores: Cores, services: dict[str, Path | None]) -> AsyncIterator[dict[str, int]]:
    """One Envoy with a listener for each service that is asked; yields their ports."""
    ports = {name: free_port() for name in services}
    config = folder / "envoy.json"
    config.write_text(json.dumps(_configuration(services, ports)))
    command = [find_binary(), "-c", config, "--disable-hot-restart", "--concurrency", "1", "-l", "error"]
    async with spawned(command, core=cores.load, log=folder / "envoy.log"):
        yield ports


def _configuration(services: dict[str, Path | None], ports: dict[str, int]) -> dict[str, Any]:
    """The configuration to copy, with a listener and a cluster for each service."""
    bootstrap: dict[str, Any] = yaml.safe_load(_CONFIGURATION.read_text())
    del bootstrap["admin"]
    resources = bootstrap["static_resources"]
    [listener] = resources["listeners"]
    [agent] = [each for each in resources["clusters"] if each["name"] == "citadel_agent"]
    resources["listeners"], resources["clusters"] = [], [agent]
    for name, socket in services.items():
        made = deepcopy(listener)
        made["name"] = name
        made["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": ports[name]}
        [filters] = made["filter_chains"]
        context = filters["transport_socket"]["typed_config"]["common_tls_context"]["combined_validation_context"]
        context["default_validation_context"]["match_typed_subject_alt_names"][0]["matcher"] = {"exact": _CALLER}
        manager = filters["filters"][0]["typed_config"]
        answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
        manager["route_config"]["virtual_hosts"][0]["routes"] = [answer]
        ext_authz, *_ = manager["http_filters"]
        if socket is None:
            manager["http_filters"].remove(ext_authz)
        else:
            ext_authz["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] = f"asked_{name}"
            resources["clusters"].append(_at(deepcopy(agent), f"asked_{name}", socket))
        resources["listeners"].append(made)
    _at(agent, agent["name"], services["agent"])
    return bootstrap


def _at(cluster: dict[str, Any], name: str, socket: Path | None) -> dict[str, Any]:
    cluster["name"] = cluster["load_assignment"]["cluster_name"] = name
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    endpoint["address"]["pipe"]["path"] = str(socket)
    return cluster


def main() -> None:
    """Measure this alone, and print it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.authorizing")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    cores = Cores.of_this_machine()
    os.sched_setaffinity(0, {cores.load})
    with tempfile.TemporaryDirectory(prefix="citadel-bench-") as folder:
        rows = asyncio.run(authorizing(Path(folder) / "authorizing", cores, QUICK if asked.quick else FULL))
    print(table(rows))  # noqa: T201 - what this command is for


if __name__ == "__main__":
    main()
