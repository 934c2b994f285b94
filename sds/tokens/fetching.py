"""One round to the server: tokens asked for together, and judged once the keys that signed them are known."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from citadel.bundle import TrustBundle
from citadel.clock import Clock
from citadel.entry import Entry
from citadel.errors import CitadelError, Reason, ResourceExhausted, Unavailable
from citadel.jwt_svid import JwtSvid
from citadel.spiffe import TrustDomain
from citadel.waiting import news_or_time
from sds.holdings import HoldingsFeed
from sds.tokens.cache import TokenKey
from sds.tokens.check import check_token, key_id_of
from sds.tokens.signer import TokenRequest, TokenSigner

WITHIN: Final = timedelta(seconds=5)
# A key is published before it signs. Where the answer overtakes the bundle, it comes a moment later.
KEY_COMES_WITHIN: Final = 2.0  # seconds
_LARGEST_BATCH: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A token that is to be fetched."""

    entry: Entry
    audience: tuple[str, ...]

    @property
    def key(self) -> TokenKey:
        """What it is kept under."""
        return TokenKey(entry_id=self.entry.id, audience=self.audience)


class TokenFetcher:
    """Asks `signer`, and judges by the own bundle in `feed`."""

    def __init__(self, *, trust_domain: TrustDomain, signer: TokenSigner, feed: HoldingsFeed, clock: Clock) -> None:
        self._trust_domain = trust_domain
        self._signer = signer
        self._feed = feed
        self._clock = clock

    async def fetch(self, wanted: Sequence[Wanted]) -> Mapping[TokenKey, JwtSvid | CitadelError]:
        """The tokens, or why there is none. Never raises a `CitadelError`: one takes nothing from the others."""
        answers: list[str | CitadelError] = []
        for start in range(0, len(wanted), _LARGEST_BATCH):
            answers += await self._sign(wanted[start : start + _LARGEST_BATCH])
        named = {key_id_of(each) for each in answers if isinstance(each, str)}
        bundle = await self._bundle_with(named - {""})
        judged = await asyncio.to_thread(self._judge, wanted, answers, bundle)
        return {each.key: result for each, result in zip(wanted, judged, strict=True)}

    async def _sign(self, wanted: Sequence[Wanted]) -> Sequence[str | CitadelError]:
        requests = [TokenRequest(entry_id=each.entry.id, audience=each.audience) for each in wanted]
        try:
            return await self._signer.sign(requests, within=WITHIN)
        except CitadelError as error:
            if error.reason is not Reason.BATCH_TOO_LARGE or len(wanted) == 1:
                return [_for_a_workload(error)] * len(wanted)
        half = len(wanted) // 2
        return [*await self._sign(wanted[:half]), *await self._sign(wanted[half:])]

    async def _bundle_with(self, key_ids: set[str]) -> TrustBundle:
        """The own bundle, as soon as it has all of these keys, or after a while without them."""
        news, until = asyncio.Event(), self._clock.monotonic() + KEY_COMES_WITHIN
        self._feed.watch(news)
        try:
            while True:
                news.clear()
                bundle = self._feed.current.bundles.get(self._trust_domain)
                bundle = bundle or TrustBundle(trust_domain=self._trust_domain)
                left = until - self._clock.monotonic()
                if key_ids <= bundle.jwt_authorities.keys() or left <= 0:
                    return bundle
                await news_or_time(news, left, clock=self._clock)
        finally:
            self._feed.unwatch(news)

    def _judge(
        self, wanted: Sequence[Wanted], answers: Sequence[str | CitadelError], bundle: TrustBundle
    ) -> list[JwtSvid | CitadelError]:
        now = self._clock.now()
        return [
            answer if isinstance(answer, CitadelError) else _judge_one(each, answer, bundle, now)
            for each, answer in zip(wanted, answers, strict=True)
        ]


def _for_a_workload(error: CitadelError) -> CitadelError:
    """Why a whole call failed: what the server holds against this agent is not said of its workloads."""
    if isinstance(error, Unavailable | ResourceExhausted):
        return error
    return Unavailable(error.reason, f"this agent cannot have tokens signed: {error.message}")


def _judge_one(wanted: Wanted, token: str, bundle: TrustBundle, now: datetime) -> JwtSvid | CitadelError:
    try:
        return check_token(token, entry=wanted.entry, audience=wanted.audience, bundle=bundle, now=now)
    except CitadelError as error:
        return error
