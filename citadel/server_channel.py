"""The TLS channels to a Citadel server: how it is recognised, and how soon a dead connection is noticed."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import grpc
from grpc import aio

from citadel.config.types import HostPort
from citadel.errors import FailedPrecondition, Reason
from citadel.line import Pace
from citadel.reserved import SERVER_DNS_NAME

_LARGEST_MESSAGE: Final = 16 * 1024 * 1024
_LONGEST_PAUSE: Final = timedelta(seconds=1)
# A machine that is gone answers nothing at all; with several servers the next one waits for this.
_CONNECTING: Final = timedelta(seconds=4)
_KEEPALIVE: Final = timedelta(seconds=20)  # the server allows pings every 5 s
# A server that is replaced has another address under its name. gRPC's default is to ask again after 30 s.
_LOOK_UP_AGAIN: Final = timedelta(seconds=2)
_KEEPALIVE_ANSWER: Final = timedelta(seconds=10)


def anonymous_channel(address: HostPort, *, roots_pem: bytes, reconnect: Pace) -> aio.Channel:
    """A channel to a server that is known by `roots_pem`, without saying who we are."""
    return _channel(address, grpc.ssl_channel_credentials(_some(roots_pem)), reconnect)


def mutual_channel(
    address: HostPort, *, roots_pem: bytes, key_pem: bytes, chain_pem: bytes, reconnect: Pace
) -> aio.Channel:
    """A channel over mutual TLS, as whoever has this key and chain. It keeps these credentials for its whole life."""
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_some(roots_pem), private_key=key_pem, certificate_chain=chain_pem
    )
    return _channel(address, credentials, reconnect)


def _some(roots_pem: bytes) -> bytes:
    # gRPC would fall back to the public authorities of the machine where it is given none.
    if not roots_pem:
        raise FailedPrecondition(Reason.BUNDLE_MISMATCH, "the trust bundle has no X.509 authority to know a server by")
    return roots_pem


def _channel(address: HostPort, credentials: grpc.ChannelCredentials, reconnect: Pace) -> aio.Channel:
    # gRPC connects again by itself, also where every handshake fails. Its pace stays short of a second because renewals
    # of short leaves wait for it; the longer waits of the Sync stream are ours, with jitter.
    initial_ms = max(1, round(reconnect.initial / timedelta(milliseconds=1)))
    longest_ms = max(initial_ms, round(min(reconnect.maximum, _LONGEST_PAUSE) / timedelta(milliseconds=1)))
    options: list[tuple[str, str | int]] = [
        # gRPC's clients check a DNS name, so the server's certificate carries a reserved one (invariant 13).
        ("grpc.ssl_target_name_override", SERVER_DNS_NAME),
        ("grpc.initial_reconnect_backoff_ms", initial_ms),
        ("grpc.max_reconnect_backoff_ms", longest_ms),
        ("grpc.min_reconnect_backoff_ms", _CONNECTING // timedelta(milliseconds=1)),  # how long connecting may take
        ("grpc.keepalive_time_ms", _KEEPALIVE // timedelta(milliseconds=1)),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_ANSWER // timedelta(milliseconds=1)),
        ("grpc.dns_min_time_between_resolutions_ms", _LOOK_UP_AGAIN // timedelta(milliseconds=1)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
        ("grpc.max_send_message_length", _LARGEST_MESSAGE),
        ("grpc.use_local_subchannel_pool", 1),  # a new identity needs a connection of its own
        ("grpc.enable_http_proxy", 0),  # the environment does not decide whom we speak to
        ("grpc.enable_retries", 0),
    ]
    return aio.secure_channel(str(address), credentials, options=options)
