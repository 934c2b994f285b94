"""Fetching keys only where somebody's rules name an issuer: what it is made of takes an agent 3 MiB."""

from __future__ import annotations

import asyncio

from citadel.jwt.keys import Answer, FetchKeys, KeySource


class LateKeyFetcher:
    """Fulfils `citadel.jwt.keys.FetchKeys`: an `HttpKeyFetcher`, made when it is first asked."""

    def __init__(self) -> None:
        self._fetch: FetchKeys | None = None

    async def __call__(self, source: KeySource) -> Answer:
        if self._fetch is None:
            made = await asyncio.to_thread(_http)
            self._fetch = self._fetch or made  # others may have asked meanwhile
        return await self._fetch(source)


def _http() -> FetchKeys:
    from citadel.jwt.fetching import HttpKeyFetcher  # noqa: PLC0415 - see above

    return HttpKeyFetcher()
