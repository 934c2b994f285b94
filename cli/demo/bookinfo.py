"""A slice of Bookinfo: productpage calls reviews, each through its own sidecar, in plain HTTP on loopback."""

from __future__ import annotations

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
_CALL_SECONDS: Final = 5.0


def reviews_app() -> Starlette:
    """Answers with the reviews, and with who called by the word of its sidecar."""

    async def reviews(request: Request) -> JSONResponse:
        return JSONResponse({"reviews": _REVIEWS, "caller": request.headers.get("x-forwarded-client-cert", "")})

    return Starlette(routes=[Route("/reviews", reviews)])


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


def _uri_of(forwarded_client_cert: str) -> str:
    for part in forwarded_client_cert.split(";"):
        key, _, value = part.partition("=")
        if key == "URI":
            return value
    return ""
