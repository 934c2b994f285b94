"""An agent in this process that has joined a real server, and the Workload API as a program calls it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from grpc import aio

from citadel._wire import admin_pb2, types_pb2, workload_pb2, workload_pb2_grpc
from cli.agent_process import run_agent
from sds.settings import AgentSettings
from tests.agents import RunningAgent
from tests.servers import Server

HEADER: Final = (("workload.spiffe.io", "true"),)
MYSELF: Final = f"unix:uid:{os.geteuid()}"
SOMEBODY_ELSE: Final = f"unix:uid:{os.geteuid() + 1}"

_PATIENCE: Final = 20.0


class Call:
    """One stream of the Workload API, read message by message."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def read(self, *, within: float = 10) -> Any:
        """The next message; what ended the stream is raised as an `AioRpcError`."""
        async with asyncio.timeout(within):
            message = await self._call.read()
        assert message is not aio.EOF, "the stream ended without an error"
        return message

    async def end(self) -> None:
        """Read to the end, which is raised as an `AioRpcError`."""
        while True:
            await self.read()

    async def is_silent(self, *, for_seconds: float = 0.3) -> bool:
        """Whether nothing comes. The last thing to ask: it ends the call."""
        try:
            await self.read(within=for_seconds)
        except TimeoutError:
            return True
        return False

    def cancel(self) -> None:
        self._call.cancel()


@dataclass
class Workload:
    """A program on the node: this process, by one connection to a socket."""

    channel: aio.Channel

    @property
    def api(self) -> Any:
        return workload_pb2_grpc.SpiffeWorkloadAPIStub(self.channel)

    def svids(self, metadata: Sequence[tuple[str, str]] = HEADER) -> Call:
        return Call(self.api.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=metadata))

    def bundles(self, metadata: Sequence[tuple[str, str]] = HEADER) -> Call:
        return Call(self.api.FetchX509Bundles(workload_pb2.X509BundlesRequest(), metadata=metadata))

    def jwt_bundles(self, metadata: Sequence[tuple[str, str]] = HEADER) -> Call:
        return Call(self.api.FetchJWTBundles(workload_pb2.JWTBundlesRequest(), metadata=metadata))

    async def tokens(self, *audience: str, spiffe_id: str = "") -> workload_pb2.JWTSVIDResponse:
        request = workload_pb2.JWTSVIDRequest(audience=audience, spiffe_id=spiffe_id)
        answer: workload_pb2.JWTSVIDResponse = await self.api.FetchJWTSVID(request, metadata=HEADER, timeout=20)
        return answer

    async def judge(self, token: str, audience: str) -> workload_pb2.ValidateJWTSVIDResponse:
        request = workload_pb2.ValidateJWTSVIDRequest(svid=token, audience=audience)
        answer: workload_pb2.ValidateJWTSVIDResponse = await self.api.ValidateJWTSVID(request, metadata=HEADER)
        return answer


@asynccontextmanager
async def workload_at(socket: Path) -> AsyncIterator[Workload]:
    async with aio.insecure_channel(f"unix:{socket}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield Workload(channel)


@dataclass(frozen=True)
class Agent:
    """An agent and the server that it has joined."""

    server: Server
    running: RunningAgent

    @property
    def socket(self) -> Path:
        return self.running.settings.socket

    async def stop(self) -> None:
        self.running.stop.set()
        await self.running.process

    async def entry(self, path: str, *selectors: str, **fields: Any) -> types_pb2.Entry:
        """A new entry of this agent, for this process unless selectors are given."""
        return await self.server.entry(path, str(self.running.spiffe_id), *(selectors or (MYSELF,)), **fields)

    async def delete(self, entry: types_pb2.Entry) -> None:
        await self.server.admin().DeleteEntry(admin_pb2.DeleteEntryRequest(id=entry.id))


@asynccontextmanager
async def started_again(settings: AgentSettings) -> AsyncIterator[None]:
    """Run a stopped agent once more; its server need not be there."""
    stop = asyncio.Event()
    process = asyncio.create_task(run_agent(settings, stop=stop))
    try:
        async with asyncio.timeout(_PATIENCE):
            while not settings.socket.exists():
                if process.done():
                    await process
                await asyncio.sleep(0.01)
        yield
    finally:
        stop.set()
        await process
