"""A `TokenSigner` that behaves as the server does, with faults on request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from citadel.bundle import TrustBundle
from citadel.clock import Clock
from citadel.entry import Entry
from citadel.errors import CitadelError, NotFound, Reason, Unavailable
from citadel.jws import sign
from sds.holdings import HoldingsFeed
from sds.tokens.keeper import TokenKeeper
from sds.tokens.signer import TokenRequest
from tests.certificates import A_TEST

ONE, TWO = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
AWAY = Unavailable(Reason.SERVER_UNREACHABLE, "away")


def with_keys(bundle: TrustBundle, **keys: ec.EllipticCurvePrivateKey) -> TrustBundle:
    """The bundle with these JWT authorities and no others."""
    return replace(bundle, jwt_authorities={kid: key.public_key() for kid, key in keys.items()})


class FakeTokenSigner:
    """Signs for `entries`. `error` fails every call, `gate` holds answers back, `claims` changes what is signed."""

    def __init__(self, clock: Clock, *entries: Entry, lifetime: timedelta = timedelta(seconds=100)) -> None:
        self.entries = {each.id: each for each in entries}
        self.lifetime = lifetime
        self.key, self.key_id = ONE, "one"
        self.calls: list[list[TokenRequest]] = []
        self.error: CitadelError | None = None
        self.refusals: dict[str, CitadelError] = {}
        self.claims: dict[str, Any] = {}
        self.largest = 500
        self.gate = asyncio.Event()
        self.gate.set()
        self._clock = clock

    @property
    def asked(self) -> list[tuple[str, ...]]:
        """The entries of each call."""
        return [tuple(each.entry_id for each in call) for call in self.calls]

    async def sign(self, requests: Sequence[TokenRequest], *, within: timedelta) -> Sequence[str | CitadelError]:
        del within
        self.calls.append(list(requests))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        if len(requests) > self.largest:
            raise CitadelError(Reason.BATCH_TOO_LARGE, "too many")
        return [self._one(request) for request in requests]

    def _one(self, request: TokenRequest) -> str | CitadelError:
        if request.entry_id in self.refusals:
            return self.refusals[request.entry_id]
        if request.entry_id not in self.entries:
            return NotFound(Reason.ENTRY_NOT_FOUND, "no such entry")
        entry, now = self.entries[request.entry_id], int(self._clock.now().timestamp())
        end = now + int(self.lifetime.total_seconds())
        if entry.expires_at is not None:
            end = min(end, int(entry.expires_at.timestamp()))
        claims = {
            "sub": str(entry.spiffe_id),
            "aud": list(request.audience),
            "iat": now,
            "exp": end,
            "jti": str(len(self.calls)),  # every token is another one
        }
        return sign(claims | self.claims, key=self.key, key_id=self.key_id)


def token_keeper(feed: HoldingsFeed, clock: Clock, *entries: Entry, **options: Any) -> TokenKeeper:
    """A keeper of tokens for `a.test`; without a `signer`, one that signs for `entries`."""
    fields: dict[str, Any] = {"signer": FakeTokenSigner(clock, *entries), "per_second": 1000.0}
    return TokenKeeper(trust_domain=A_TEST, feed=feed, clock=clock, **(fields | options))
