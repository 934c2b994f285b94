"""Where the agent's servers are, and by what they are known.

Where the root is over several trust domains, a server is known by an issuing authority: that of the agent's own SVID,
or one that servers showed last. These rotate, also while the agent is away; so whenever no server is found they are
asked for again, at the door that is open to everybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Final

import structlog
from cryptography import x509
from grpc import aio

from citadel.clock import Clock
from citadel.config.types import HostPort
from citadel.server_anchors import server_anchors
from sds.link.channel import agent_channel
from sds.link.identity import AgentIdentity, OwnIdentity
from sds.settings import ReconnectSettings

_LOOK_SECONDS: Final = 1.0
_LONGEST: Final = 5.0  # where the server is simply away, or does not let this agent in

_log = structlog.get_logger(__name__)

Show = Callable[[AgentIdentity], Awaitable[Sequence[x509.Certificate]]]


class Servers:
    """Those at `addresses`, the first choice first; none of them means the one that was told when joining.

    `show` asks for issuing authorities; what it answers proves itself or counts for nothing. Lives on one event loop.
    """

    def __init__(
        self, addresses: Sequence[HostPort] = (), *, identity: OwnIdentity, show: Show, clock: Clock, random: Random
    ) -> None:
        self._addresses = addresses
        self._identity = identity
        self._show = show
        self._clock = clock
        self._random = random
        self._shown: Sequence[x509.Certificate] = ()

    def channels(self, reconnect: ReconnectSettings) -> dict[HostPort, aio.Channel]:
        """One to each, as the agent is and knows them now."""
        identity, anchors = self._identity.current, self._anchors()
        return {
            address: agent_channel(address, identity=identity, anchors=anchors, reconnect=reconnect)
            for address in self._addresses or (identity.agent_api,)
        }

    async def run(self, *, is_found: Callable[[], bool], on_news: Callable[[], None]) -> None:
        """Look while none `is_found`, until cancelled; `on_news` is told when there is more to know them by."""
        pause = _LOOK_SECONDS
        while True:
            await self._clock.sleep(pause * self._random.uniform(1, 1.5))
            if is_found() or self._identity.current.bundle.names_its_domain():
                pause = _LOOK_SECONDS
                continue
            pause = min(2 * pause, _LONGEST)
            if await self._look():
                _log.info("the server has issuing authorities that were not known")
                on_news()

    async def _look(self) -> bool:
        identity, known = self._identity.current, set(self._anchors())
        shown = await self._show(identity)
        found = await asyncio.to_thread(self._known, identity, shown)
        if known.issuperset(found):  # whoever shows less takes nothing away
            return False
        self._shown = shown
        return True

    def _anchors(self) -> tuple[x509.Certificate, ...]:
        return self._known(self._identity.current, self._shown)

    def _known(self, identity: AgentIdentity, shown: Sequence[x509.Certificate]) -> tuple[x509.Certificate, ...]:
        return server_anchors(identity.bundle, shown, now=self._clock.now(), own_chain=identity.svid.chain)
