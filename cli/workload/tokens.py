"""The tokens that a workload is told over the Workload API, parsed and checked at the border."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from citadel._wire import workload_pb2 as pb
from citadel.errors import CitadelError, InvalidArgument, Reason
from citadel.jws import Jws


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadToken:
    """A JWT-SVID of this workload, as its agent gave it."""

    token: str = field(repr=False)
    jws: Jws
    hint: str = ""


def parse_tokens(message: pb.JWTSVIDResponse) -> Sequence[WorkloadToken]:
    """The values of a response, the default identity's first.

    Raises `InvalidArgument` (`svid_malformed`) where a mandatory field is not set or is not what it should be: such a
    message is reported and discarded (WAPI-14).
    """
    if not message.svids:
        raise _malformed("it has no SVID")
    tokens, seen = [], set[str]()
    for each in message.svids:
        if each.hint and each.hint in seen:  # WAPI-24
            continue
        seen.add(each.hint)
        tokens.append(WorkloadToken(token=each.svid, jws=_read(each), hint=each.hint))
    return tokens


def _read(message: pb.JWTSVID) -> Jws:
    try:
        jws = Jws.read(message.svid)
    except CitadelError as error:
        raise _malformed(error.message) from error
    if not message.spiffe_id or jws.claims.get("sub") != message.spiffe_id:
        raise _malformed(f"the token of {message.spiffe_id or 'nobody'} has another subject")
    return jws


def _malformed(problem: str) -> CitadelError:
    return InvalidArgument(Reason.SVID_MALFORMED, f"the Workload API's answer cannot be used: {problem}")
