"""The agent's channel to its server."""

from __future__ import annotations

from collections.abc import Iterable

from cryptography import x509
from grpc import aio

from citadel.config.types import HostPort
from citadel.server_anchors import to_pem, unforgeable
from citadel.server_channel import mutual_channel
from sds.keep import keys
from sds.link.identity import AgentIdentity
from sds.settings import ReconnectSettings


def agent_channel(
    address: HostPort,
    *,
    identity: AgentIdentity,
    reconnect: ReconnectSettings,
    anchors: Iterable[x509.Certificate],
) -> aio.Channel:
    """A channel over mutual TLS, as the agent that `identity` is. It keeps these credentials for its whole life."""
    chain = identity.svid.chain
    return mutual_channel(
        address,
        roots_pem=to_pem(anchors) or to_pem(unforgeable(chain)),
        key_pem=keys.to_pem(identity.key),
        chain_pem=identity.svid.chain_pem,
        reconnect=reconnect,
    )
