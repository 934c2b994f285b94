"""The foreign bundles that are in force, in memory, and durable before anybody sees them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol

from ca.audit.model import Act
from ca.federation.model import Federation
from ca.federation.rules import check_foreign, check_order, check_owner, check_size
from citadel.bundle import TrustBundle
from citadel.spiffe import TrustDomain
from citadel.tasks import to_its_end


class Source(StrEnum):
    """What brought a foreign bundle."""

    FEDERATION = "federation"
    SET = "set"  # a person, by hand


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBundle:
    """A foreign bundle in force. `updated_at` is when it became what it is."""

    bundle: TrustBundle
    source: Source
    updated_at: datetime


class ForeignBundleStore(Protocol):
    """Where foreign bundles are durable."""

    async def load(self) -> Sequence[KnownBundle]:
        """All of them."""
        ...

    async def put(self, known: KnownBundle, act: Act | None, *, at: datetime, federation: Federation | None) -> None:
        """Keep it in the place of the one of its trust domain, with a new federation, and note the act with it."""
        ...

    async def remove(self, trust_domain: TrustDomain, act: Act | None, *, at: datetime) -> None:
        """Forget the bundle, and the federation that brings it, and note the act with it. Gone already is no error."""
        ...


Watcher = Callable[[TrustDomain], None]


class ForeignBundles:
    """All foreign bundles in force, each under its own trust domain; they are never merged (invariant 7).

    The own trust domain is none of them: see `ca.federation.rules.check_foreign`. `bringing` is held by who says who
    brings a bundle, be it a federation or a person, from looking at who does until it is in memory.
    """

    def __init__(self, *, trust_domain: TrustDomain, store: ForeignBundleStore) -> None:
        """`trust_domain` is the own one."""
        self._own = trust_domain
        self._store = store
        self._known: dict[TrustDomain, KnownBundle] = {}
        self._watchers: list[Watcher] = []
        self.bringing = asyncio.Lock()
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Fill memory from the store."""
        # A store that was restored from that of another trust domain has none of ours, whatever its rows say.
        found = [each for each in await self._store.load() if each.bundle.trust_domain != self._own]
        self._known = {each.bundle.trust_domain: each for each in found}

    def get(self, trust_domain: TrustDomain) -> KnownBundle | None:
        """The bundle of this trust domain."""
        return self._known.get(trust_domain)

    def all(self) -> Mapping[TrustDomain, KnownBundle]:
        """All of them by trust domain; a view that follows every change."""
        return MappingProxyType(self._known)

    def watch(self, callback: Watcher) -> None:
        """Call `callback` with the trust domain whose bundle changed or went, from now on.

        What changed may be no more than its sequence or its refresh hint.
        """
        self._watchers.append(callback)

    async def put(
        self,
        bundle: TrustBundle,
        source: Source,
        at: datetime,
        *,
        act: Act | None = None,
        force: bool = False,
        federation: Federation | None = None,
    ) -> bool:
        """Put `bundle` in force; with `force` also an older one. Whether it is another one than before.

        Durable first, with `act` in the audit log and with a new `federation`; then in memory; then watchers are told.
        One that is in force already changes nothing, and is written only where there is an act to note.

        Raises:
            InvalidArgument: `federation_own_domain`, or `bundle_malformed` for too many authorities, or another's.
            FailedPrecondition: `bundle_older`.
            Unavailable: `store_unavailable`, `lease_lost`; then nothing has changed.
        """
        check_foreign(self._own, bundle.trust_domain)
        check_size(bundle)
        check_owner(self._own, bundle)
        wanted = KnownBundle(bundle=bundle, source=source, updated_at=at)
        return await to_its_end(self._put(wanted, act, force=force, federation=federation))

    async def remove(self, trust_domain: TrustDomain, *, at: datetime, act: Act | None = None) -> KnownBundle | None:
        """Take the bundle from everybody, and forget the federation that brings it. Raises `Unavailable` as `put`."""
        return await self.remove_by(lambda: self._store.remove(trust_domain, act, at=at), trust_domain)

    async def remove_by(self, forget: Callable[[], Awaitable[object]], trust_domain: TrustDomain) -> KnownBundle | None:
        """As `remove`, where `forget` has the store do it, in a transaction that does more."""
        return await to_its_end(self._remove(forget, trust_domain))

    async def _put(self, wanted: KnownBundle, act: Act | None, *, force: bool, federation: Federation | None) -> bool:
        trust_domain = wanted.bundle.trust_domain
        async with self._turn:
            before = self._known.get(trust_domain)
            if not force:
                check_order(before.bundle if before is not None else None, wanted.bundle)
            is_other = before is None or (before.bundle, before.source) != (wanted.bundle, wanted.source)
            if is_other or act is not None:
                known = wanted if before is None or is_other else before
                await self._store.put(known, act, at=wanted.updated_at, federation=federation)
                self._known[trust_domain] = known
            if is_other:
                self._tell(trust_domain)
            return is_other

    async def _remove(self, forget: Callable[[], Awaitable[object]], trust_domain: TrustDomain) -> KnownBundle | None:
        async with self._turn:
            await forget()
            before = self._known.pop(trust_domain, None)
            if before is not None:
                self._tell(trust_domain)
            return before

    def _tell(self, trust_domain: TrustDomain) -> None:
        for callback in self._watchers:
            callback(trust_domain)
