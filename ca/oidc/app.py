"""Discovery over HTTP: two documents to read, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Final

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ca.https.counting import CountedAnswers
from ca.oidc.documents import discovery_document, discovery_path, key_set, keys_path
from citadel.jwk import JwtKey

Keys = Mapping[str, JwtKey]

_NOT_KEPT: Final = {"cache-control": "no-store"}


def discovery_app(*, issuer: str, max_age: timedelta, keys: Callable[[], Keys], registry: CollectorRegistry) -> ASGIApp:
    """Answers below the path of `issuer`. `keys` gives the JWT authorities, and is asked at every request.

    What is answered depends on nothing that the request says but its path, so no `Host` needs to be refused.
    """
    # What may be kept is not to be used beyond its time, also while this server is away.
    kept = {"cache-control": f"public, max-age={int(max_age.total_seconds())}, must-revalidate"}

    def endpoint(document: Callable[[Keys], bytes]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            found = keys()
            if not found:  # an empty set would be believed for as long as any other
                return PlainTextResponse("There are no keys yet.\n", status_code=503, headers=_NOT_KEPT)
            body = document(found)
            tag = f'"{hashlib.sha256(body).hexdigest()}"'
            headers = {**kept, "etag": tag}
            if tag in request.headers.get("if-none-match", ""):
                return Response(status_code=304, headers=headers)
            return Response(body, media_type="application/json", headers=headers)

        return answer

    paths = {discovery_path(issuer): "discovery", keys_path(issuer): "keys"}
    app = Starlette(
        routes=[
            Route(discovery_path(issuer), endpoint(lambda found: discovery_document(issuer, found))),
            Route(keys_path(issuer), endpoint(key_set)),
        ]
    )
    app.router.redirect_slashes = False
    return CountedAnswers(app, paths, what=("oidc", "OIDC discovery"), registry=registry)
