"""The gRPC border: errors become statuses here, and statuses errors, and nowhere else.

A refusal crosses as a status whose details hold a `google.rpc.ErrorInfo` with the reason code, the form that every gRPC
client knows. An error that Citadel did not raise on purpose crosses as `INTERNAL` without its text, which could tell a
caller what it must not know.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, NoReturn

import grpc
import structlog
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from citadel import errors
from citadel.errors import CitadelError, Reason
from citadel.interceptor import WrappingInterceptor, messages_of
from citadel.unexpected import ASKS_TO_END

ERROR_DOMAIN: Final = "citadel"
_DETAILS_KEY: Final = "grpc-status-details-bin"
# gRPC's peers take 8 KiB of metadata. A text crosses twice: percent-encoded, up to three times as long, and in base64.
_MOST_TEXT_BYTES: Final = 1024
_MOST_FIX_BYTES: Final = 256
_SEPARATOR: Final = "; "

_log = structlog.get_logger(__name__)

_BY_KIND: Final[dict[errors.Kind, type[CitadelError]]] = {
    error.kind: error
    for error in (
        errors.InvalidArgument,
        errors.Unauthenticated,
        errors.PermissionDenied,
        errors.NotFound,
        errors.AlreadyExists,
        errors.FailedPrecondition,
        errors.ResourceExhausted,
        errors.Unavailable,
    )
}

OnRefusal = Callable[[str, CitadelError], None]


class ErrorBorder(WrappingInterceptor):
    """Turns what a handler raises into a gRPC status, and tells `on_refusal` (method, error) about each refusal."""

    def __init__(self, *, on_refusal: OnRefusal | None = None) -> None:
        super().__init__()
        self._on_refusal = on_refusal

    def unary(self, method: str, behaviour: Any) -> Callable[[Any, Any], Awaitable[Any]]:
        async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            try:
                return await behaviour(request, context)
            except ASKS_TO_END:
                raise
            except BaseException as error:  # noqa: BLE001 - the border: whatever it is, it becomes a status
                await self._abort(method, context, error)

        return call

    def streaming(self, method: str, behaviour: Any) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            try:
                async for message in messages_of(behaviour, request, context):
                    yield message
            except ASKS_TO_END:
                raise
            except BaseException as error:  # noqa: BLE001 - the border: whatever it is, it becomes a status
                await self._abort(method, context, error)

        return call

    def tell(self, method: str, context: Any, error: CitadelError) -> None:  # noqa: ARG002 - for subclasses
        """Tell a refusal. A subclass that tells whose call it was learns that from `context`."""
        if self._on_refusal is not None:
            self._on_refusal(method, error)

    async def _abort(self, method: str, context: aio.ServicerContext[Any, Any], error: BaseException) -> NoReturn:
        if isinstance(error, aio.AbortError):
            raise error
        if isinstance(error, DecodeError):  # what came as a stream is read while the handler runs
            error = errors.InvalidArgument(Reason.REQUEST_MALFORMED, "a message is not what its method takes")
        if isinstance(error, CitadelError):
            self.tell(method, context, error)
        else:
            _log.error("unexpected error in a handler", method=method, exc_info=error)
            error = CitadelError(Reason.INTERNAL, "internal error", fix="see the log of this process")
        code, text, fix = status_code(error), *_carried(error)
        details = _details(code, error.reason, text, fix)
        await context.abort(code, text, trailing_metadata=((_DETAILS_KEY, details),))


def status_code(error: CitadelError) -> grpc.StatusCode:
    """The gRPC status code of a refusal."""
    return grpc.StatusCode[error.kind.value]


def from_rpc_error(error: grpc.RpcError) -> CitadelError:
    """What a peer's status means to us: its own refusal where it sent one, otherwise `Unavailable` or the root."""
    if not isinstance(error, aio.AioRpcError):
        return errors.Unavailable(Reason.SERVER_UNREACHABLE, str(error))
    info = _error_info(error)
    if info is None:
        return _without_info(error.code(), error.details() or error.code().name)
    fix = info.metadata.get("fix", "")
    message = (error.details() or error.code().name).removesuffix(f"{_SEPARATOR}{fix}")
    return make_error(error.code().name, reason_of(info.reason), message, fix=fix)


def make_error(code: str, reason: Reason, message: str, *, fix: str = "") -> CitadelError:
    """The error of the kind named `code`, or the root where the code is none of ours."""
    try:
        return _BY_KIND[errors.Kind(code)](reason, message, fix=fix)
    except (ValueError, KeyError):
        return CitadelError(reason, message, fix=fix)


def reason_of(code: str) -> Reason:
    """A peer's reason code as ours."""
    try:
        return Reason(code)
    except ValueError:  # a newer peer's reason: the kind still says what can be done
        return Reason.INTERNAL


def _without_info(code: grpc.StatusCode, message: str) -> CitadelError:
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        return errors.Unavailable(Reason.SERVER_UNREACHABLE, message)
    return make_error(code.name, Reason.INTERNAL, message)


def _carried(error: CitadelError) -> tuple[str, str]:
    """Message and fix as one text that a status can carry, and the fix in it."""
    fix = _cut(error.fix, _MOST_FIX_BYTES)
    message = _cut(error.message, _MOST_TEXT_BYTES - len(fix.encode()))
    return (f"{message}{_SEPARATOR}{fix}" if fix else message), fix


def _cut(text: str, most_bytes: int) -> str:
    encoded = text.encode(errors="replace")
    if len(encoded) <= most_bytes:
        return encoded.decode()
    return encoded[: most_bytes - len("…".encode())].decode(errors="ignore") + "…"


def _details(code: grpc.StatusCode, reason: Reason, text: str, fix: str) -> bytes:
    info = error_details_pb2.ErrorInfo(reason=reason.value, domain=ERROR_DOMAIN, metadata={"fix": fix} if fix else {})
    packed = any_pb2.Any()
    packed.Pack(info)
    # The text must be the status' own: clients such as `grpc_status.rpc_status` refuse one that differs.
    return bytes(status_pb2.Status(code=code.value[0], message=text, details=[packed]).SerializeToString())


def _error_info(error: aio.AioRpcError) -> error_details_pb2.ErrorInfo | None:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            with suppress(DecodeError):  # a proxy in between may have put its own there
                return _our_info(value)
    return None


def _our_info(details: bytes) -> error_details_pb2.ErrorInfo | None:
    info = error_details_pb2.ErrorInfo()
    for detail in status_pb2.Status.FromString(details).details:
        if detail.Unpack(info) and info.domain == ERROR_DOMAIN:
            return info
    return None
