"""What a token of a service account says of itself, unverified: good for its own bearer alone, and for no decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import jwt

from citadel.errors import InvalidArgument, Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenClaims:
    """`pod_uid` is empty where it is bound to no pod."""

    audiences: frozenset[str]
    ends: datetime
    pod_uid: str

    @classmethod
    def of(cls, token: str) -> Self:
        """Raises `InvalidArgument` (`k8s_token_refused`) for what is no such token."""
        try:
            claims: Mapping[str, Any] = jwt.decode(token.strip(), options={"verify_signature": False})
            audiences = claims.get("aud") or ()
            pod = (claims.get("kubernetes.io") or {}).get("pod") or {}
            return cls(
                audiences=frozenset([audiences] if isinstance(audiences, str) else audiences),
                ends=datetime.fromtimestamp(int(claims["exp"]), UTC),
                pod_uid=str(pod.get("uid") or ""),
            )
        except (jwt.PyJWTError, KeyError, ValueError, TypeError, AttributeError, OverflowError, OSError):
            raise InvalidArgument(Reason.K8S_TOKEN_REFUSED, "it is no token of a service account") from None
