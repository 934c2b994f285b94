"""Awaiting an answer from the server, with its refusals as our errors."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import grpc
from grpc import aio

from citadel.errors import Reason, Unavailable
from citadel.rpc import from_rpc_error

_Answer = TypeVar("_Answer")


async def answer_of(call: aio.UnaryUnaryCall[Any, _Answer]) -> _Answer:
    """The answer to a unary call. Raises the `CitadelError` that the server's status means."""
    try:
        return await call
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
    except asyncio.CancelledError:
        # grpc.aio raises this also where only the call was cancelled, because its channel was closed under it.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise Unavailable(Reason.SERVER_UNREACHABLE, "the connection was closed during the call") from None
