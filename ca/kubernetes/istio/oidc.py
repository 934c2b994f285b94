"""Tokens checked by the cluster's own published keys, without asking its API server about each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ca.kubernetes.accounts import Named, ProvenAccount
from ca.kubernetes.note import Note
from ca.kubernetes.settings import OidcTokenSettings
from citadel.clock import Clock
from citadel.errors import CitadelError, Reason, Unauthenticated, Unavailable
from citadel.jwt.key_ring import IssuerKeyRing
from citadel.jwt.settings import JwtRule
from citadel.jwt.user import EndUser
from citadel.jwt.validator import EndUserValidator
from citadel.request import HttpRequest

_BOUND: Final = "kubernetes.io"  # the claim with what a token is bound to
_REASONS: Final = {
    Reason.JWT_EXPIRED: Reason.K8S_TOKEN_EXPIRED,
    Reason.JWT_AUDIENCE_MISMATCH: Reason.K8S_TOKEN_AUDIENCE,
}


class OidcTokens:
    """Fulfils `ca.kubernetes.istio.callers.Tokens`."""

    def __init__(
        self, settings: OidcTokenSettings, *, cluster: str, audience: str, keys: IssuerKeyRing, clock: Clock
    ) -> None:
        """Begins to fetch the keys."""
        rule = JwtRule(
            issuer=settings.issuer,
            audiences=(audience,),
            jwksUri=settings.jwks_uri,
            caFile=settings.ca_file,
            allowPrivateAddresses=True,  # an API server has one, and whoever wrote the settings means it
        )
        self._cluster = cluster
        self._clock = clock
        self._keys = keys.fetched(rule)
        self._validator = EndUserValidator([rule], keys=keys, clock=clock)

    async def account(self, token: str) -> ProvenAccount:
        request = HttpRequest(method="POST", host="", path="/", headers={"authorization": f"Bearer {token}"})
        came = self._clock.monotonic()
        try:
            verified = await self._validator.check(request)
        except Unauthenticated as error:
            if error.reason is Reason.JWT_KEY_UNKNOWN and self._keys.as_of < came:
                # The cluster may have a new key by now. That it has none is only proved by keys fetched since.
                message = f"{error.message}, as far as is known; its keys are fetched again within a minute"
                raise Unavailable(Reason.JWKS_UNAVAILABLE, message, fix="ask again") from error
            reason = _REASONS.get(error.reason, Reason.K8S_TOKEN_REFUSED)
            raise Unauthenticated(reason, error.message, fix=error.fix) from error
        except Unavailable as error:
            fix = "the server's log says why; it goes on trying"
            raise Unavailable(error.reason, error.message, fix=fix) from error
        if verified is None:
            raise _refused("there is no token")
        return self._account(verified.user)

    def notes(self) -> Iterator[Note]:
        """How it is with the keys, for people."""
        status = self._keys.status()
        yield Note(
            f"tokens of Istio's proxies are checked by the keys of {status.issuer}: {status.words}",
            is_trouble=status.degraded,
        )

    def _account(self, user: EndUser) -> ProvenAccount:
        bound = user.claims.get(_BOUND)
        match user.subject.split(":"):
            case ["system", "serviceaccount", namespace, name] if namespace and name and isinstance(bound, dict):
                pass
            case _:
                raise _refused("the token is not a projected one of a service account")
        account = _named(bound, "serviceaccount")
        if account is None or (bound.get("namespace"), account.name) != (namespace, name):
            raise _refused("the token names another service account in each of its claims")
        return ProvenAccount(
            cluster=self._cluster,
            namespace=namespace,
            name=name,
            uid=account.uid,
            pod=_named(bound, "pod"),
            node=_named(bound, "node"),
            ends_at=user.expires_at,
        )


def _named(bound: Mapping[str, Any], kind: str) -> Named | None:
    match bound.get(kind):
        case {"name": str(name), "uid": str(uid)} if name and uid:
            return Named(name, uid)
        case _:
            return None


def _refused(message: str) -> CitadelError:
    return Unauthenticated(Reason.K8S_TOKEN_REFUSED, message)
