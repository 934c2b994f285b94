"""The issuing authority of this server, renewed ahead of its end, and the bundle that it is trusted by."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import uuid4

import structlog
from cryptography.hazmat.primitives.asymmetric import ec

from ca.authority.model import Authority, AuthorityKind, AuthorityState
from ca.authority.ports import AuthorityStore, KeyManager, UpstreamAuthority
from ca.keys.sealing import KeyPurpose
from citadel.bundle import TrustBundle
from citadel.clock import Clock, sleep_until
from citadel.errors import CitadelError, Reason, Unavailable
from citadel.spiffe import TrustDomain

_log = structlog.get_logger(__name__)

REFRESH_HINT: Final = timedelta(minutes=5)
_LEAST_PAUSE: Final = timedelta(seconds=1)
_RETRY_AFTER: Final = timedelta(seconds=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuingAuthority:
    """The authority that signs leaves now, with its key at hand."""

    authority: Authority
    key: ec.EllipticCurvePrivateKey


class AuthorityManager:
    """Owns the issuing authority. `start` before use; `run` keeps it fresh."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        upstream: UpstreamAuthority,
        keys: KeyManager,
        store: AuthorityStore,
        clock: Clock,
        issuer_lifetime: timedelta,
        backdate: timedelta,
        issuer_at: float = 0.5,
    ) -> None:
        """`issuer_at` is the share of its life after which the issuing authority is renewed."""
        self._issuer_at = issuer_at
        self._trust_domain = trust_domain
        self._upstream = upstream
        self._keys = keys
        self._store = store
        self._clock = clock
        self._issuer_lifetime = issuer_lifetime
        self._backdate = backdate
        self._issuing: IssuingAuthority | None = None
        self._issuers: tuple[Authority, ...] = ()  # also those that sign no more
        self._turn = asyncio.Lock()  # one change of authorities at a time
        self._watchers: list[Callable[[], None]] = []
        self._bundle: TrustBundle | None = None

    async def start(self) -> None:
        """Take up the recorded authority where it still serves, make what is missing, and settle the bundle."""
        await self._upstream.start()
        self._issuers = tuple(a for a in await self._store.load() if a.kind is AuthorityKind.ISSUER)
        active = next((a for a in reversed(self._issuers) if a.state is AuthorityState.ACTIVE), None)
        if active is not None and active.not_after > self._clock.now():
            key = await self._keys.signer(active.key_id, KeyPurpose.ISSUER)
            self._issuing = IssuingAuthority(authority=active, key=key)
        else:
            await self._renew()
        self._bundle = await self._settle_bundle()

    async def run(self) -> None:
        """Renew the issuing authority when it is old enough, for ever; while that fails the old one serves."""
        while self._issuing is not None:
            previous = self._issuing.authority
            await self._clock.sleep(_LEAST_PAUSE.total_seconds())  # near the root's end lives get short: no busy loop
            await sleep_until(
                self._clock, previous.created_at + (previous.not_after - previous.created_at) * self._issuer_at
            )
            try:
                await self._renew_unless_renewed(previous)
            except CitadelError as error:
                _log.error("issuing authority not renewed", reason=error.reason, error=str(error))
                await self._clock.sleep(_RETRY_AFTER.total_seconds())

    def watch(self, callback: Callable[[], None]) -> None:
        """Call `callback` at every change of the bundle from now on."""
        self._watchers.append(callback)

    async def prepare_root(self, authority_id: str) -> None:
        """Put a new root of this id into the bundle; it signs nothing yet. Asked again, it changes nothing."""
        async with self._turn:
            await self._upstream.prepare(authority_id)
            await self._change_bundle()

    async def activate_root(self, authority_id: str, *, taints: bool) -> None:
        """Sign under this root from now on, by a new issuing authority. Asked again, it changes nothing."""
        async with self._turn:
            await self._upstream.activate(authority_id, taints=taints)
            if self._issuing is None or self._issuing.authority.parent_id != authority_id:
                await self._renew()

    async def renew_issuer(self, authority_id: str) -> None:
        """Sign by a new issuing authority of this id. Asked again, it changes nothing."""
        async with self._turn:
            if self._issuing is None or self._issuing.authority.id != authority_id:
                await self._renew(authority_id)

    async def drop_roots(self, authority_ids: Collection[str]) -> None:
        """Take roots out of the bundle, and forget them and what they signed. Asked again, it changes nothing."""
        async with self._turn:
            await self._forget_issuers([issuer for issuer in self._issuers if issuer.parent_id in authority_ids])
            await self._upstream.drop(authority_ids)
            await self._change_bundle()

    async def drop_issuers(self, authority_ids: Collection[str]) -> None:
        """Forget issuing authorities that sign no more. Asked again, it changes nothing."""
        async with self._turn:
            old = [each for each in self._issuers if each.state is not AuthorityState.ACTIVE]
            await self._forget_issuers([each for each in old if each.id in authority_ids])

    def backdated(self, moment: datetime) -> datetime:
        """Where the validity of a leaf begins that is signed at `moment`; certificates count whole seconds."""
        return (moment - self._backdate).replace(microsecond=0)

    def issuers(self) -> tuple[Authority, ...]:
        """The issuing authorities that are on record, oldest first: the one that signs, and earlier ones."""
        return self._issuers

    async def _renew_unless_renewed(self, previous: Authority) -> None:
        async with self._turn:
            if self._issuing is not None and self._issuing.authority is previous:
                await self._renew()

    async def _forget_issuers(self, gone: Sequence[Authority]) -> None:
        if gone:
            await self._store.set_states({issuer.id: AuthorityState.REVOKED for issuer in gone})
            self._issuers = tuple(issuer for issuer in self._issuers if issuer not in gone)

    async def _change_bundle(self) -> None:
        self._bundle = await self._settle_bundle()
        for callback in self._watchers:
            callback()

    def issuing(self) -> IssuingAuthority:
        """The authority to sign with. Raises `Unavailable` (`issuer_unavailable`) when it has ended."""
        if self._issuing is None or self._issuing.authority.not_after <= self._clock.now():
            raise Unavailable(Reason.ISSUER_UNAVAILABLE, "there is no valid issuing authority")
        return self._issuing

    def bundle(self) -> TrustBundle:
        """The trust bundle of this server's own domain."""
        if self._bundle is None:
            raise Unavailable(Reason.ISSUER_UNAVAILABLE, "the authorities are not started")
        return self._bundle

    def authorities(self) -> tuple[Authority, ...]:
        """The roots and the issuing authority, for people to look at."""
        return (*self._upstream.authorities(), *([self._issuing.authority] if self._issuing else []))

    async def _renew(self, authority_id: str = "") -> None:
        now = self._clock.now()
        key_id = await self._keys.create(KeyPurpose.ISSUER)
        try:
            key = await self._keys.signer(key_id, KeyPurpose.ISSUER)
            minted = await self._upstream.mint(
                key.public_key(), not_before=now - self._backdate, not_after=now + self._issuer_lifetime
            )
        except BaseException:
            # Nothing names this key yet, so every failed try would leave one behind. Once the row was tried it must
            # stay: a commit that seemed to fail may have come through.
            await self._forget_key(key_id)
            raise
        authority = Authority(
            id=authority_id or uuid4().hex,
            kind=AuthorityKind.ISSUER,
            state=AuthorityState.ACTIVE,
            key_id=key_id,
            certificate=minted.certificate,
            parent_id=minted.root_id,
            created_at=now,
        )
        # Recorded before it signs: after a crash the next start finds it and goes on with it (invariant 12).
        replaced = [issuer for issuer in self._issuers if issuer.state is AuthorityState.ACTIVE]
        await self._store.record(authority, replaces=[issuer.id for issuer in replaced])
        old = (replace(each, state=AuthorityState.OLD) if each in replaced else each for each in self._issuers)
        self._issuers = (*old, authority)
        self._issuing = IssuingAuthority(authority=authority, key=key)
        await self._forget_issuers([issuer for issuer in self._issuers if issuer.not_after <= now])
        for issuer in replaced:
            await self._forget_key(issuer.key_id)
        _log.info("issuing authority made", authority=authority.id, not_after=authority.not_after.isoformat())

    async def _forget_key(self, key_id: str) -> None:
        try:
            await self._keys.delete(key_id)
        except CitadelError as error:
            _log.warning("unused key not deleted", key=key_id, error=str(error))

    async def _settle_bundle(self) -> TrustBundle:
        bundle = TrustBundle(
            trust_domain=self._trust_domain,
            x509_authorities=self._upstream.roots(),
            refresh_hint=REFRESH_HINT,
        )
        sequence = await self._store.bundle_sequence(bundle.x509_digest())
        return TrustBundle(
            trust_domain=self._trust_domain,
            x509_authorities=self._upstream.roots(),
            sequence=sequence,
            refresh_hint=REFRESH_HINT,
        )
