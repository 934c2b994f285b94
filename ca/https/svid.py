"""The server's own SVID, shown to strangers: always the one that the other listeners show."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from ca.https.context import server_context
from citadel.probes import Check, Health


class SvidCertificate:
    """Fulfils `ca.https.serving.Certificate`."""

    def __init__(self, name: str, *, pair: Callable[[], tuple[bytes, bytes] | None]) -> None:
        """`pair` gives the private key and the chain, in PEM, that are to be shown now."""
        self._name = name
        self._pair = pair
        self._made: tuple[tuple[bytes, bytes], ssl.SSLContext] | None = None

    @property
    def context(self) -> ssl.SSLContext | None:
        pair = self._pair()
        if pair is None:
            return None
        if self._made is None or self._made[0] is not pair:
            key, chain = pair
            self._made = pair, server_context(chain, key)
        return self._made[1]

    async def refresh(self) -> None:
        """There is nothing to look for."""

    async def run(self) -> None:
        await asyncio.Event().wait()

    def check(self) -> Check:
        return Check(self._name, Health.GOOD, "shows the server's own SVID")
