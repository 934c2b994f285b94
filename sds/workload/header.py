"""The security header: what keeps a browser or a proxy that is led astray from asking for identities."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import grpc

from citadel._wire import workload_pb2
from citadel.errors import InvalidArgument, Reason
from citadel.interceptor import Handler
from citadel.rpc import ErrorBorder

SERVICE_NAME: Final = workload_pb2.DESCRIPTOR.services_by_name["SpiffeWorkloadAPI"].full_name
HEADER: Final = ("workload.spiffe.io", "true")

_METHODS: Final = f"/{SERVICE_NAME}/"


class SecurityHeader:
    """Refuses calls of the Workload API without the header exactly once with exactly its value (WEP-06, WEP-07).

    Also calls of methods that the service does not have, so that a later one cannot be forgotten. What else is served
    on the same socket is not the Workload API and needs no header.
    """

    def __init__(self, border: ErrorBorder) -> None:
        """`border` turns the refusal into a status."""
        self._refusal = border.wrap(_METHODS, _REFUSAL)

    def refusal_of(self, details: grpc.HandlerCallDetails) -> Handler | None:
        """What answers in the place of the method; None where the call may go on."""
        if not str(details.method).startswith(_METHODS) or has_header(details.invocation_metadata or ()):
            return None
        return self._refusal


def has_header(metadata: Iterable[tuple[str, str | bytes]]) -> bool:
    """Whether the header stands in `metadata` once, with its value; the value is case-sensitive."""
    name, value = HEADER
    return [found for key, found in metadata if key == name] == [value]


async def _refuse(request: Any, context: Any) -> AsyncIterator[bytes]:
    del request, context
    name, value = HEADER
    raise InvalidArgument(
        Reason.SECURITY_HEADER_MISSING,
        f"the call must carry the metadata `{name}: {value}` exactly once",
        fix="use a SPIFFE library, or send this metadata",
    )
    yield b""  # makes this the generator that gRPC expects


# On the wire every kind of call is a stream of requests and one of responses.
_REFUSAL: Final[grpc.RpcMethodHandler[Any, Any]] = grpc.stream_stream_rpc_method_handler(_refuse)
