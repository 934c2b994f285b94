"""An issuer of end users' tokens, and what the policy of reviews makes of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from citadel.config.types import HostPort
from citadel.jwk import jwk_from_key
from citadel.jws import sign
from citadel.loopback_http import LoopbackHttp
from cli.demo.bookinfo import USER_HEADER
from cli.demo.plan import Plan

ISSUER: Final = "https://login.bookinfo.example"
_AUDIENCE: Final = "bookinfo"
_KEY_ID: Final = "demo"
_LIFE: Final = timedelta(days=1)  # for who keeps the demo running


class Issuer:
    """Signs users in, and tells its keys on loopback. One that is never started is an impostor."""

    def __init__(self, plan: Plan) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._listener = LoopbackHttp(
            Starlette(routes=[Route("/keys", self._keys)]), HostPort("127.0.0.1", plan.issuer_port)
        )

    async def start(self) -> None:
        """Tell the keys to everybody."""
        await self._listener.start()

    async def close(self) -> None:
        """Tell them no longer."""
        await self._listener.close()

    def token(self, user: str) -> str:
        """What `user` shows after signing in."""
        now = datetime.now(UTC)
        claims = {
            "iss": ISSUER,
            "aud": _AUDIENCE,
            "sub": user,
            "iat": int(now.timestamp()),
            "exp": int((now + _LIFE).timestamp()),
        }
        return sign(claims, key=self._key, key_id=_KEY_ID)

    async def _keys(self, _: Request) -> JSONResponse:
        return JSONResponse({"keys": [{**jwk_from_key(self._key.public_key()), "kid": _KEY_ID, "use": "sig"}]})


def policies(plan: Plan) -> str:
    """The policy file: productpage may read reviews for anybody, and write them for who has signed in."""
    productpage = {"principals": [str(plan.productpage.spiffe_id)]}
    signed_in = productpage | {"requestPrincipals": [{"issuer": ISSUER, "subject": "*"}]}
    rule: dict[str, Any] = {
        "issuer": ISSUER,
        "audiences": [_AUDIENCE],
        "jwksUri": f"http://127.0.0.1:{plan.issuer_port}/keys",
        "allowPrivateAddresses": True,
        "outputClaimToHeaders": [{"header": USER_HEADER, "claim": "sub"}],
    }
    document = {
        "name": "reviews",
        "selectors": [str(plan.reviews.selector)],
        "jwtRules": [rule],
        "authorization": [_allow("read", productpage, "GET"), _allow("write", signed_in, "POST")],
    }
    return json.dumps({"policies": [document]}, indent=2)  # which is YAML too


def _allow(name: str, source: dict[str, Any], method: str) -> dict[str, Any]:
    operation = {"methods": [method], "paths": ["/reviews"]}
    return {
        "name": name,
        "action": "ALLOW",
        "rules": [{"from": [{"source": source}], "to": [{"operation": operation}]}],
    }
