"""Joining: how a machine without an identity comes to know its server, and only then gives its token away.

Whoever answers is asked for its bundle over a channel that proves nothing. Once the bundle is the expected one, a new
channel is opened on which the server must prove itself by it, and only there the token is sent.
"""

from __future__ import annotations

import asyncio
import hmac
import ssl
from datetime import timedelta
from typing import Final, Literal, cast

import structlog
from cryptography import x509

from citadel._wire import bootstrap_pb2 as pb
from citadel._wire import bootstrap_pb2_grpc, types_pb2
from citadel.bundle import TrustBundle
from citadel.clock import Clock
from citadel.config.types import HostPort
from citadel.errors import FailedPrecondition, InvalidArgument, Reason, Unauthenticated, Unavailable
from citadel.join_string import JoinString
from citadel.reserved import is_agent_id
from citadel.rpc import rpc_errors
from citadel.spiffe import SpiffeId, TrustDomain
from sds.keep.check import check_issued
from sds.keep.keys import new_key, request_for
from sds.link.channel import anonymous_channel
from sds.link.identity import AgentIdentity
from sds.settings import ReconnectSettings
