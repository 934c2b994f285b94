"""The issuing authorities on record: where new ones come from, which of them signs, and how they are forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import structlog

from ca.authority.fresh_key import forget_key
from ca.authority.model import (
    Authority,
    AuthorityKind,
    AuthorityState,
    IssuingAuthority,
    newest_under,
    prepared_under_the_active,
)
from ca.authority.ports import AuthorityStore, KeyManager, UpstreamAuthority
from ca.keys.remote import SigningKey
from ca.keys.sealing import KeyPurpose
from citadel.clock import Clock
from citadel.errors import CitadelError, FailedPrecondition, Reason, Unavailable

_log = structlog.get_logger(__name__)


class Issuers:
    """Keeps them, and the key of the one that signs. `load` before use; changed only by `AuthorityManager`, in turn."""

    def __init__(
        self,
        *,
        upstream: UpstreamAuthority,
        keys: KeyManager,
        store: AuthorityStore,
        clock: Clock,
        lifetime: timedelta,
        backdate: timedelta,
    ) -> None:
        self._upstream = upstream
        self._keys = keys
        self._store = store
        self._clock = clock
        self._lifetime = lifetime
        self._backdate = backdate
        self._all: tuple[Authority, ...] = ()
        self._issuing: IssuingAuthority | None = None
        self._is_orphaned = False  # the root above the authority that signs is gone

    async def load(self) -> None:
        """Take up what is recorded; nothing signs yet."""
        self._all = tuple(a for a in await self._store.load() if a.kind is AuthorityKind.ISSUER)

    def on_record(self) -> tuple[Authority, ...]:
        """All of them, oldest first: the one that signs, those prepared to, and earlier ones."""
        return self._all

    def issuing(self) -> IssuingAuthority:
        """The authority to sign with. Raises `Unavailable` (`issuer_unavailable`) when it, or its root, is no more."""
        if self._issuing is None or self._has_ended(self._issuing.authority):
            raise Unavailable(Reason.ISSUER_UNAVAILABLE, "there is no valid issuing authority")
        if self._is_orphaned:
            raise Unavailable(Reason.ISSUER_UNAVAILABLE, "the root above the issuing authority is trusted no more")
        return self._issuing

    def signing(self) -> Authority | None:
        """What was put to sign last, even where it has ended since; None where nothing was since the start."""
        return self._issuing.authority if self._issuing is not None else None

    def still_serving(self) -> Authority | None:
        """What signed before the start, if it can go on: it has not ended, and its root is there."""
        active = next((each for each in reversed(self._all) if each.state is AuthorityState.ACTIVE), None)
        return active if active is not None and not self._has_ended(active) and self._is_vouched_for(active) else None

    def usable(self, issuer_id: str) -> Authority | None:
        """The one of this id, if it has not ended."""
        return next((each for each in self._all if each.id == issuer_id and not self._has_ended(each)), None)

    def newest_under(self, root_id: str) -> Authority | None:
        """The newest under the root of this id that has not ended."""
        return newest_under(root_id, self._all, now=self._clock.now())

    def prepared(self) -> Authority | None:
        """The newest that was prepared under the active root."""
        return prepared_under_the_active(self._upstream.authorities(), self._all, now=self._clock.now())

    def fresh(self) -> Authority | None:
        """One that was prepared under the active root and has most of its life before it."""
        found = self.prepared()
        if found is None or AuthorityKind.ISSUER in self._upstream.decides:  # there is none that lives longer
            return found
        return found if found.not_after - self._clock.now() > self._lifetime / 2 else None

    def longer_at_hand(self) -> Authority | None:
        """One that was prepared under the active root, if it lives longer than what signs."""
        found, issuing = self.prepared(), self._issuing
        is_longer = found is not None and (issuing is None or found.not_after > issuing.authority.not_after)
        return found if is_longer else None

    def vouched_for(self) -> list[Authority]:
        """Those whose root is there."""
        return [each for each in self._all if self._is_vouched_for(each)]

    async def make(self, issuer_id: str = "", *, root_id: str = "") -> Authority:
        """A prepared issuing authority, under the root of this id or else under the active one."""
        now = self._clock.now()
        # Once the row was tried the key must stay: a commit that seemed to fail may have come through.
        minted = await self._upstream.mint(
            not_before=now - self._backdate, not_after=now + self._lifetime, root_id=root_id
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
        is_again = (each for each in self._all if each.certificate == minted.certificate)
        await self.forget([each for each in is_again if each.state is AuthorityState.PREPARED])
        self._all = (*self._all, authority)
        _log.info("issuing authority made", authority=authority.id, not_after=authority.not_after.isoformat())
        return authority

    async def made_or_at_hand(self) -> Authority:
        """A new one; where none can be had, one that was prepared long ago is better than none."""
        at_hand = self.longer_at_hand()
        if at_hand is not None and not self._upstream.can_mint():
            return at_hand
        try:
            return await self.make()
        except CitadelError:
            if at_hand is None:
                raise
            return at_hand

    async def activate(self, authority: Authority) -> None:
        """Sign by this one from now on; what signed before becomes OLD."""
        key = await self._keys.signer(authority.key_id, KeyPurpose.ISSUER)  # first: it may be away
        # Recorded before it signs: after a crash the next start finds it and goes on with it (invariant 12).
        states = {each.id: AuthorityState.OLD for each in self._all if each.state is AuthorityState.ACTIVE}
        states[authority.id] = AuthorityState.ACTIVE
        await self._store.set_states(states)
        self._all = tuple(replace(each, state=states.get(each.id, each.state)) for each in self._all)
        self._sign_with(next(each for each in self._all if each.id == authority.id), key)
        _log.info("issuing authority signs", authority=authority.id)

    async def takes_up(self, authority: Authority) -> bool:
        """Sign by what signed before; False where its key is gone from Vault, as after a restore of an older backup."""
        try:
            self._sign_with(authority, await self._keys.signer(authority.key_id, KeyPurpose.ISSUER))
        except FailedPrecondition as error:
            if error.reason is not Reason.VAULT_KEY_LOST:
                raise
            _log.error("another issuing authority is made", instead_of=authority.id, error=str(error))
            return False
        return True

    async def forget(self, issuers: Sequence[Authority]) -> None:
        """Forget these with their keys, but never the active one."""
        gone = [each for each in issuers if each.state is not AuthorityState.ACTIVE]
        if not gone:
            return
        await self._store.set_states({issuer.id: AuthorityState.REVOKED for issuer in gone})
        self._all = tuple(issuer for issuer in self._all if issuer not in gone)
        for issuer in gone:
            await forget_key(self._keys, issuer.key_id)

    def note_whether_orphaned(self) -> None:
        """Look whether the root above what signs is there now: without it nothing is signed."""
        self._is_orphaned = self._issuing is not None and not self._is_vouched_for(self._issuing.authority)

    def _sign_with(self, authority: Authority, key: SigningKey) -> None:
        self._issuing = IssuingAuthority(authority=authority, key=key)
        self.note_whether_orphaned()

    def _is_vouched_for(self, issuer: Authority) -> bool:
        return any(root.id == issuer.parent_id for root in self._upstream.authorities())

    def _has_ended(self, authority: Authority) -> bool:
        return authority.not_after <= self._clock.now()
