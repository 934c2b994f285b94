"""Bundles as requests of administrators bring them."""

from __future__ import annotations

import asyncio

from ca.federation.rules import check_bytes
from citadel._wire import types_pb2
from citadel.bundle import TrustBundle
from citadel.spiffe import TrustDomain


async def given_bundle(message: types_pb2.Bundle, trust_domain: TrustDomain) -> TrustBundle:
    """Parsed away from the loop. Raises `InvalidArgument` (`bundle_malformed`), also for more than is ever fetched."""
    check_bytes(message.json)
    return await asyncio.to_thread(TrustBundle.from_json, trust_domain, message.json)
