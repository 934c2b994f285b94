"""JWT-SVIDs: tokens that carry a SPIFFE ID, and how one is believed.

Source: JWT-SVID.md (the lines JWT-* of the conformance checklist). `citadel.svid` offers this beside X.509-SVIDs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

from citadel.bundle import TrustBundle
from citadel.claims import DEFAULT_LEEWAY, audiences, check_times, moment_of, text
from citadel.errors import CitadelError, InvalidArgument, Reason, Unauthenticated
from citadel.jwk import JwtKey
from citadel.jws import Jws
from citadel.spiffe import SpiffeId, TrustDomain

_TYPES: Final = (None, "JWT", "JOSE")  # JWT-06, JWT-07
# Bounds the work that a stranger's token without a key id can cause; a domain has two or three keys in a rotation.
MAX_KEYS_TRIED: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtSvid:
    """A JWT-SVID that was believed. `key_id` is empty where the token names none; `token` is a secret."""

    spiffe_id: SpiffeId
    audience: tuple[str, ...]
    expires_at: datetime
    issued_at: datetime | None
    key_id: str
    claims: Mapping[str, Any] = field(repr=False, hash=False)
    token: str = field(repr=False)


def verify_jwt_svid(
    token: str,
    bundles: Mapping[TrustDomain, TrustBundle],
    audience: str,
    now: datetime,
    *,
    leeway: timedelta = DEFAULT_LEEWAY,
) -> JwtSvid:
    """Believe a JWT-SVID, or refuse it.

    Only the JWT authorities of the subject's own trust domain count (JWT-23, JWT-27, invariant 7); a domain without any
    has no JWT-SVIDs (JWT-28). A token that names its key is checked by that key alone. One that names none, as the
    standard allows (JWT-05), is checked by every key that its algorithm fits: all of them vouch for the same domain.

    Args:
        token: The token in JWS compact form.
        bundles: What is trusted, by trust domain.
        audience: Who the checker is; the token must be for exactly this, and may be for others too (JWT-14).
        now: The aware moment at which it must be valid.
        leeway: How far the clocks of issuer and checker may be apart.

    Raises:
        InvalidArgument: `request_malformed`: `now` is naive, or `audience` empty.
        Unauthenticated: `jwt_malformed`, `jwt_algorithm_refused`, `jwt_header_refused`: it is no JWT-SVID, whoever
            signed it. `jwt_issuer_unknown`, `jwt_key_unknown`, `jwt_bad_signature`: nobody who is trusted signed it.
            `jwt_expired`, `jwt_not_yet_valid`, `jwt_audience_mismatch`: it is not for now, or for somebody else.
    """
    if now.utcoffset() is None:
        raise InvalidArgument(Reason.REQUEST_MALFORMED, f"the moment {now} has no time zone")
    if not audience:
        raise InvalidArgument(Reason.REQUEST_MALFORMED, "the audience is empty")
    jws = Jws.read(token)
    if jws.token_type not in _TYPES:
        shown = str(jws.token_type)[:30]
        raise Unauthenticated(Reason.JWT_HEADER_REFUSED, f"the type {shown!r} is not that of a JWT-SVID")
    spiffe_id = subject_of(jws.claims)
    _check_signature(jws, _authorities(spiffe_id.trust_domain, bundles), spiffe_id.trust_domain)
    expires_at = check_times(jws.claims, now=now, leeway=leeway)
    intended = audiences(jws.claims)
    if not intended:
        raise _malformed("the token has no aud")  # JWT-13
    if audience not in intended:
        shown = ", ".join(intended)[:100]
        raise Unauthenticated(Reason.JWT_AUDIENCE_MISMATCH, f"the token is for {shown}, not for {audience[:100]}")
    return JwtSvid(
        spiffe_id=spiffe_id,
        audience=intended,
        expires_at=expires_at,
        issued_at=moment_of(jws.claims, "iat"),
        key_id=jws.key_id,
        claims=MappingProxyType(dict(jws.claims)),
        token=token,
    )


def subject_of(claims: Mapping[str, Any]) -> SpiffeId:
    """The workload's ID in the claims of a JWT-SVID, believed or not (JWT-10, JWT-11).

    Raises `Unauthenticated` (`jwt_malformed`).
    """
    subject = text(claims, "sub")
    if subject is None:
        raise _malformed("the token has no sub")
    try:
        spiffe_id = SpiffeId.parse(subject)
    except InvalidArgument as error:
        raise _malformed(f"the token's sub is no SPIFFE ID: {error.message}") from error
    if not spiffe_id.path:
        raise _malformed(f"the token's sub {spiffe_id} has no path, so that it names no workload")
    return spiffe_id


def _authorities(domain: TrustDomain, bundles: Mapping[TrustDomain, TrustBundle]) -> Mapping[str, JwtKey]:
    bundle = bundles.get(domain)
    if bundle is None or bundle.trust_domain != domain:
        raise Unauthenticated(Reason.JWT_ISSUER_UNKNOWN, f"there is no bundle for trust domain {domain}")
    if not bundle.jwt_authorities:
        raise Unauthenticated(Reason.JWT_KEY_UNKNOWN, f"trust domain {domain} has no JWT authorities")
    return bundle.jwt_authorities


def _check_signature(jws: Jws, authorities: Mapping[str, JwtKey], domain: TrustDomain) -> None:
    if jws.key_id:
        key = authorities.get(jws.key_id)
        if key is None:
            named = f"{jws.key_id[:100]!r}"
            raise Unauthenticated(Reason.JWT_KEY_UNKNOWN, f"trust domain {domain} has no JWT authority {named}")
        jws.check_signature(key)
        return
    keys = [key for key in authorities.values() if jws.fits(key)]
    if not 0 < len(keys) <= MAX_KEYS_TRIED:
        problem = f"the token names no key, and {len(keys)} of trust domain {domain} are for {jws.algorithm}"
        raise Unauthenticated(Reason.JWT_KEY_UNKNOWN, problem)
    if not any(map(jws.is_signed_by, keys)):
        problem = f"the token names no key, and was signed by none of trust domain {domain}"
        raise Unauthenticated(Reason.JWT_BAD_SIGNATURE, problem)


def _malformed(message: str) -> CitadelError:
    return Unauthenticated(Reason.JWT_MALFORMED, message)
