"""The keys that sign JWT-SVIDs: the one that signs, the one that is prepared to, and those that did."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final
from uuid import uuid4

import structlog

from ca.authority.jwt_model import LEEWAY, JwtAuthority, JwtSigner
from ca.authority.jwt_ports import JwtAuthorityStore, JwtKeyManager
from ca.authority.model import AuthorityState
from ca.keys.kinds import KeyKind
from citadel.clock import Clock
from citadel.errors import CitadelError, FailedPrecondition, Reason, Unavailable
from citadel.jwk import JwtKey

_log = structlog.get_logger(__name__)

# How far beyond what is needed the latest exp is written, so that most tokens need no commit.
AHEAD: Final = timedelta(seconds=30)
# Nobody knows which of the others is the one that leaked; one that never signed is not to begin.
_LEFT_BY_AN_EMERGENCY: Final = (AuthorityState.PREPARED, AuthorityState.ACTIVE, AuthorityState.OLD)


class JwtAuthorities:
    """Owns the keys. `start` before use; changed only through `AuthorityManager.changing_jwt`, which publishes them.

    Each method, asked again after a crash, changes nothing more.
    """

    def __init__(
        self, *, keys: JwtKeyManager, store: JwtAuthorityStore, clock: Clock, lifetime: timedelta, kind: KeyKind
    ) -> None:
        self._keys = keys
        self._store = store
        self._clock = clock
        self._lifetime = lifetime
        self._kind = kind
        self._all: tuple[JwtAuthority, ...] = ()
        self._withdrawn = frozenset[str]()
        self._signer: JwtSigner | None = None
        self._waiting: dict[object, tuple[str, datetime]] = {}  # authority and exp of those who wait for a commit
        self._one_commit = asyncio.Lock()

    async def start(self) -> None:
        """Take up the recorded authority where it still serves, or else one that was prepared, or make one."""
        self._all = tuple(await self._store.load())
        self._withdrawn = frozenset(await self._store.withdrawn())
        active = next((each for each in reversed(self._all) if each.state is AuthorityState.ACTIVE), None)
        if active is None or active.not_after <= self._clock.now():
            await self._sign_with(self._fresh() or await self._make(uuid4().hex))
        elif not await self._takes_up(active):
            await self._sign_with(await self._make(uuid4().hex))

    def authorities(self) -> tuple[JwtAuthority, ...]:
        """All that were not revoked, the oldest first."""
        return self._all

    def published(self) -> Mapping[str, JwtKey]:
        """The public keys of the trust bundle, by key id."""
        return {each.kid: each.public_key for each in self._all}

    def withdrawn(self) -> frozenset[str]:
        """The ids of keys that were published once: whoever brings one back must not have it believed again."""
        return self._withdrawn

    def signing(self) -> JwtSigner:
        """The authority to sign with. Raises `Unavailable` (`issuer_unavailable`) when it has ended."""
        if self._signer is None or self._signer.authority.not_after <= self._clock.now():
            raise Unavailable(Reason.ISSUER_UNAVAILABLE, "there is no valid JWT authority")
        return self._signer

    async def reserve(self, signer: JwtSigner, until: datetime) -> None:
        """Return once it is durable that tokens of this authority may live until then.

        Whoever waits meanwhile shares one commit, and who needs no more than was written already waits for none. Raises
        `Unavailable`: `issuer_unavailable` where it does not sign any more, so that nobody waits for such tokens;
        `store_unavailable`. Then none of them may be handed out.
        """
        if not self._is_reserved(signer, until):
            ticket = object()
            self._waiting[ticket] = (signer.authority.id, until)
            try:
                async with self._one_commit:
                    if not self._is_reserved(signer, until):
                        await self._extend(signer.authority)
            finally:
                del self._waiting[ticket]
        if self._signer is None or self._signer.authority.id != signer.authority.id:
            raise Unavailable(Reason.ISSUER_UNAVAILABLE, "the key was replaced while it signed: ask again")

    async def prepare(self, authority_id: str) -> None:
        """Have an authority of this id, which signs nothing yet; made anew where half of its life is over unused."""
        known = self._find(authority_id)
        if known is not None and known.state is AuthorityState.PREPARED and not self._is_fresh(known):
            await self.drop([authority_id])
            known = None
        if known is None:
            await self._make(authority_id)

    async def prepare_any(self) -> str:
        """The id of one that is prepared and fresh, made where there is none."""
        return (self._fresh() or await self._make(uuid4().hex)).id

    async def activate(self, authority_id: str, *, taints: bool) -> None:
        """Sign by this one from now on, if it is prepared; with `taints` all others are TAINTED."""
        known = self._find(authority_id)
        if known is not None and known.state is AuthorityState.PREPARED:
            await self._sign_with(known, taints=taints)
        elif taints and self._signer is not None:
            await self._sign_with(self._signer.authority, taints=True)

    def is_usable(self, authority_id: str) -> bool:
        """Whether this one signs now or could."""
        known = self._find(authority_id)
        states = (AuthorityState.PREPARED, AuthorityState.ACTIVE)
        return known is not None and known.state in states and known.not_after > self._clock.now()

    async def drop(self, authority_ids: Collection[str]) -> None:
        """Forget authorities that do not sign now, with their keys."""
        await self._forget([each for each in self._all if each.id in authority_ids])

    def has_ended(self, now: datetime) -> bool:
        """Whether `drop_ended` would do something."""
        return bool(self._ended(now))

    async def drop_ended(self, now: datetime) -> None:
        """Forget those that had ended by `now`: no token that they signed is believed any more."""
        await self._forget(self._ended(now))

    def _ended(self, now: datetime) -> list[JwtAuthority]:
        return [
            each for each in self._all if each.state is not AuthorityState.ACTIVE and each.not_after + LEEWAY <= now
        ]

    def _find(self, authority_id: str) -> JwtAuthority | None:
        return next((each for each in self._all if each.id == authority_id), None)

    def _fresh(self) -> JwtAuthority | None:
        found = [each for each in self._all if each.state is AuthorityState.PREPARED and self._is_fresh(each)]
        return found[-1] if found else None

    def _is_fresh(self, authority: JwtAuthority) -> bool:
        return authority.not_after - self._clock.now() > self._lifetime / 2

    def _is_reserved(self, signer: JwtSigner, until: datetime) -> bool:
        known = self._find(signer.authority.id)
        return known is not None and known.signed_until is not None and until <= known.signed_until

    async def _extend(self, authority: JwtAuthority) -> None:
        # Only for those who wait at this moment: what a clock that jumped has asked for once makes no later drain long.
        wanted = max(until for authority_id, until in self._waiting.values() if authority_id == authority.id)
        mark = min(wanted + AHEAD, authority.not_after)
        await self._store.extend(authority.id, mark)
        self._note(authority.id, signed_until=mark)

    def _note(self, authority_id: str, *, signed_until: datetime) -> None:
        self._all = tuple(
            replace(each, signed_until=signed_until) if each.id == authority_id else each for each in self._all
        )

    async def _make(self, authority_id: str) -> JwtAuthority:
        # The key is durable before the row that names it: a crash between the two leaves an unused key (invariant 12).
        now, key_id = self._clock.now(), await self._keys.create_jwt(self._kind)
        try:
            key = await self._keys.jwt_signer(key_id)
        except CitadelError:
            await self._forget_key(key_id)  # nothing names it, and every failed try would leave one behind
            raise
        authority = JwtAuthority(
            id=authority_id,
            state=AuthorityState.PREPARED,
            key_id=key_id,
            public_key=key.public_key(),
            not_before=now,
            not_after=now + self._lifetime,
        )
        await self._store.record(authority)
        self._all = (*self._all, authority)
        _log.info("JWT authority made", authority=authority.id, not_after=authority.not_after.isoformat())
        return authority

    async def _sign_with(self, authority: JwtAuthority, *, taints: bool = False) -> None:
        # Recorded before it signs: after a crash the next start finds it and goes on with it (invariant 12).
        signer = await self._opened(authority)
        leaving = _LEFT_BY_AN_EMERGENCY if taints else (AuthorityState.ACTIVE,)
        left = AuthorityState.TAINTED if taints else AuthorityState.OLD
        states = {each.id: left for each in self._all if each.state in leaving}
        states[authority.id] = AuthorityState.ACTIVE
        await self._store.set_states(states)
        self._all = tuple(replace(each, state=states.get(each.id, each.state)) for each in self._all)
        self._signer = signer
        _log.info("JWT authority signs", authority=authority.id)

    async def _takes_up(self, authority: JwtAuthority) -> bool:
        """Sign by what signed before; False where its key is gone from Vault, as after a restore of an older backup."""
        try:
            self._signer = await self._opened(authority)
        except FailedPrecondition as error:
            if error.reason is not Reason.VAULT_KEY_LOST:
                raise
            _log.error("another JWT authority is made", instead_of=authority.id, error=str(error))
            return False
        return True

    async def _opened(self, authority: JwtAuthority) -> JwtSigner:
        return JwtSigner(authority=authority, key=await self._keys.jwt_signer(authority.key_id))

    async def _forget(self, authorities: Sequence[JwtAuthority]) -> None:
        gone = [each for each in authorities if each.state is not AuthorityState.ACTIVE]
        if not gone:
            return
        await self._store.set_states({each.id: AuthorityState.REVOKED for each in gone})
        self._all = tuple(each for each in self._all if each not in gone)
        self._withdrawn |= {each.kid for each in gone}
        for each in gone:
            await self._forget_key(each.key_id)

    async def _forget_key(self, key_id: str) -> None:
        try:
            await self._keys.delete(key_id)
        except CitadelError as error:
            _log.warning("unused key not deleted", key=key_id, error=str(error))
