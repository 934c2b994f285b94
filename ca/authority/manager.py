"""Every change of this server's authorities, and the bundle and the lists that say so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives import hashes

from ca.audit.trail import Acts
from ca.authority.fresh_root import FreshRoot
from ca.authority.issuers import Issuers
from ca.authority.jwt import JwtAuthorities
from ca.authority.model import Authority, AuthorityState, IssuingAuthority
from ca.authority.own_bundle import OwnBundle
from ca.authority.ports import (
    AuthorityStore,
    BundleSequences,
    KeyManager,
    Lists,
    SignedDownstream,
    UpstreamAuthority,
)
from ca.authority.prospects import Prospects
from citadel.bundle import TrustBundle
from citadel.clock import Clock
from citadel.errors import FailedPrecondition, Reason
from citadel.succession import Succession

_CLOCKS_DIFFER: Final = timedelta(minutes=5)  # between clusters: what has not begun yet at a child is of no use to it


class AuthorityManager:
    """Has roots, issuing authorities and the keys of tokens change one at a time, and publishes what they are then.

    `start` before use. `jwt` are those keys, and `prospects` says what a rotation would find.
    What is new signs nothing until `activate_root` or `activate_issuer`: who calls these has waited until everybody
    knows it. Each method, asked again after a crash, changes nothing more.
    """

    def __init__(  # noqa: PLR0913 - what authorities come from, and what they are kept in and told by
        self,
        *,
        own: OwnBundle,
        upstream: UpstreamAuthority,
        keys: KeyManager,
        store: AuthorityStore,
        lists: Lists,
        acts: Acts,
        clock: Clock,
        issuer_lifetime: timedelta,
        backdate: timedelta,
    ) -> None:
        self.jwt = own.jwt
        self._own = own
        self._upstream = upstream
        self._issuers = Issuers(
            upstream=upstream, keys=keys, store=store, clock=clock, lifetime=issuer_lifetime, backdate=backdate
        )
        self.prospects = Prospects(upstream=upstream, issuers=self._issuers)
        self._lists = lists
        self._clock = clock
        self._fresh_root = FreshRoot(upstream=upstream, acts=acts, clock=clock)
        self._backdate = backdate
        self._turn = asyncio.Lock()  # one change of authorities at a time
        self._watchers: list[Callable[[], None]] = []
        self._is_settled = False

    async def start(self) -> None:
        """Take up the recorded authority where it still serves, make what is missing, and settle the bundle."""
        await self._upstream.start()
        await self._issuers.load()
        signed = self._issuers.still_serving()
        if signed is None:
            await self._issuers.activate(await self._successor())
        elif not await self._issuers.takes_up(signed):
            await self._issuers.activate(await self._in_its_place())
        await self.jwt.start()
        await self._settle()

    @asynccontextmanager
    async def changing_jwt(self) -> AsyncIterator[JwtAuthorities]:
        """Change the JWT authorities within this; at its end the bundle says so."""
        async with self._turn:
            self._is_settled = False  # also where what is done here fails half way
            yield self.jwt
            await self._settle()

    @asynccontextmanager
    async def changing_upstream(self) -> AsyncIterator[None]:
        """Change what the upstream or a neighbour says within this; at its end bundle and lists say so."""
        async with self._turn:
            self._is_settled = False
            yield
            await self._settle()
            self._tell()  # the states of roots may be others, where the bundle is the same

    async def settle_anew(self) -> None:
        """Have bundle and lists say what neighbours say now."""
        async with self.changing_upstream():
            pass

    def watch(self, callback: Callable[[], None]) -> None:
        """Call `callback` at every change of the bundle, and of the states of roots, from now on."""
        self._watchers.append(callback)

    async def prepare_root(self, root_id: str) -> None:
        """Put a new root of this id into the bundle, and an issuing authority under it beside the one that signs."""
        async with self._turn:
            await self._upstream.prepare(root_id)
            if self._issuers.newest_under(root_id) is None:
                await self._issuers.make(root_id=root_id)
            await self._settle()

    async def prepare_issuer(self, issuer_id: str) -> None:
        """Have an issuing authority of this id, under the root as it is, beside the one that signs."""
        async with self._turn:
            if all(each.id != issuer_id for each in self.issuers()):
                await self._issuers.make(issuer_id)
            await self._settle()

    async def activate_root(self, root_id: str, *, taints: bool) -> None:
        """Sign under this root from now on, by the issuing authority that was prepared under it."""
        async with self._turn:
            await self._upstream.activate(root_id, taints=taints)
            signing = self._issuers.signing()
            if signing is None or signing.parent_id != root_id:
                issuer = self._issuers.newest_under(root_id) or await self._issuers.make(root_id=root_id)
                await self._settle()  # whoever has no list of an authority refuses what it signs
                await self._issuers.activate(issuer)
            self._tell()

    async def activate_issuer(self, issuer_id: str) -> None:
        """Sign by the issuing authority of this id from now on; by a new one where it has ended meanwhile."""
        async with self._turn:
            signing = self._issuers.signing()
            if signing is None or signing.id != issuer_id:
                issuer = self._issuers.usable(issuer_id) or await self._issuers.make()
                await self._settle()
                await self._issuers.activate(issuer)

    async def replace_issuer(self) -> None:
        """Sign by a new issuing authority at once, whoever has not heard of it: the last resort before an outage.

        Its list is published before it signs, and it is the same one where that failed a moment ago.
        """
        async with self._turn:
            fresh = self._issuers.fresh() or await self._issuers.made_or_at_hand()
            await self._settle()
            await self._issuers.activate(fresh)

    async def drop_roots(self, root_ids: Collection[str]) -> None:
        """Take roots out of the bundle, and forget them and the issuing authorities under them."""
        async with self._turn:
            await self._issuers.forget([issuer for issuer in self.issuers() if issuer.parent_id in root_ids])
            try:
                await self._upstream.drop(root_ids)
            finally:  # what leaked does not stay because something else cannot go yet
                await self._settle()

    async def drop_issuers(self, issuer_ids: Collection[str]) -> None:
        """Forget issuing authorities that do not sign now."""
        async with self._turn:
            await self._issuers.forget([each for each in self.issuers() if each.id in issuer_ids])
            await self._settle()

    async def drop_ended(self, now: datetime) -> None:
        """Forget issuing and JWT authorities that had ended by `now`: nothing that they signed is valid any more."""
        ended = any(each.not_after <= now for each in self.issuers() if each.state is not AuthorityState.ACTIVE)
        if ended or self.jwt.has_ended(now) or not self._is_settled:
            async with self._turn:
                await self._issuers.forget([each for each in self.issuers() if each.not_after <= now])
                await self.jwt.drop_ended(now)
                await self._settle()

    def backdated(self, moment: datetime) -> datetime:
        """Where the validity of a leaf begins that is signed at `moment`; certificates count whole seconds."""
        return (moment - self._backdate).replace(microsecond=0)

    def issuers(self) -> tuple[Authority, ...]:
        """The issuing authorities that are on record, oldest first: the one that signs, and earlier ones."""
        return self._issuers.on_record()

    def issuing(self) -> IssuingAuthority:
        """The authority to sign with. Raises `Unavailable` (`issuer_unavailable`) when it, or its root, is no more."""
        return self._issuers.issuing()

    def bundle(self) -> TrustBundle:
        """The trust bundle of this server's own domain."""
        return self._own.bundle()

    def own_roots(self) -> TrustBundle:
        """What this server's own listeners believe: of that bundle only what the upstream vouches for."""
        return replace(self.bundle(), x509_authorities=self._upstream.roots(), jwt_authorities={})

    def joining_bundle(self) -> TrustBundle:
        """That bundle without the roots that workloads alone trust: how agents know the servers of this cluster."""
        return replace(self.bundle(), x509_authorities=self._upstream.roots())

    def for_workloads_alone(self) -> list[bytes]:
        """SHA-256 of the authorities of `bundle` that are no roots of our own, as its sequence stands for them."""
        return [each.fingerprint(hashes.SHA256()) for each in self._own.for_workloads_alone()]

    async def sign_downstream(self, csr: bytes, *, lifetime: timedelta) -> SignedDownstream:
        """Sign an issuing authority of a child, as `UpstreamAuthority.sign_downstream` does."""
        now = self._clock.now()
        begin = now - max(self._backdate, _CLOCKS_DIFFER)
        return await self._upstream.sign_downstream(csr, not_before=begin, not_after=now + lifetime)

    def sequences(self) -> BundleSequences:
        """The sequence of that bundle, and of each half of it."""
        return self._own.sequences()

    def successions(self) -> Sequence[Succession]:
        """What roots that are gone said of those after them."""
        return self._upstream.successions()

    def authorities(self) -> tuple[Authority, ...]:
        """The roots and the issuing authorities, the oldest first."""
        return (*self._upstream.authorities(), *self.issuers())

    def root_key_ids(self) -> frozenset[bytes]:
        """What certificates call the roots by that are trusted now."""
        return frozenset(root.subject_key_id for root in self._upstream.authorities())

    async def _successor(self) -> Authority:
        """What is to sign where nothing that did can any more."""
        if self._issuers.prepared() is None:
            await self._fresh_root.take(self.issuers())
        return self._issuers.prepared() or await self._issuers.make()

    async def _in_its_place(self) -> Authority:
        """What is to sign where the key of what did is gone; those of others on record may be gone too."""
        try:
            return await self._issuers.make()
        except FailedPrecondition as error:
            if error.reason is not Reason.UPSTREAM_DECIDES:
                raise
            await self._fresh_root.take(self.issuers())  # as after a restore: the root was rotated since
            return await self._issuers.make()

    async def _settle(self) -> None:
        """Publish the lists and the bundle as they must be now. Where it fails, `drop_ended` tries again."""
        self._is_settled = False
        self._issuers.note_whether_orphaned()
        # Agents refuse a set with the list of an authority that no root in the bundle vouches for.
        vouched = [*self._upstream.authorities(), *self._issuers.vouched_for()]
        async with self._lists.settled(vouched, self._own.lists_of_others()):
            is_new = await self._own.settle(self._upstream.roots())
            self._is_settled = True
        if is_new:
            self._tell()

    def _tell(self) -> None:
        for callback in self._watchers:
            callback()
