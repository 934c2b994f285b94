"""An agent's Workload API, played by hand: it gives out what it is told to, or denies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from grpc import aio

from citadel._wire import workload_pb2 as pb
from citadel._wire import workload_pb2_grpc
from citadel.bundle import TrustBundle
from tests.servers import Member


class WorkloadEndpoint(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    """Answers every caller with the same, and again whenever that changes; without anything to give it denies."""

    def __init__(self) -> None:
        self._given: pb.X509SVIDResponse | None = None
        self._news = asyncio.Condition()
        self.streams = 0

    async def give(self, member: Member, bundle: TrustBundle) -> None:
        key = member.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        authorities = b"".join(each.public_bytes(Encoding.DER) for each in bundle.x509_authorities)
        svid = pb.X509SVID(
            spiffe_id=member.spiffe_id, x509_svid=b"".join(member.chain), x509_svid_key=key, bundle=authorities
        )
        await self._set(pb.X509SVIDResponse(svids=[svid]))

    async def deny(self) -> None:
        """The entry is gone."""
        await self._set(None)

    async def _set(self, given: pb.X509SVIDResponse | None) -> None:
        async with self._news:
            self._given = given
            self._news.notify_all()

    async def FetchX509SVID(  # noqa: N802 - gRPC's name for it
        self, request: Any, context: Any
    ) -> AsyncIterator[pb.X509SVIDResponse]:
        del request
        if ("workload.spiffe.io", "true") not in context.invocation_metadata():
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing")
        self.streams += 1
        told: object = self  # nothing yet
        while True:
            async with self._news:
                if self._given is told:
                    await self._news.wait()
                given = self._given
            if given is None:
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
            told = given
            yield given


@asynccontextmanager
async def workload_endpoint(socket: Path, endpoint: WorkloadEndpoint) -> AsyncIterator[None]:
    """It listens within this; afterwards nobody answers there."""
    server = aio.server()
    workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(endpoint, server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)
        socket.unlink(missing_ok=True)
