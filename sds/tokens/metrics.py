"""What the agent measures of tokens. Labels are bounded: reasons, never an identity or an audience."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from prometheus_client import CollectorRegistry, Counter, Histogram

from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.metrics import SECONDS
from sds.answer_meter import AnswerMeter
from sds.tokens.signer import TokenRequest, TokenSigner


class MeteredTokenSigner:
    """Fulfils `sds.tokens.signer.TokenSigner` by another one, and counts what it answers."""

    def __init__(self, signer: TokenSigner, *, registry: CollectorRegistry, clock: Clock) -> None:
        self._signer = signer
        self._meter = AnswerMeter(
            signed=Counter("citadel_agent_jwt_svids_signed", "JWT-SVIDs that the server signed.", registry=registry),
            refused=Counter(
                "citadel_agent_jwt_signing_refused",
                "JWT-SVIDs that the server refused or did not answer, by reason code.",
                ["reason"],
                registry=registry,
            ),
            seconds=Histogram(
                "citadel_agent_jwt_signing_seconds",
                "How long the server took to answer a batch of JWT-SVIDs.",
                registry=registry,
                buckets=SECONDS,
            ),
            clock=clock,
        )

    async def sign(self, requests: Sequence[TokenRequest], *, within: timedelta) -> Sequence[str | CitadelError]:
        """See `TokenSigner.sign`."""
        return await self._meter.measured(self._signer.sign(requests, within=within), size=len(requests))
