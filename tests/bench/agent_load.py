"""Agents by the thousand, as a process of their own: each joins with its token and keeps SVIDs for its entries.

Reads one line of JSON, who they are. Speaks lines of JSON: `{"filled": seconds}` once every agent holds all of its
SVIDs, and for each line that it reads how many SVIDs are held under each authority: `{"issuers": {key id: count}}`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import SystemRandom
from typing import Any, Final

import structlog

from citadel._wire import bootstrap_pb2, bootstrap_pb2_grpc
from citadel.bundle import TrustBundle
from citadel.config.types import HostPort, LogSettings
from citadel.logs import configure
from citadel.server_channel import anonymous_channel
from citadel.spiffe import TrustDomain
from citadel.svid import X509Svid
from cli.limits import raise_open_files
from sds.keep.keys import new_key, request_for
from sds.link.identity import AgentIdentity
from sds.settings import ReconnectSettings
from tests.bench.simulated_agent import SimulatedAgent

_JOINING_AT_ONCE: Final = 8  # the server takes sixteen calls of one stranger
_FILLING_AT_ONCE: Final = 16

_log = structlog.get_logger(__name__)


class Swarm:
    """All the agents."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self._trust_domain = TrustDomain.parse(told["trust_domain"])
        self._bundle = TrustBundle.from_json(self._trust_domain, told["bundle"].encode())
        self._bootstrap, self._agents_at = HostPort.parse(told["bootstrap"]), HostPort.parse(told["agents"])
        self._tokens: Sequence[str] = told["tokens"]
        self._entries: int = told["entries"]
        self._sidecars: int = told["sidecars"]
        self._agents: list[SimulatedAgent] = []
        self._filling = asyncio.Semaphore(_FILLING_AT_ONCE)

    async def run(self) -> None:
        """Join, fill, and answer until standard input ends."""
        begun, joining = time.monotonic(), asyncio.Semaphore(_JOINING_AT_ONCE)
        channel = anonymous_channel(self._bootstrap, roots_pem=self._bundle.to_pem(), reconnect=ReconnectSettings())
        api = bootstrap_pb2_grpc.BootstrapStub(channel)

        async def joined(token: str) -> AgentIdentity:
            async with joining:
                return await self._join(api, token)

        async with channel:
            identities = await asyncio.gather(*map(joined, self._tokens))
        running = []
        for identity in identities:
            # One that waits for its first SVIDs at the end of a long queue would give up and ask again.
            await self._filling.acquire()
            agent = SimulatedAgent(identity, sidecars=self._sidecars, random=SystemRandom())
            self._agents.append(agent)
            running += [asyncio.create_task(self._serve(agent)), asyncio.create_task(self._fill(agent))]
        await asyncio.gather(*(agent.has(self._entries) for agent in self._agents))
        _say(filled=time.monotonic() - begun)
        with ThreadPoolExecutor(max_workers=1) as ears:
            while await asyncio.get_running_loop().run_in_executor(ears, sys.stdin.readline):
                _say(issuers=self._issuers())
        for task in running:
            task.cancel()

    async def _join(self, api: Any, token: str) -> AgentIdentity:
        key = new_key("ec-p256")
        answer = await api.Join(bootstrap_pb2.JoinRequest(token=token, csr=request_for(key)))
        return AgentIdentity(
            svid=X509Svid.from_der(answer.chain),
            key=key,
            bundle=self._bundle,
            agent_api=self._agents_at,
            bootstrap=self._bootstrap,
        )

    async def _fill(self, agent: SimulatedAgent) -> None:
        await agent.has(self._entries)
        self._filling.release()

    async def _serve(self, agent: SimulatedAgent) -> None:
        try:
            await agent.run()
        except Exception:
            _log.exception("a simulated agent failed")
            raise

    def _issuers(self) -> Mapping[str, int]:
        return Counter(each.issuer.hex() for agent in self._agents for each in agent.held.values())


def _say(**what: object) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201 - what this process is for


def _main() -> None:
    told = json.loads(sys.stdin.readline())
    raise_open_files()
    configure(LogSettings(level="warning"))
    asyncio.run(Swarm(told).run())


if __name__ == "__main__":
    _main()
