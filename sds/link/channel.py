"""The agent's channel to its server."""

from __future__ import annotations

from grpc import aio

from citadel.config.types import HostPort
from citadel.server_channel import mutual_channel
from sds.keep.keys import to_pem
from sds.link.identity import AgentIdentity
from sds.settings import ReconnectSettings


def agent_channel(address: HostPort, *, identity: AgentIdentity, reconnect: ReconnectSettings) -> aio.Channel:
    """A channel over mutual TLS, as the agent that `identity` is. It keeps these credentials for its whole life."""
    return mutual_channel(
        address,
        roots_pem=identity.bundle.to_pem(),
        key_pem=to_pem(identity.key),
        chain_pem=identity.svid.chain_pem,
        reconnect=reconnect,
    )
