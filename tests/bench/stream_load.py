"""Proxies by the thousand, as a process of their own: SDS streams that take each push and acknowledge it.

Speaks lines of JSON: says `{"filled": seconds}` once every stream has its first secret, and for each line that it reads
`{"received": [moments]}` once every stream has the next one. Moments are of the clock that all processes share.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.secret.v3 import sds_pb2_grpc
from grpc import aio

from cli.limits import raise_open_files
from sds.serve.resource import SECRET_TYPE_URL

_OPENING_AT_ONCE = 64
# Every channel a connection, as every Envoy has its own; nothing is looked up, nothing tried over a proxy. Windows are
# as wide as Envoy's, so that a large secret goes out at once.
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.http2.lookahead_bytes", 16 * 1024 * 1024),
)


class Swarm:
    """`streams` streams of `name`, `per_connection` on each connection."""

    def __init__(self, address: str, *, streams: int, per_connection: int, name: str, is_delta: bool) -> None:
        self._address = address
        self._streams = streams
        self._per_connection = per_connection
        self._name = name
        self._is_delta = is_delta
        self._received: list[float] = []
        self._all = asyncio.Event()
        self._opening = asyncio.Semaphore(_OPENING_AT_ONCE)
        self._channel: aio.Channel | None = None

    async def run(self) -> None:
        """Open the streams and report each round, until standard input ends."""
        begun = time.monotonic()
        running = []
        for number in range(self._streams):
            if number % self._per_connection == 0:
                self._channel = aio.insecure_channel(self._address, options=_OPTIONS)
            await self._opening.acquire()
            running.append(asyncio.create_task(self._serve(self._channel)))
        _say(filled=(await self._round())[-1] - begun)
        while await asyncio.to_thread(sys.stdin.readline):
            _say(received=await self._round())
        for task in running:
            task.cancel()

    async def _round(self) -> list[float]:
        await self._all.wait()
        self._all.clear()
        received, self._received = self._received, []
        return received

    async def _serve(self, channel: Any) -> None:
        stub = sds_pb2_grpc.SecretDiscoveryServiceStub(channel)
        call: Any = stub.DeltaSecrets() if self._is_delta else stub.StreamSecrets()
        await call.write(self._subscription())
        is_first = True
        while (response := await call.read()) is not aio.EOF:
            self._received.append(time.monotonic())
            if len(self._received) == self._streams:
                self._all.set()
            if is_first:
                self._opening.release()
                is_first = False
            await call.write(self._acknowledgement(response))

    def _subscription(self) -> Any:
        if self._is_delta:
            return discovery_pb2.DeltaDiscoveryRequest(type_url=SECRET_TYPE_URL, resource_names_subscribe=[self._name])
        return discovery_pb2.DiscoveryRequest(type_url=SECRET_TYPE_URL, resource_names=[self._name])

    def _acknowledgement(self, response: Any) -> Any:
        if self._is_delta:
            return discovery_pb2.DeltaDiscoveryRequest(type_url=SECRET_TYPE_URL, response_nonce=response.nonce)
        return discovery_pb2.DiscoveryRequest(
            type_url=SECRET_TYPE_URL,
            resource_names=[self._name],
            version_info=response.version_info,
            response_nonce=response.nonce,
        )


def _say(**what: object) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201 - what this process is for


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--per-connection", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--delta", action="store_true")
    asked = parser.parse_args()
    raise_open_files()
    swarm = Swarm(
        asked.address,
        streams=asked.streams,
        per_connection=asked.per_connection,
        name=asked.name,
        is_delta=asked.delta,
    )
    asyncio.run(swarm.run())


if __name__ == "__main__":
    main()
