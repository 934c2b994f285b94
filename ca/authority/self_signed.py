"""Upstream `self`: a root in the server's own key manager."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final
from uuid import uuid4

import structlog
from cryptography import x509

from ca.authority.certificates import build_issuer, build_root
from ca.authority.fresh_key import forget_key, fresh_key
from ca.authority.model import Authority, AuthorityKind, AuthorityState, old_and_ended
from ca.authority.ports import AuthorityStore, KeyManager, MintedIssuer, Pending, SignedDownstream
from ca.authority.vouching import Vouching
from ca.issuance.csr import public_key_of
from ca.keys.kinds import AuthorityPublicKey
from ca.keys.sealing import KeyPurpose
from ca.keys.signing import sign_with
from citadel.clock import Clock
from citadel.errors import FailedPrecondition, Reason, Unavailable
from citadel.serial import new_serial
from citadel.spiffe import TrustDomain
from citadel.succession import Succession

_log = structlog.get_logger(__name__)

_NO_KEY: Final = "the key of the root is not here: it came from another upstream"


class SelfSignedUpstream:
    """Fulfils `UpstreamAuthority` with a root of its own."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        keys: KeyManager,
        store: AuthorityStore,
        vouching: Vouching,
        clock: Clock,
        root_lifetime: timedelta,
        backdate: timedelta,
    ) -> None:
        self._trust_domain = trust_domain
        self._keys = keys
        self._store = store
        self._vouching = vouching
        self._clock = clock
        self._root_lifetime = root_lifetime
        self._backdate = backdate
        self._roots: tuple[Authority, ...] = ()

    async def start(self) -> None:
        await self._vouching.start()
        self._roots = tuple(a for a in await self._store.load() if a.kind is AuthorityKind.ROOT)
        for root in self._roots:
            if root.key_id:  # others are of an upstream that there was before
                _check_trust_domain(root.certificate, self._trust_domain)
        if not any(root.state is AuthorityState.ACTIVE for root in self._roots):
            self._roots = (*self._roots, await self._make_root(uuid4().hex, AuthorityState.ACTIVE))
        await self.drop(old_and_ended(self._roots, self._clock.now()))

    @property
    def decides(self) -> frozenset[AuthorityKind]:
        return frozenset()

    @property
    def advice(self) -> str:
        return ""

    def pending(self) -> Pending | None:
        return None

    def can_mint(self) -> bool:
        return True

    def can_make_root(self) -> bool:
        return True

    def cannot_sign(self) -> str:
        now = self._clock.now()
        for root in self._roots:
            if root.state is AuthorityState.ACTIVE and (not root.key_id or root.not_after <= now):
                return "the root has ended" if root.key_id else _NO_KEY
        return ""

    async def mint(self, *, not_before: datetime, not_after: datetime, root_id: str = "") -> MintedIssuer:
        root = self._root_to_sign_with(root_id)
        async with fresh_key(self._keys, KeyPurpose.ISSUER) as (key_id, key):
            certificate = await self._signed(root, key.public_key(), not_before=not_before, not_after=not_after)
        return MintedIssuer(certificate=certificate, root_id=root.id, key_id=key_id)

    async def sign_downstream(self, csr: bytes, *, not_before: datetime, not_after: datetime) -> SignedDownstream:
        root, public_key = self._root_to_sign_with(""), public_key_of(csr)
        certificate = await self._signed(root, public_key, not_before=not_before, not_after=not_after)
        return SignedDownstream(chain=(certificate,), root=root.certificate)

    async def prepare(self, authority_id: str) -> None:
        if all(root.id != authority_id for root in self._roots):
            self._roots = (*self._roots, await self._make_root(authority_id, AuthorityState.PREPARED))

    async def activate(self, authority_id: str, *, taints: bool) -> None:
        left = AuthorityState.TAINTED if taints else AuthorityState.OLD
        if not taints:  # from here on the server proves itself by the new one, which who is away does not know
            new = [root.certificate for root in self._roots if root.id == authority_id]
            for root in self._roots:
                if root.state is AuthorityState.ACTIVE and root.id != authority_id and root.key_id:
                    await self._vouching.leave(root, new)
        # An emergency may have ended a rotation half way: nobody knows which of the others is the one that leaked.
        leaving = (AuthorityState.ACTIVE, AuthorityState.OLD) if taints else (AuthorityState.ACTIVE,)
        states = {root.id: left for root in self._roots if root.state in leaving}
        states[authority_id] = AuthorityState.ACTIVE
        await self._store.set_states(states)
        self._roots = tuple(replace(root, state=states.get(root.id, root.state)) for root in self._roots)

    async def drop(self, authority_ids: Collection[str]) -> None:
        gone = [r for r in self._roots if r.id in authority_ids and r.state is not AuthorityState.ACTIVE]
        if not gone:
            return
        await self._leave_word(gone)
        await self._store.set_states({root.id: AuthorityState.REVOKED for root in gone})
        self._roots = tuple(root for root in self._roots if root not in gone)
        for root in filter(lambda each: each.key_id, gone):
            await forget_key(self._keys, root.key_id)

    def roots(self) -> tuple[x509.Certificate, ...]:
        return tuple(root.certificate for root in self._roots)

    def successions(self) -> Sequence[Succession]:
        return self._vouching.current()

    def authorities(self) -> tuple[Authority, ...]:
        """The roots with their states, for `status`."""
        return self._roots

    async def _leave_word(self, gone: Sequence[Authority]) -> None:
        """Whoever was away knows no other root than these. A tainted one says nothing, and nothing leads to it."""
        heirs = [root.certificate for root in self._roots if root.state is AuthorityState.ACTIVE]
        for root in gone:
            if root.state is AuthorityState.OLD and root.key_id:
                await self._vouching.leave(root, heirs)
            elif root.state is AuthorityState.TAINTED:
                await self._vouching.taint(root.certificate)

    async def _signed(
        self, root: Authority, public_key: AuthorityPublicKey, *, not_before: datetime, not_after: datetime
    ) -> x509.Certificate:
        serial = new_serial()
        return await sign_with(
            await self._keys.signer(root.key_id, KeyPurpose.ROOT),
            lambda root_key: build_issuer(
                trust_domain=self._trust_domain,
                public_key=public_key,
                root=root.certificate,
                root_key=root_key,
                not_before=not_before,
                not_after=not_after,
                serial=serial,
            ),
        )

    def _root_to_sign_with(self, root_id: str) -> Authority:
        now = self._clock.now()
        for root in self._roots:
            is_meant = root.id == root_id if root_id else root.state is AuthorityState.ACTIVE
            if is_meant and not root.key_id:
                raise Unavailable(
                    Reason.ISSUER_UNAVAILABLE,
                    _NO_KEY,
                    fix="rotate the root, and this server has one of its own",
                )
            if is_meant and root.not_after > now:
                return root
        raise Unavailable(Reason.ISSUER_UNAVAILABLE, "the root has expired", fix="rotate the root")

    async def _make_root(self, authority_id: str, state: AuthorityState) -> Authority:
        # The key is durable before the row that names it: a crash between the two leaves an unused key, never a root
        # without one (invariant 12).
        now, serial = self._clock.now(), new_serial()
        async with fresh_key(self._keys, KeyPurpose.ROOT) as (key_id, key):
            certificate = await sign_with(
                key,
                lambda own: build_root(
                    trust_domain=self._trust_domain,
                    key=own,
                    now=now,
                    lifetime=self._root_lifetime,
                    backdate=self._backdate,
                    serial=serial,
                ),
            )
        root = Authority(
            id=authority_id,
            kind=AuthorityKind.ROOT,
            state=state,
            key_id=key_id,
            certificate=certificate,
            parent_id=None,
            created_at=now,
        )
        await self._store.record(root)
        _log.info("root made", authority=root.id, not_after=root.not_after.isoformat())
        return root


def _check_trust_domain(root: x509.Certificate, trust_domain: TrustDomain) -> None:
    names = root.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found = names.get_values_for_type(x509.UniformResourceIdentifier)
    if found != [str(trust_domain.id)]:
        raise FailedPrecondition(
            Reason.DATA_DIR_FOREIGN,
            f"the store holds a root of {', '.join(found)}, and trust_domain is {trust_domain}",
            fix="set trust_domain back, or start with an empty data_dir and store",
        )
