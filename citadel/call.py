"""Awaiting an answer from the server, with its refusals as our errors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
from grpc import aio

from citadel.errors import Reason, Unavailable
from citadel.rpc import from_rpc_error

_Answer = TypeVar("_Answer")


async def answer_of(call: aio.UnaryUnaryCall[Any, _Answer]) -> _Answer:
    """The answer to a unary call. Raises the `CitadelError` that the server's status means."""
    with errors_of_call("the connection was closed during the call"):
        return await call


@contextmanager
def errors_of_call(if_given_up: str) -> Iterator[None]:
    """Raises what an error of the call within means; `if_given_up` says what ended it where this side did."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
    except asyncio.CancelledError:
        # grpc.aio raises this also where only the call was cancelled: its channel was closed under it, or what it had
        # to send failed, which it has logged.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise Unavailable(Reason.SERVER_UNREACHABLE, if_given_up) from None
