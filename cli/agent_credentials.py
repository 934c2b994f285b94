"""Credentials of this node's gateways, wired: what is wanted and held, and the stream that asks the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from citadel._wire import agent_api_pb2_grpc
from citadel.clock import Clock
from citadel.rpc import OnRefusal
from sds.credentials.book import CredentialBook
from sds.credentials.watching import CredentialWatch
from sds.holdings import HoldingsFeed


class GatewayCredentials:
    """Costs nothing until a gateway asks."""

    def __init__(
        self,
        *,
        feed: HoldingsFeed,
        api: Callable[[], agent_api_pb2_grpc.AgentApiAsyncStub],
        on_refusal: OnRefusal,
        random: Random,
        clock: Clock,
    ) -> None:
        self.book = CredentialBook(feed=feed, clock=clock, on_refusal=on_refusal)
        self._watch = CredentialWatch(self.book, api=api, draw=random.random, clock=clock)

    async def run(self) -> None:
        """Keep what is wanted up to date until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.book.run())
            tasks.create_task(self._watch.run())
