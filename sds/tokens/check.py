"""What an answered token must be before anybody is handed it (invariant 9)."""

from __future__ import annotations

from datetime import datetime

from citadel.bundle import TrustBundle
from citadel.entry import Entry
from citadel.errors import CitadelError, Reason, Unauthenticated, Unavailable
from citadel.jws import Jws
from citadel.jwt_svid import JwtSvid, verify_jwt_svid


def key_id_of(token: str) -> str:
    """The key that a token names; empty where it names none, or cannot be read."""
    try:
        return Jws.read(token).key_id
    except CitadelError:
        return ""


def check_token(token: str, *, entry: Entry, audience: tuple[str, ...], bundle: TrustBundle, now: datetime) -> JwtSvid:
    """The JWT-SVID in `token`, if it is the one that was asked for.

    For exactly these audiences: with another one it could be used where nobody meant it to. It names its key, so that
    it is known when that key is gone. Raises `Unavailable` with the reason of `verify_jwt_svid`: what the server
    answered is not the caller's fault, and the next answer can be good.
    """
    try:
        svid = verify_jwt_svid(token, {bundle.trust_domain: bundle}, audience[0], now)
        if svid.spiffe_id != entry.spiffe_id:
            raise _other(f"it is of {svid.spiffe_id}")
        if set(svid.audience) != set(audience):
            raise _other(f"it is for {', '.join(svid.audience)[:100]}")
        if not svid.key_id:
            raise _other("it names no key")
    except CitadelError as error:
        problem = f"the server answered a token for {entry.spiffe_id} that cannot be handed on: {error.message}"
        raise Unavailable(error.reason, problem) from error
    return svid


def _other(message: str) -> Unauthenticated:
    return Unauthenticated(Reason.JWT_MALFORMED, message)
