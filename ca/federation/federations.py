"""Federations: made and ended by administrators, and their bundles fetched again and again as their owners ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog

from ca.audit.model import Act, Actor
from ca.federation.known import ForeignBundles, Source
from ca.federation.model import Federation
from ca.federation.refreshing import Refreshing
from ca.federation.rules import check_federation, check_trust, seconds_to_next
from ca.federation.standing import Following, Standing
from citadel.bundle import TrustBundle
from citadel.clock import Clock
from citadel.errors import AlreadyExists, CitadelError, NotFound, Reason
from citadel.spiffe import TrustDomain
from citadel.tasks import to_its_end

_log = structlog.get_logger(__name__)

_LEAST: Final = timedelta(seconds=1)  # the least hint that a server takes, which then waits no longer for who looks
_FIRST_WITHIN: Final = 30.0  # seconds from the start: many federations do not begin all at once
_KEEP_SECONDS: Final = 600.0


class FederationStore(Protocol):
    """Where federations are durable, apart from their bundles; `ForeignBundles.remove` ends one with its bundle."""

    async def load(self) -> Sequence[Federation]:
        """Every federation, by the name of its trust domain."""
        ...

    async def create(self, federation: Federation, act: Act) -> None:
        """Keep a new one, and note the act with it."""
        ...

    async def note_refreshed(self, moments: Mapping[TrustDomain, datetime]) -> None:
        """Keep when each of these was fetched last."""
        ...


class Federations:
    """The only writer of federations. What a fetch brings goes to `ForeignBundles`, unless the federation has ended."""

    def __init__(
        self,
        *,
        store: FederationStore,
        bundles: ForeignBundles,
        own: TrustDomain,
        refreshing: Refreshing,
        clock: Clock,
        draw: Callable[[], float],
        least: timedelta = _LEAST,
    ) -> None:
        """`draw` gives a number from 0 to 1, anew for each interval. `least` is the shortest interval."""
        self._store = store
        self._bundles = bundles
        self._own = own
        self._refreshing = refreshing
        self._clock = clock
        self._draw = draw
        self._least = least
        self._all: dict[TrustDomain, Following] = {}
        self._is_running = False

    async def start(self) -> None:
        """Know those of the store. Nothing is fetched before `run`."""
        for each in await self._store.load():
            if each.trust_domain != self._own:
                self._all[each.trust_domain] = Following(each, each.refreshed_at, each.refreshed_at)

    async def run(self) -> None:
        """Fetch, for ever."""
        self._is_running = True
        try:
            for each in self._all.values():
                first = min(self._seconds_to_next(each), _FIRST_WITHIN)
                self._follow(each, first * self._draw())
            while True:
                await self._clock.sleep(_KEEP_SECONDS)
                with suppress(CitadelError):  # the next time, then
                    await self._keep_moments()
        finally:
            self._is_running = False
            polling = [each.polling for each in self._all.values() if each.polling is not None]
            for task in polling:
                task.cancel()
            await asyncio.gather(*polling, return_exceptions=True)

    def all(self) -> list[Standing]:
        """Every federation, by the name of its trust domain."""
        return [each.standing() for _, each in sorted(self._all.items(), key=lambda item: item[0].name)]

    def has(self, trust_domain: TrustDomain) -> bool:
        """Whether there is one with this trust domain, also where it has brought no bundle yet."""
        return trust_domain in self._all

    def get(self, trust_domain: TrustDomain) -> Standing:
        """Raises `NotFound` (`federation_not_found`)."""
        return self._known(trust_domain).standing()

    async def create(self, wanted: Federation, bootstrap: TrustBundle | None, *, why: str, by: Actor) -> Standing:
        """Set one up, and fetch its bundle at once; where that fails, `error` of the answer says why.

        `bootstrap` is in force until then.

        Raises:
            InvalidArgument: `federation_malformed`, `federation_own_domain`.
            AlreadyExists: `federation_exists`.
            FailedPrecondition: `bundle_older`: a newer bundle than `bootstrap` is known.
            Unavailable: `store_unavailable`, `lease_lost`.
        """
        check_federation(self._own, wanted)
        made = await to_its_end(self._create(wanted, bootstrap, why, by))
        await self._try(made)
        self._follow(made, self._seconds_to_next(made))
        return made.standing()

    async def refresh(self, trust_domain: TrustDomain, *, force: bool, why: str, by: Actor) -> Standing:
        """Fetch now; with `force` a bundle of an older sequence is taken too. It is in the audit log what came of it.

        Raises as a fetch does, or `NotFound` (`federation_not_found`), or `FailedPrecondition` (`bundle_older`).
        """
        known = self._known(trust_domain)
        detail = "by force" if force else ""
        act = Act(actor=by, what="federation.refresh", target=trust_domain.name, detail=detail, why=why)
        await self._refreshing.refresh(known, act=act, force=force)
        self._follow(known, self._seconds_to_next(known))
        return known.standing()

    async def delete(self, trust_domain: TrustDomain, *, why: str, by: Actor) -> Standing:
        """End it: its bundle is gone from everybody, whatever is being fetched. Raises `NotFound`, `Unavailable`."""
        return await to_its_end(self._delete(trust_domain, why, by))

    async def _create(self, wanted: Federation, bootstrap: TrustBundle | None, why: str, by: Actor) -> Following:
        name, now = wanted.trust_domain.name, self._clock.now()
        detail = f"{wanted.profile.value} {wanted.place} {wanted.endpoint_id or ''}".rstrip()
        act = Act(actor=by, what="federation.create", target=name, detail=detail, why=why)
        async with self._bundles.bringing:
            if wanted.trust_domain in self._all:
                raise AlreadyExists(
                    Reason.FEDERATION_EXISTS, f"there is a federation with {name}", fix="delete it first to change it"
                )
            known = self._bundles.get(wanted.trust_domain)
            check_trust(wanted, bootstrap if known is None else known.bundle)
            if bootstrap is None:
                await self._store.create(wanted, act)
            else:
                await self._bundles.put(bootstrap, Source.FEDERATION, now, act=act, federation=wanted)
            made = self._all[wanted.trust_domain] = Following(wanted, None)
            self._follow(made, self._seconds_to_next(made))  # also where whoever asked for it goes away now
        _log.info("federation created", trust_domain=name, url=wanted.place, profile=wanted.profile.value)
        return made

    async def _delete(self, trust_domain: TrustDomain, why: str, by: Actor) -> Standing:
        async with self._bundles.bringing:
            known = self._known(trust_domain)
            act = Act(actor=by, what="federation.delete", target=trust_domain.name, why=why)
            async with known.changing:
                await self._bundles.remove(trust_domain, at=self._clock.now(), act=act)
                del self._all[trust_domain]
                known.end()
        _log.info("federation deleted", trust_domain=trust_domain.name)
        return known.standing()

    def _known(self, trust_domain: TrustDomain) -> Following:
        known = self._all.get(trust_domain)
        if known is None:
            raise NotFound(
                Reason.FEDERATION_NOT_FOUND,
                f"there is no federation with {trust_domain}",
                fix="`citadel-cli federation list` shows those that there are",
            )
        return known

    def _follow(self, known: Following, seconds: float) -> None:
        """Fetch in so many seconds, and from then on as its bundle says. Whoever polled it before no longer does."""
        known.stop_polling()
        if self._is_running and not known.has_ended:
            known.next_refresh_at = self._clock.now() + timedelta(seconds=seconds)
            known.polling = asyncio.create_task(self._poll(known, seconds))

    async def _poll(self, known: Following, seconds: float) -> None:
        while True:
            await self._clock.sleep(seconds)
            await self._try(known)
            seconds = self._seconds_to_next(known)
            known.next_refresh_at = self._clock.now() + timedelta(seconds=seconds)

    def _seconds_to_next(self, known: Following) -> float:
        found = self._bundles.get(known.federation.trust_domain)
        return seconds_to_next(
            found.bundle if found is not None else None,
            failed=known.error is not None,
            least=self._least,
            draw=self._draw(),
        )

    async def _try(self, known: Following) -> None:
        """Fetch; what is wrong is told, and the bundle in force stays."""
        with suppress(CitadelError):
            await self._refreshing.refresh(known, act=None, force=False)

    async def _keep_moments(self) -> None:
        moments = {
            name: each.refreshed_at
            for name, each in self._all.items()
            if each.refreshed_at is not None and each.refreshed_at != each.kept_at
        }
        if moments:
            await self._store.note_refreshed(moments)
        for name, at in moments.items():
            if name in self._all:
                self._all[name].kept_at = at
