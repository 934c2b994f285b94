"""What is answered to the proxy, and by it to the caller (pure)."""

from __future__ import annotations

import re
from typing import Any, Final

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2

from citadel.errors import CitadelError, Kind, Reason
from citadel.jwt.forwarding import Changes

REASON_HEADER: Final = "x-citadel-reason"
_REALM: Final = 'Bearer realm="citadel"'
# RFC 6750 section 3: what error_description may hold.
_NOT_DESCRIBED: Final = re.compile(r"[^\x20-\x21\x23-\x5B\x5D-\x7E]")
_LONGEST_DESCRIPTION: Final = 200
_STATUS: Final = {Kind.UNAUTHENTICATED: 401, Kind.UNAVAILABLE: 503}
_FORBIDDEN: Final = 403
_OVERWRITE: Final = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


def allowed(changes: Changes) -> Any:
    """A `CheckResponse` that lets the request through, changed so."""
    return external_auth_pb2.CheckResponse(
        ok_response=external_auth_pb2.OkHttpResponse(
            headers=[_header(name, value) for name, value in changes.set_headers.items()],
            headers_to_remove=changes.remove_headers,
            query_parameters_to_remove=changes.remove_query_parameters,
        )
    )


def refused(error: CitadelError) -> Any:
    """A `CheckResponse` that says why to the caller, in few words: it may be anybody."""
    status = _STATUS.get(error.kind, _FORBIDDEN)
    headers = [_header(REASON_HEADER, error.reason.value)]
    if status == _STATUS[Kind.UNAUTHENTICATED]:
        headers.append(_header("www-authenticate", _challenge(error)))
    response = external_auth_pb2.CheckResponse(
        denied_response=external_auth_pb2.DeniedHttpResponse(headers=headers, body=f"refused: {error.reason.value}\n")
    )
    response.status.code = grpc.StatusCode[error.kind.value].value[0]
    response.denied_response.status.code = status
    return response


def _challenge(error: CitadelError) -> str:
    """RFC 6750 section 3.1: without a token the caller is told of no error."""
    if error.reason is Reason.SIGN_IN_REQUIRED:
        return _REALM
    words = _NOT_DESCRIBED.sub("'", error.message)[:_LONGEST_DESCRIPTION]
    return f'{_REALM}, error="invalid_token", error_description="{words}"'


def _header(name: str, value: str) -> Any:
    return base_pb2.HeaderValueOption(header=base_pb2.HeaderValue(key=name, value=value), append_action=_OVERWRITE)
