"""The two calls of the JWT profile that are answered once: a token for the caller, and whether a token is good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from google.protobuf.struct_pb2 import Struct

from citadel._wire import workload_pb2 as pb
from citadel.clock import Clock
from citadel.entry import Entry
from citadel.errors import (
    CitadelError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Reason,
    Unauthenticated,
    Unavailable,
)
from citadel.jwt_svid import JwtSvid, verify_jwt_svid
from citadel.peer import Caller
from citadel.spiffe import SpiffeId
from sds.tokens.keeper import TokenKeeper, is_final
from sds.workload.entitlement import Entitlement

# Readers of messages take 100 in one another, and a level of claims is three.
_DEEPEST: Final = 30


class JwtCalls:
    """Fulfils FetchJWTSVID and ValidateJWTSVID. `docs/decisions/0031` says what was decided beside the standard."""

    def __init__(self, *, entitlement: Entitlement, keeper: TokenKeeper, clock: Clock) -> None:
        self._entitlement = entitlement
        self._keeper = keeper
        self._clock = clock

    async def fetch(self, request: pb.JWTSVIDRequest, caller: Caller) -> pb.JWTSVIDResponse:
        """A token of each of the caller's identities, or of the one that is named (WAPI-31 to 35)."""
        audience = tuple(dict.fromkeys(request.audience))
        if not audience or "" in audience:  # WAPI-13
            raise _unset("audience")
        named = SpiffeId.parse(request.spiffe_id) if request.spiffe_id else None
        entries = await self._entries(caller, named)
        results = await self._keeper.tokens(entries, audience, party=caller.party)
        # While a token was waited for, its entry may have become somebody else's.
        still = {entry.spiffe_id for entry in await self._entries(caller, named)}
        return _response([pair for pair in zip(entries, results, strict=True) if pair[0].spiffe_id in still])

    async def _entries(self, caller: Caller, named: SpiffeId | None) -> Sequence[Entry]:
        """One for each identity that the caller has now, or for the one that is named."""
        _, snapshot = await self._entitlement.look(caller)
        entries = [entry for entry in snapshot.identities if named in (None, entry.spiffe_id)]
        if not entries:
            raise PermissionDenied(Reason.NO_IDENTITY, f"no entry gives the caller the identity {named}")
        return entries

    async def validate(self, request: pb.ValidateJWTSVIDRequest, caller: Caller) -> pb.ValidateJWTSVIDResponse:
        """Whether the token is good for the audience, by what the caller may trust (WAPI-38 to 41)."""
        for name in ("audience", "svid"):
            if not getattr(request, name):
                raise _unset(name)
        _, snapshot = await self._entitlement.look(caller)
        try:
            svid = verify_jwt_svid(request.svid, snapshot.trusted, request.audience, self._clock.now())
        except Unauthenticated as error:  # the caller is who it is: its argument is not good
            raise InvalidArgument(error.reason, error.message, fix=error.fix) from error
        if self._entitlement.is_revoked(svid.spiffe_id):
            raise InvalidArgument(Reason.IDENTITY_REVOKED, f"{svid.spiffe_id} was revoked")
        return pb.ValidateJWTSVIDResponse(spiffe_id=str(svid.spiffe_id), claims=claims_struct(svid.claims))


def claims_struct(claims: Mapping[str, Any]) -> Struct:
    """The claims as the standard's message holds them, where every number is a double.

    Raises `InvalidArgument` (`jwt_malformed`) for what such a message cannot hold.
    """
    if _is_deeper_than(_DEEPEST, claims):
        raise InvalidArgument(Reason.JWT_MALFORMED, f"the claims are nested deeper than {_DEEPEST} levels")
    told = Struct()
    try:
        told.update(claims)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(Reason.JWT_MALFORMED, "a claim is too large a number") from error
    return told


def _is_deeper_than(levels: int, value: object) -> bool:
    if not isinstance(value, Mapping | list):
        return False
    inner = value.values() if isinstance(value, Mapping) else value
    return levels == 0 or any(_is_deeper_than(levels - 1, each) for each in inner)


def _response(pairs: Sequence[tuple[Entry, JwtSvid | CitadelError]]) -> pb.JWTSVIDResponse:
    """One refusal takes nothing from the others, unless all are refused (invariant 8).

    While the caller's first identity merely has to wait, all have to: the first of a response is the default identity
    (WAPI-43), and nobody is to become another one for a moment.
    """
    if not pairs:
        raise Unavailable(
            Reason.NOT_READY, "the caller has other identities than a moment ago", fix="try again in a moment"
        )
    refusals = [result for _, result in pairs if isinstance(result, CitadelError)]
    first = pairs[0][1]
    if isinstance(first, CitadelError) and not is_final(first):
        raise first
    if len(refusals) == len(pairs):
        raise _for_the_caller(refusals[0])
    response, hints = pb.JWTSVIDResponse(), {""}
    for entry, result in pairs:
        if isinstance(result, JwtSvid):
            hint = "" if entry.hint in hints else entry.hint  # unique in a response: the first keeps it (WAPI-23)
            response.svids.add(spiffe_id=str(result.spiffe_id), svid=result.token, hint=hint)
            hints.add(entry.hint)
    return response


def _for_the_caller(error: CitadelError) -> CitadelError:
    # The entry was deleted a moment ago: for the caller that is no identity (WAPI-34).
    return PermissionDenied(error.reason, error.message) if isinstance(error, NotFound) else error


def _unset(name: str) -> InvalidArgument:
    return InvalidArgument(Reason.REQUEST_MALFORMED, f"the request has no {name}")
