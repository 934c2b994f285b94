"""The gRPC border: what crosses it arrives whole, and what a stranger sends does not break it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status

from citadel.errors import CitadelError, InvalidArgument, Reason, Unauthenticated
from citadel.rpc import ErrorBorder, from_rpc_error

KEY = "grpc-status-details-bin"
LONG = "ä" * 20_000
_PATIENCE = 10.0


class PanicError(BaseException):
    """As what is written in Rust raises it."""


@asynccontextmanager
async def refused_with(error: BaseException, folder: Path) -> AsyncIterator[aio.AioRpcError]:
    """What a client gets from a handler that raises `error`."""

    async def handle(_: bytes, __: Any) -> bytes:
        raise error

    async def stream(_: bytes, __: Any) -> AsyncIterator[bytes]:
        raise error
        yield b""  # makes this the generator that gRPC expects

    server = aio.server(interceptors=[ErrorBorder()])
    handlers = {
        "Ask": grpc.unary_unary_rpc_method_handler(handle),
        "Follow": grpc.unary_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
    server.add_insecure_port(f"unix:{folder}/rpc.sock")
    await server.start()
    try:
        async with aio.insecure_channel(f"unix:{folder}/rpc.sock") as channel:
            with pytest.raises(aio.AioRpcError) as refused:
                await channel.unary_unary("/test.Test/Ask")(b"", timeout=_PATIENCE)
            with pytest.raises(aio.AioRpcError) as ended:
                await anext(aiter(channel.unary_stream("/test.Test/Follow")(b"", timeout=_PATIENCE)))
            assert (ended.value.code(), ended.value.details()) == (refused.value.code(), refused.value.details())
            yield refused.value
    finally:
        await server.stop(None)


@pytest.mark.invariant(10)
@pytest.mark.parametrize("fix", ["", "name it otherwise; and soon"])
@pytest.mark.parametrize("message", ["it is wrong", "it is wrong: 'ä\n'; and more"])
async def test_a_refusal_crosses_whole(tmp_path: Path, message: str, fix: str) -> None:
    error = Unauthenticated(Reason.TOKEN_USED, message, fix=fix)
    async with refused_with(error, tmp_path) as status:
        got = from_rpc_error(status)
        assert (type(got), got.reason, got.message, got.fix) == (Unauthenticated, Reason.TOKEN_USED, message, fix)
        assert status.details() == str(error)


@pytest.mark.invariant(10)
@pytest.mark.parametrize("fix", ["", "do this", LONG])
async def test_a_long_message_is_cut_and_keeps_its_reason(tmp_path: Path, fix: str) -> None:
    async with refused_with(InvalidArgument(Reason.ENTRY_BAD_DNS_NAME, LONG, fix=fix), tmp_path) as status:
        got = from_rpc_error(status)
        assert (type(got), got.reason) == (InvalidArgument, Reason.ENTRY_BAD_DNS_NAME)
        assert got.message.startswith("äää")
        assert got.message.endswith("…")
        assert got.fix.startswith(fix[:7])
        assert len((got.message + got.fix).encode()) <= 1024


@pytest.mark.invariant(10)
@pytest.mark.parametrize("error", [KeyError("secret"), PanicError("secret")])
async def test_whatever_is_raised_is_answered_without_its_words(tmp_path: Path, error: BaseException) -> None:
    async with refused_with(error, tmp_path) as status:
        assert (status.code(), status.details()) == (
            grpc.StatusCode.INTERNAL,
            "internal error; see the log of this process",
        )


async def test_other_clients_can_read_the_details(tmp_path: Path) -> None:
    async with refused_with(InvalidArgument(Reason.CSR_MALFORMED, LONG, fix="send DER"), tmp_path) as status:
        read = await rpc_status.aio.from_call(_call(status))
        info = error_details_pb2.ErrorInfo()
        assert read is not None
        assert read.details[0].Unpack(info)
        assert (info.reason, info.domain) == ("csr_malformed", "citadel")


def _call(error: aio.AioRpcError) -> Any:
    class Call:
        async def trailing_metadata(self) -> Any:
            return error.trailing_metadata()

        async def code(self) -> Any:
            return error.code()

        async def details(self) -> Any:
            return error.details()

    return Call()


def _strange(details: bytes) -> aio.AioRpcError:
    return aio.AioRpcError(grpc.StatusCode.NOT_FOUND, aio.Metadata(), aio.Metadata((KEY, details)), "no such thing")


@pytest.mark.parametrize(
    "details",
    [
        b"\xff\xff\xff",
        status_pb2.Status(
            details=[any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")]
        ).SerializeToString(),
        status_pb2.Status(code=5, message="no such thing").SerializeToString(),
        b"",
    ],
)
def test_details_that_are_none_of_ours_leave_the_status(details: bytes) -> None:
    got = from_rpc_error(_strange(details))
    assert isinstance(got, CitadelError)
    assert (got.kind.value, got.reason, got.message) == ("NOT_FOUND", Reason.INTERNAL, "no such thing")
