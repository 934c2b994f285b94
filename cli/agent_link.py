"""The agent's link to its server, wired, and the renewal of the identity that it is known by there."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from importlib import metadata

from citadel._wire import agent_api_pb2
from citadel.clock import Clock
from citadel.wire import to_duration
from cli.agent_foundation import AgentFoundation
from cli.agent_joining import returning
from sds.keep.keeper import Keeper
from sds.keep.orders import RenewOrder
from sds.link.identity import OwnIdentity
from sds.link.link import Heeding, Link, Telling
from sds.link.memory import RevocationMemory
from sds.link.renewal import OwnRenewal
from sds.link.servers import Servers
from sds.link.sync import StreamReports


@dataclass(frozen=True, kw_only=True)
class AgentLink:
    """Both wait to be run."""

    link: Link
    renewal: OwnRenewal


def agent_link(
    base: AgentFoundation,
    identity: OwnIdentity,
    *,
    keeper: Keeper,
    reports: StreamReports,
    memory: RevocationMemory,
) -> AgentLink:
    """The parts; the server is told `reports`, and `keeper` and `memory` heed what it says."""
    settings, clock, random = base.settings, base.clock, base.random

    def obey(order: RenewOrder) -> None:
        renewal.obey(order)
        keeper.obey(order)

    back = returning(settings, clock)
    link = Link(
        identity=identity,
        servers=Servers(settings.servers, identity=identity, show=back.issuers, clock=clock, random=random),
        hello=_hello(clock),
        feed=base.feed,
        telling=Telling(reports=reports, progress=keeper.progress()),
        heeding=Heeding(
            on_up=keeper.server_is_back,
            on_order=obey,
            on_revocations=memory.keep,
            on_roots=lambda: renewal.look_again(),  # noqa: PLW0108 - it is made after the link, which it moves
        ),
        reconnect=settings.reconnect,
        clock=clock,
    )
    renewal = OwnRenewal(
        identity=identity,
        link=link,
        returning=back,
        reconnect=settings.reconnect,
        clock=clock,
        random=random,
        renew_at=settings.renewal.at,
    )
    return AgentLink(link=link, renewal=renewal)


def _hello(clock: Clock) -> Callable[[], agent_api_pb2.Hello]:
    begun, process = clock.monotonic(), secrets.token_hex(8)

    def hello() -> agent_api_pb2.Hello:
        return agent_api_pb2.Hello(
            agent_version=metadata.version("citadel"),
            host=socket.gethostname(),
            serving_for=to_duration(timedelta(seconds=clock.monotonic() - begun)),
            process=process,
        )

    return hello
