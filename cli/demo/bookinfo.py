"""A slice of Bookinfo: productpage calls reviews, each through its own sidecar, in plain HTTP on loopback."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

_REVIEWS: Final = (
    {"reviewer": "Reviewer1", "text": "An extremely entertaining play by Shakespeare."},
    {"reviewer": "Reviewer2", "text": "Absolutely fun and entertaining."},
)
USER_HEADER: Final = "x-end-user"  # as in deploy/envoy/authorizing.yaml
_CALL_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What came of a visit: which version answered, for which end user ("" is nobody), or how it was refused."""

    version: str = ""
    user: str = ""
    refusal: str = ""

    def __str__(self) -> str:
        return self.refusal or f"{self.version} for {self.user or 'nobody'}"


def reviews_app(version: str = "v1") -> Starlette:
    """Answers with the reviews, v2 with stars, and with who called for whom by the word of its sidecar."""

    async def reviews(request: Request) -> JSONResponse:
        stars = {"rating": {"stars": 5, "color": "black"}} if version == "v2" else {}
        return JSONResponse(
            {
                "version": version,
                "reviews": [each | stars for each in _REVIEWS],
                "caller": request.headers.get("x-forwarded-client-cert", ""),
                "user": request.headers.get(USER_HEADER, ""),
            }
        )

    return Starlette(routes=[Route("/reviews", reviews, methods=["GET", "POST"])])


class Productpage:
    """Calls reviews through its sidecar, without retries."""

    def __init__(self, *, sidecar_port: int) -> None:
        # One connection per call to the sidecar too: nothing in the demo hides behind a kept connection.
        self._client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{sidecar_port}",
            timeout=_CALL_SECONDS,
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=False,
        )

    async def close(self) -> None:
        """End open calls."""
        await self._client.aclose()

    async def render(self) -> tuple[str, str]:
        """One page: the SPIFFE ID that reviews saw, and the one that answered. Raises `httpx.HTTPError`."""
        answer = (await self._client.get("/reviews")).raise_for_status()
        return _uri_of(answer.json()["caller"]), answer.headers.get("x-served-by", "")

    async def visit(self, token: str = "", *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Seen:
        """Read or write reviews for an end user, who is known by `token` alone. Raises `httpx.HTTPError`."""
        sent = {**(headers or {}), **({"authorization": f"Bearer {token}"} if token else {})}
        answer = await self._client.request(method, "/reviews", headers=sent)
        if answer.is_success:
            return Seen(version=answer.json()["version"], user=answer.json()["user"])
        return Seen(refusal=f"{answer.status_code} {answer.headers.get('x-citadel-reason', '')}")


def _uri_of(forwarded_client_cert: str) -> str:
    for part in forwarded_client_cert.split(";"):
        key, _, value = part.partition("=")
        if key == "URI":
            return value
    return ""
