"""The own bundle over HTTP, for other trust domains: one document at `/`, and nothing else.

Source: SPIFFE_Federation.md sections 5.2.1.3 and 5.2.2.3 (the lines FED-12 to FED-16 of the conformance checklist).
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ca.https.counting import CountedAnswers
from citadel.bundle import TrustBundle
from citadel.errors import CitadelError

PATH = "/"  # as other implementations have it, so that a host and a port are enough to say where it is


def bundle_app(*, bundle: Callable[[], TrustBundle], registry: CollectorRegistry) -> ASGIApp:
    """Answers with the own bundle as `bundle` gives it at each request, to anybody: it holds nothing secret."""

    async def answer(_: Request) -> Response:
        try:
            document = bundle().to_json()
        except CitadelError as error:
            return PlainTextResponse(f"{error.message}\n", status_code=503)
        return Response(document, media_type="application/json", headers={"cache-control": "no-cache"})

    route = Route(PATH, answer)
    route.methods = {"GET"}  # not HEAD, which the framework would add
    app = Starlette(routes=[route])
    app.router.redirect_slashes = False
    return CountedAnswers(app, {PATH: "bundle"}, what=("federation", "the own bundle's endpoint"), registry=registry)
