"""What the agent measures of tokens. Labels are bounded: reasons, never an identity or an audience."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from prometheus_client import CollectorRegistry, Counter, Histogram

from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.metrics import SECONDS
from sds.tokens.signer import TokenRequest, TokenSigner


class MeteredTokenSigner:
    """Fulfils `sds.tokens.signer.TokenSigner` by another one, and counts what it answers."""

    def __init__(self, signer: TokenSigner, *, registry: CollectorRegistry, clock: Clock) -> None:
        self._signer = signer
        self._clock = clock
        self._signed = Counter("citadel_agent_jwt_svids_signed", "JWT-SVIDs that the server signed.", registry=registry)
        self._refused = Counter(
            "citadel_agent_jwt_signing_refused",
            "JWT-SVIDs that the server refused or did not answer, by reason code.",
            ["reason"],
            registry=registry,
        )
        self._seconds = Histogram(
            "citadel_agent_jwt_signing_seconds",
            "How long the server took to answer a batch of JWT-SVIDs.",
            registry=registry,
            buckets=SECONDS,
        )

    async def sign(self, requests: Sequence[TokenRequest], *, within: timedelta) -> Sequence[str | CitadelError]:
        """See `TokenSigner.sign`."""
        begun = self._clock.monotonic()
        try:
            answers = await self._signer.sign(requests, within=within)
        except CitadelError as error:
            self._refused.labels(error.reason.value).inc(len(requests))
            raise
        finally:
            self._seconds.observe(self._clock.monotonic() - begun)
        for answer in answers:
            if isinstance(answer, CitadelError):
                self._refused.labels(answer.reason.value).inc()
            else:
                self._signed.inc()
        return answers
