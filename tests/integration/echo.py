"""A workload that answers with what came through to it."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


def echo(version: str) -> Starlette:
    """Says which version it is, and the target and the headers of the request as it got them."""

    async def answer(request: Request) -> JSONResponse:
        target = request.scope["raw_path"].decode("latin-1")
        query = request.scope["query_string"].decode("latin-1")
        headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers.raw]
        return JSONResponse(
            {"version": version, "target": f"{target}?{query}" if query else target, "headers": headers}
        )

    return Starlette(routes=[Route("/{rest:path}", answer, methods=["GET", "POST", "OPTIONS"])])
