"""An authorization service that lets everything through: what grpc.aio alone can do. Argument: the Unix socket."""

# ruff: noqa: N802, ARG002 - the shape of the generated servicer

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from grpc import aio

_OK: Final = external_auth_pb2.CheckResponse(ok_response=external_auth_pb2.OkHttpResponse())


class _Bare(external_auth_pb2_grpc.AuthorizationServicer):
    async def Check(self, request: Any, context: Any) -> Any:
        return _OK


async def serve(socket: str) -> None:
    """Serve until the process is ended."""
    server = aio.server()
    external_auth_pb2_grpc.add_AuthorizationServicer_to_server(_Bare(), server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
