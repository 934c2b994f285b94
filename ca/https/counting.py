"""Counting what strangers are answered."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class CountedAnswers:
    """Counts answers. Callers cannot make up series: what is none of `paths` is `other`."""

    def __init__(
        self, app: ASGIApp, paths: Mapping[str, str], *, what: tuple[str, str], registry: CollectorRegistry
    ) -> None:
        """`what` is the name of the listener in the metric, and for people."""
        name, words = what
        self._app = app
        self._paths = paths
        self._answered = Counter(
            f"citadel_{name}_requests",
            f"Answers of {words}, by document and HTTP status.",
            ["document", "status"],
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        document = self._paths.get(scope.get("path", ""), "other")

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._answered.labels(document, str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, counted)
