"""The issuing authorities of this server, and the bundle that they are trusted by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import uuid4

import structlog
from cryptography.hazmat.primitives import hashes

from ca.audit.trail import Acts
from ca.authority.fresh_key import forget_key
from ca.authority.fresh_root import FreshRoot
from ca.authority.jwt import JwtAuthorities
from ca.authority.model import Authority, AuthorityKind, AuthorityState
from ca.authority.own_bundle import OwnBundle
from ca.authority.ports import (
    AuthorityStore,
    BundleSequences,
    KeyManager,
    Lists,
    Pending,
    SignedDownstream,
    UpstreamAuthority,
)
from ca.keys.remote import SigningKey
from ca.keys.sealing import KeyPurpose
from citadel.bundle import TrustBundle
from citadel.clock import Clock
from citadel.errors import CitadelError, FailedPrecondition, Reason, Unavailable
from citadel.succession import Succession

_log = structlog.get_logger(__name__)

_CLOCKS_DIFFER: Final = timedelta(minutes=5)  # between clusters: what has not begun yet at a child is of no use to it


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuingAuthority:
    """The authority that signs leaves now, with its key at hand."""

    authority: Authority
    key: SigningKey


class AuthorityManager:
    """Owns the issuing authorities: the one that signs, the one that is prepared to, and those that did.

    `start` before use.
    What is new signs nothing until `activate_root` or `activate_issuer`: who calls these has waited until everybody
    knows it. Each method, asked again after a crash, changes nothing more.
    """

    def __init__(  # noqa: PLR0913 - where authorities are wired: each part is given, none is made in secret
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
        self._keys = keys
        self._store = store
        self._lists = lists
        self._clock = clock
        self._fresh_root = FreshRoot(upstream=upstream, acts=acts, clock=clock)
        self._issuer_lifetime = issuer_lifetime
        self._backdate = backdate
        self._issuing: IssuingAuthority | None = None
        self._issuers: tuple[Authority, ...] = ()
        self._turn = asyncio.Lock()  # one change of authorities at a time
        self._watchers: list[Callable[[], None]] = []
        self._is_settled = False
        self._is_orphaned = False  # the root above the authority that signs is gone

    async def start(self) -> None:
        """Take up the recorded authority where it still serves, make what is missing, and settle the bundle."""
        await self._upstream.start()
        self._issuers = tuple(a for a in await self._store.load() if a.kind is AuthorityKind.ISSUER)
        active = next((a for a in reversed(self._issuers) if a.state is AuthorityState.ACTIVE), None)
        if active is None or self._has_ended(active) or not self._is_vouched_for(active):
            await self._activate(await self._successor())
        elif not await self._takes_up(active):
            await self._activate(await self._in_its_place())
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
            if self._newest_issuer(root_id) is None:
                await self._make_issuer(root_id=root_id)
            await self._settle()

    async def prepare_issuer(self, issuer_id: str) -> None:
        """Have an issuing authority of this id, under the root as it is, beside the one that signs."""
        async with self._turn:
            if all(each.id != issuer_id for each in self._issuers):
                await self._make_issuer(issuer_id)
            await self._settle()

    async def activate_root(self, root_id: str, *, taints: bool) -> None:
        """Sign under this root from now on, by the issuing authority that was prepared under it."""
        async with self._turn:
            await self._upstream.activate(root_id, taints=taints)
            if self._issuing is None or self._issuing.authority.parent_id != root_id:
                issuer = self._newest_issuer(root_id) or await self._make_issuer(root_id=root_id)
                await self._settle()  # whoever has no list of an authority refuses what it signs
                await self._activate(issuer)
            self._tell()

    async def activate_issuer(self, issuer_id: str) -> None:
        """Sign by the issuing authority of this id from now on; by a new one where it has ended meanwhile."""
        async with self._turn:
            if self._issuing is None or self._issuing.authority.id != issuer_id:
                prepared = (each for each in self._issuers if each.id == issuer_id and not self._has_ended(each))
                issuer = next(prepared, None) or await self._make_issuer()
                await self._settle()
                await self._activate(issuer)

    async def replace_issuer(self) -> None:
        """Sign by a new issuing authority at once, whoever has not heard of it: the last resort before an outage.

        Its list is published before it signs, and it is the same one where that failed a moment ago.
        """
        async with self._turn:
            fresh = self._fresh_issuer() or await self._made_or_at_hand()
            await self._settle()
            await self._activate(fresh)

    async def drop_roots(self, root_ids: Collection[str]) -> None:
        """Take roots out of the bundle, and forget them and the issuing authorities under them."""
        async with self._turn:
            await self._forget_issuers([issuer for issuer in self._issuers if issuer.parent_id in root_ids])
            try:
                await self._upstream.drop(root_ids)
            finally:  # what leaked does not stay because something else cannot go yet
                await self._settle()

    async def drop_issuers(self, issuer_ids: Collection[str]) -> None:
        """Forget issuing authorities that do not sign now."""
        async with self._turn:
            await self._forget_issuers([each for each in self._issuers if each.id in issuer_ids])
            await self._settle()

    async def drop_ended(self, now: datetime) -> None:
        """Forget issuing and JWT authorities that had ended by `now`: nothing that they signed is valid any more."""
        ended = any(each.not_after <= now for each in self._issuers if each.state is not AuthorityState.ACTIVE)
        if ended or self.jwt.has_ended(now) or not self._is_settled:
            async with self._turn:
                await self._forget_issuers([each for each in self._issuers if each.not_after <= now])
                await self.jwt.drop_ended(now)
                await self._settle()

    def backdated(self, moment: datetime) -> datetime:
        """Where the validity of a leaf begins that is signed at `moment`; certificates count whole seconds."""
        return (moment - self._backdate).replace(microsecond=0)

    def issuers(self) -> tuple[Authority, ...]:
        """The issuing authorities that are on record, oldest first: the one that signs, and earlier ones."""
        return self._issuers

    def issuing(self) -> IssuingAuthority:
        """The authority to sign with. Raises `Unavailable` (`issuer_unavailable`) when it, or its root, is no more."""
        if self._issuing is None or self._issuing.authority.not_after <= self._clock.now():
            raise Unavailable(Reason.ISSUER_UNAVAILABLE, "there is no valid issuing authority")
        if self._is_orphaned:
            raise Unavailable(Reason.ISSUER_UNAVAILABLE, "the root above the issuing authority is trusted no more")
        return self._issuing

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

    def pending(self) -> Pending | None:
        """What the upstream has put up, and a rotation is to take; not what signs, or did a moment ago."""
        pending = self._upstream.pending()
        if pending is None or any(
            each.certificate == pending.certificate and each.state is not AuthorityState.PREPARED
            for each in self._issuers
        ):
            return None
        return pending

    def can_replace(self) -> bool:
        """Whether there would be an issuing authority now, if one were to take the place of the one that signs."""
        return self._longer_at_hand() is not None or self.can_mint()

    def can_mint(self) -> bool:
        """Whether a rotation that begins now would have an issuing authority to prepare."""
        if AuthorityKind.ISSUER not in self.upstream_decides:
            return self._upstream.can_mint()
        pending = self.pending()
        return self._prepared_under_the_active_root() is not None or (pending is not None and not pending.is_root)

    def can_make_root(self) -> bool:
        """Whether there would be a new root, if its time had come."""
        return self._upstream.can_make_root()

    @property
    def root_cannot_sign(self) -> bool:
        """Whether no issuing authority comes from the active root ever again: its key is elsewhere, or it has ended."""
        return bool(self._upstream.cannot_sign())

    @property
    def upstream_decides(self) -> frozenset[AuthorityKind]:
        """What is rotated when the upstream has put something up, and only then."""
        return self._upstream.decides

    @property
    def upstream_advice(self) -> str:
        """What a person does there who wants that rotated."""
        return self._upstream.advice

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
        return (*self._upstream.authorities(), *self._issuers)

    def root_key_ids(self) -> frozenset[bytes]:
        """What certificates call the roots by that are trusted now."""
        return frozenset(root.subject_key_id for root in self._upstream.authorities())

    async def _successor(self) -> Authority:
        """What is to sign where nothing that did can any more."""
        if self._prepared_under_the_active_root() is None:
            await self._fresh_root.take(self._issuers)
        return self._prepared_under_the_active_root() or await self._make_issuer()

    async def _in_its_place(self) -> Authority:
        """What is to sign where the key of what did is gone; those of others on record may be gone too."""
        try:
            return await self._make_issuer()
        except FailedPrecondition as error:
            if error.reason is not Reason.UPSTREAM_DECIDES:
                raise
            await self._fresh_root.take(self._issuers)  # as after a restore: the root was rotated since
            return await self._make_issuer()

    def _prepared_under_the_active_root(self) -> Authority | None:
        active = {root.id for root in self._upstream.authorities() if root.state is AuthorityState.ACTIVE}
        found = [
            each
            for each in self._issuers
            if each.parent_id in active and each.state is AuthorityState.PREPARED and not self._has_ended(each)
        ]
        return found[-1] if found else None

    def _fresh_issuer(self) -> Authority | None:
        """One that was prepared under the active root and has most of its life before it."""
        found = self._prepared_under_the_active_root()
        if found is None or AuthorityKind.ISSUER in self.upstream_decides:  # there is none that lives longer
            return found
        return found if found.not_after - self._clock.now() > self._issuer_lifetime / 2 else None

    def _longer_at_hand(self) -> Authority | None:
        """One that was prepared under the active root, if it lives longer than what signs."""
        found, issuing = self._prepared_under_the_active_root(), self._issuing
        is_longer = found is not None and (issuing is None or found.not_after > issuing.authority.not_after)
        return found if is_longer else None

    async def _made_or_at_hand(self) -> Authority:
        """A new one; where none can be had, one that was prepared long ago is better than none."""
        at_hand = self._longer_at_hand()
        if at_hand is not None and not self._upstream.can_mint():
            return at_hand
        try:
            return await self._make_issuer()
        except CitadelError:
            if at_hand is None:
                raise
            return at_hand

    def _newest_issuer(self, root_id: str) -> Authority | None:
        under = [each for each in self._issuers if each.parent_id == root_id and not self._has_ended(each)]
        return under[-1] if under else None

    def _is_vouched_for(self, issuer: Authority) -> bool:
        return any(root.id == issuer.parent_id for root in self._upstream.authorities())

    @staticmethod
    def _has_signed(authority: Authority) -> bool:
        return authority.state is not AuthorityState.PREPARED

    def _has_ended(self, authority: Authority) -> bool:
        return authority.not_after <= self._clock.now()

    async def _make_issuer(self, issuer_id: str = "", *, root_id: str = "") -> Authority:
        """A prepared issuing authority, under the root of this id or else under the active one."""
        now = self._clock.now()
        # Once the row was tried the key must stay: a commit that seemed to fail may have come through.
        minted = await self._upstream.mint(
            not_before=now - self._backdate, not_after=now + self._issuer_lifetime, root_id=root_id
        )
        authority = Authority(
            id=issuer_id or uuid4().hex,
            kind=AuthorityKind.ISSUER,
            state=AuthorityState.PREPARED,
            key_id=minted.key_id,
            certificate=minted.certificate,
            parent_id=minted.root_id,
            created_at=now,
            chain=minted.chain,
        )
        await self._store.record(authority)
        # One that was brought may have been brought before, for a rotation that never came to use it.
        await self._forget_issuers(
            [each for each in self._issuers if each.certificate == minted.certificate and not self._has_signed(each)]
        )
        self._issuers = (*self._issuers, authority)
        _log.info("issuing authority made", authority=authority.id, not_after=authority.not_after.isoformat())
        return authority

    async def _activate(self, authority: Authority) -> None:
        key = await self._keys.signer(authority.key_id, KeyPurpose.ISSUER)  # first: it may be away
        # Recorded before it signs: after a crash the next start finds it and goes on with it (invariant 12).
        states = {each.id: AuthorityState.OLD for each in self._issuers if each.state is AuthorityState.ACTIVE}
        states[authority.id] = AuthorityState.ACTIVE
        await self._store.set_states(states)
        self._issuers = tuple(replace(each, state=states.get(each.id, each.state)) for each in self._issuers)
        self._sign_with(next(each for each in self._issuers if each.id == authority.id), key)
        _log.info("issuing authority signs", authority=authority.id)

    async def _takes_up(self, authority: Authority) -> bool:
        """Sign by what signed before; False where its key is gone from Vault, as after a restore of an older backup."""
        try:
            self._sign_with(authority, await self._keys.signer(authority.key_id, KeyPurpose.ISSUER))
        except FailedPrecondition as error:
            if error.reason is not Reason.VAULT_KEY_LOST:
                raise
            _log.error("another issuing authority is made", instead_of=authority.id, error=str(error))
            return False
        return True

    def _sign_with(self, authority: Authority, key: SigningKey) -> None:
        self._issuing = IssuingAuthority(authority=authority, key=key)
        self._note_whether_orphaned()

    async def _forget_issuers(self, issuers: Sequence[Authority]) -> None:
        gone = [each for each in issuers if each.state is not AuthorityState.ACTIVE]
        if not gone:
            return
        await self._store.set_states({issuer.id: AuthorityState.REVOKED for issuer in gone})
        self._issuers = tuple(issuer for issuer in self._issuers if issuer not in gone)
        for issuer in gone:
            await forget_key(self._keys, issuer.key_id)

    async def _settle(self) -> None:
        """Publish the lists and the bundle as they must be now. Where it fails, `drop_ended` tries again."""
        self._is_settled = False
        self._note_whether_orphaned()
        # Agents refuse a set with the list of an authority that no root in the bundle vouches for.
        vouched = [*self._upstream.authorities(), *filter(self._is_vouched_for, self._issuers)]
        async with self._lists.settled(vouched, self._own.lists_of_others()):
            is_new = await self._own.settle(self._upstream.roots())
            self._is_settled = True
        if is_new:
            self._tell()

    def _tell(self) -> None:
        for callback in self._watchers:
            callback()

    def _note_whether_orphaned(self) -> None:
        self._is_orphaned = self._issuing is not None and not self._is_vouched_for(self._issuing.authority)
