"""The tokens of the node's workloads: what is kept is given at once, what is not is fetched, once for all who wait."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from citadel.clock import Clock
from citadel.entry import Entry
from citadel.errors import CitadelError, NotFound, PermissionDenied, Reason, Unavailable
from citadel.jwt_svid import JwtSvid
from citadel.limiter import RateLimiter
from citadel.peer import Party
from citadel.rpc import OnRefusal
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.waiting import first_of
from sds.holdings import Holdings, HoldingsFeed
from sds.tokens.cache import HeldToken, TokenCache, TokenKey
from sds.tokens.fetching import TokenFetcher, Wanted
from sds.tokens.signer import TokenSigner

# How long who could be given a good token waits for a fresher one.
PATIENCE: Final = 1.0  # seconds
RETRY: Final = timedelta(seconds=5)
_BURST_SECONDS: Final = 5

_Results = Mapping[TokenKey, JwtSvid | CitadelError]


class TokenKeeper:
    """Gives out JWT-SVIDs that were checked, never one that has ended.

    One that has more than half of its life is given as it is. Then a fresh one is fetched, and the old one given on
    while none comes (invariant 5). `per_second` bounds how many tokens one user can make the server sign, root too: in
    containers everybody is root. Where callers are known by their pods it is a pod instead. `on_refusal` is told of
    every token that was asked for and not had.
    """

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        feed: HoldingsFeed,
        signer: TokenSigner,
        clock: Clock,
        per_second: float,
        on_refusal: OnRefusal | None = None,
        cache: TokenCache | None = None,
    ) -> None:
        self._trust_domain = trust_domain
        self._feed = feed
        self._clock = clock
        self._on_refusal = on_refusal
        self._cache = cache or TokenCache()
        self._fetcher = TokenFetcher(trust_domain=trust_domain, signer=signer, feed=feed, clock=clock)
        self._burst = max(1, int(_BURST_SECONDS * per_second))
        self._limiter = RateLimiter(clock=clock, per_second=per_second, burst=self._burst)
        self._under_way: dict[TokenKey, asyncio.Task[_Results]] = {}
        self._seen = Holdings()

    async def tokens(
        self, entries: Sequence[Entry], audience: tuple[str, ...], *, party: Party
    ) -> Sequence[JwtSvid | CitadelError]:
        """A token of each entry for all of `audience`, or why there is none, for a process of this party."""
        self._follow()
        wanted = [Wanted(entry=entry, audience=audience) for entry in entries]
        due = [each for each in wanted if not self._is_revoked(each.entry.spiffe_id) and self._is_due(each)]
        refusal = self._begin(due, party)
        tasks = {each.key: self._under_way[each.key] for each in due if each.key in self._under_way}
        await self._wait(due, set(tasks.values()))
        return [self._result(each, tasks.get(each.key), refusal) for each in wanted]

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = set(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _is_due(self, wanted: Wanted) -> bool:
        held = self._usable(wanted)
        return held is None or held.renew_at <= self._clock.now()

    def _begin(self, due: Sequence[Wanted], party: Party) -> CitadelError | None:
        """Fetch together what nobody fetches yet. Who made the server sign too much already is refused that."""
        fresh = [each for each in due if each.key not in self._under_way]
        if not fresh:
            return None
        try:
            # Who has more identities than may be signed for at once takes all that there is: else it never had any.
            self._limiter.admit(party, count=min(len(fresh), self._burst))
        except CitadelError as error:
            return error
        # A task of its own: whoever asked first may go, and others wait for the same.
        task = asyncio.create_task(self._fetch(fresh), name="tokens")
        self._under_way.update(dict.fromkeys((each.key for each in fresh), task))
        return None

    async def _wait(self, due: Sequence[Wanted], tasks: set[asyncio.Task[_Results]]) -> None:
        """For all that is under way; where everything could be given as it is, only for a while."""
        if not tasks:
            return
        if all(self._usable(each) for each in due):
            await first_of(_all_of(tasks), self._clock.sleep(PATIENCE))
        else:
            await _all_of(tasks)

    async def _fetch(self, wanted: Sequence[Wanted]) -> _Results:
        try:
            results = await self._fetcher.fetch(wanted)
            for each in wanted:
                self._take(each, results[each.key])
            return results
        finally:
            for each in wanted:
                self._under_way.pop(each.key, None)

    def _take(self, wanted: Wanted, result: JwtSvid | CitadelError) -> None:
        now, held = self._clock.now(), self._cache.get(wanted.key)
        if isinstance(result, JwtSvid):
            life = result.expires_at - now
            self._cache.put(wanted.key, HeldToken(svid=result, renew_at=now + life / 2))
            return
        if self._on_refusal is not None:
            self._on_refusal("SignJwtSvids", result)
        if is_final(result):  # it has lost the right to what is kept, too
            self._cache.drop(wanted.key)
        elif held is not None:
            self._cache.put(wanted.key, replace(held, renew_at=now + RETRY))

    def _result(
        self, wanted: Wanted, task: asyncio.Task[_Results] | None, refusal: CitadelError | None
    ) -> JwtSvid | CitadelError:
        held = self._usable(wanted)  # the entry, the key or the time may have gone while it was fetched
        if held is not None:
            return held.svid
        if self._is_revoked(wanted.entry.spiffe_id):
            return PermissionDenied(Reason.IDENTITY_REVOKED, f"{wanted.entry.spiffe_id} was revoked")
        if task is not None and not task.cancelled() and isinstance(result := task.result()[wanted.key], CitadelError):
            return result
        return refusal or Unavailable(
            Reason.NOT_READY, f"there is no good token of {wanted.entry.spiffe_id} now", fix="try again in a moment"
        )

    def _usable(self, wanted: Wanted) -> HeldToken | None:
        held = self._cache.get(wanted.key)
        # The entry may have been given another identity since the caller was looked at, and its new bearer have asked.
        if held is None or held.svid.spiffe_id != wanted.entry.spiffe_id:
            return None
        return held if self._is_good(wanted.entry.id, held) else None

    def _follow(self) -> None:
        """Forget what the holdings no longer vouch for."""
        seen, current = self._seen, self._feed.current
        if not (
            current.entries is seen.entries
            and current.bundles is seen.bundles
            and current.revoked_identities is seen.revoked_identities
        ):
            self._cache.keep_only(self._is_good)
        self._seen = current

    def _is_good(self, entry_id: str, held: HeldToken) -> bool:
        """Whether this may be given out for the entry as things are: every reason to forget a token stands here.

        A key that is gone from the bundle vouches for nothing: after an emergency nobody believes its tokens.
        """
        holdings = self._feed.current
        entry, bundle = holdings.entries.get(entry_id), holdings.bundles.get(self._trust_domain)
        if entry is None or entry.spiffe_id != held.svid.spiffe_id or self._is_revoked(entry.spiffe_id):
            return False
        if bundle is None or held.svid.key_id not in bundle.jwt_authorities:
            return False
        if entry.expires_at is not None and held.svid.expires_at > entry.expires_at:  # it was to live longer then
            return False
        return held.svid.expires_at > self._clock.now()

    def _is_revoked(self, spiffe_id: SpiffeId) -> bool:
        return spiffe_id in self._feed.current.revoked_identities


def is_final(refusal: CitadelError) -> bool:
    """Whether it says that the identity may not have a token, rather than that none can be had now."""
    return isinstance(refusal, PermissionDenied | NotFound)


async def _all_of(tasks: set[asyncio.Task[_Results]]) -> None:
    """Wait for tasks that others wait for too, so that who gives up does not end them."""
    await asyncio.wait(tasks)
