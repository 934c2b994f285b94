"""Upstream `files`: the authority in a folder is the issuing authority, and the folder says which roots are trusted.

What is in force is on record here, and its key with the key manager: whatever happens to the folder, it goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import uuid4

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from ca.authority.model import Authority, AuthorityKind, AuthorityState, old_and_ended
from ca.authority.ports import AuthorityStore, KeyManager, MintedIssuer, Pending, SignedDownstream
from ca.authority.vouching import Vouching
from ca.keys.sealing import KeyPurpose
from ca.upstream.files.beside import check_beside
from ca.upstream.files.folder import invalid
from ca.upstream.files.offer import Offer
from citadel.clock import Clock
from citadel.errors import CitadelError, FailedPrecondition, Reason, Unavailable
from citadel.succession import Succession

_log = structlog.get_logger(__name__)

# A file of roots that is being written may end, for a moment, right after one of them. And who took one away by mistake
# has this long to put it back.
_LEFT_OUT_FOR: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look at the folder found: an offer, or why there is none."""

    offer: Offer | None = None
    trouble: CitadelError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RootChange:
    """A root that is trusted from now on because the folder lists it, or no more because it does not."""

    certificate: x509.Certificate
    is_added: bool


class FilesUpstream:
    """Fulfils `UpstreamAuthority`. `read` reads and judges the folder, and blocks while it does."""

    def __init__(
        self,
        *,
        folder: Path,
        read: Callable[[Collection[x509.Certificate]], Offer],
        keys: KeyManager,
        store: AuthorityStore,
        vouching: Vouching,
        clock: Clock,
        alone: bool,
    ) -> None:
        """`alone` where no other cluster has an authority under these roots, so that revocation lists are pushed."""
        self.folder = folder
        self._alone = alone
        self._read = read
        self._keys = keys
        self._store = store
        self._vouching = vouching
        self._clock = clock
        self._roots: tuple[Authority, ...] = ()
        self._listed: tuple[x509.Certificate, ...] | None = None  # by the last good folder; None before there was one
        self._left_out: dict[str, float] = {}  # since when, by the clock that never jumps
        self.found = Look()
        self.troubled_since: datetime | None = None

    async def start(self) -> None:
        await self._vouching.start()
        self._roots = tuple(a for a in await self._store.load() if a.kind is AuthorityKind.ROOT)
        found = await self.look()
        if all(root.state is not AuthorityState.ACTIVE for root in self._roots):
            if found.offer is None:
                raise found.trouble or invalid(self.folder, "was not read")
            await self._record(found.offer.root, AuthorityState.ACTIVE)
        await self.take(found)
        await self.drop(old_and_ended(self._roots, self._clock.now()))

    async def look(self) -> Look:
        """Read the folder. Changes nothing; `take` does. Raises `Unavailable` (`store_unavailable`)."""
        issuers = [a for a in await self._store.load() if a.kind is AuthorityKind.ISSUER]
        trusted = [root.certificate for root in self._roots if root.state is AuthorityState.ACTIVE]
        try:
            offer = await asyncio.to_thread(self._read, trusted)
            check_beside(offer, self._roots, issuers, folder=self.folder, may_keep_key=not self._alone)
        except CitadelError as error:
            return Look(trouble=error)
        return Look(offer=offer)

    def tainted_and_listed(self) -> x509.Certificate | None:
        """A root that is not to be trusted, and is only because the folder lists it."""
        tainted = (root.certificate for root in self._of(AuthorityState.TAINTED))
        return next((each for each in tainted if each in (self._listed or ())), None)

    def is_news(self, look: Look) -> bool:
        """Whether taking this would change anything."""
        is_other = look.offer != self.found.offer or str(look.trouble) != str(self.found.trouble)
        return is_other or bool(self._left_out and look.offer is not None)

    async def take(self, look: Look) -> list[RootChange]:
        """Go by this from now on. Roots that are listed are trusted at once; what comes of the rest is `pending`.

        One change of authorities at a time: within `AuthorityManager.changing_upstream`.
        """
        self.found = look
        if look.offer is None:
            self.troubled_since = self.troubled_since or self._clock.now()
            return []
        self.troubled_since, self._listed = None, look.offer.roots
        return [*await self._add_listed(look.offer.roots), *await self._drop_left_out(look.offer)]

    @property
    def decides(self) -> frozenset[AuthorityKind]:
        return frozenset({AuthorityKind.ROOT, AuthorityKind.ISSUER})

    def can_mint(self) -> bool:
        return self.found.offer is not None

    def pending(self) -> Pending | None:
        offer = self.found.offer
        if offer is None:
            return None
        is_root = all(root.certificate != offer.root for root in self._of(AuthorityState.ACTIVE))
        why = f"{self.folder} holds another issuing authority{', under another root' if is_root else ''}"
        return Pending(is_root=is_root, why=why, certificate=offer.certificate)

    def cannot_sign(self) -> str:
        if self.found.offer is None:
            return f"{self.folder} holds nothing that could sign"
        pending = self.pending()
        return pending.why if pending is not None and pending.is_root else ""

    async def mint(self, *, not_before: datetime, not_after: datetime, root_id: str = "") -> MintedIssuer:  # noqa: ARG002 - nobody can ask a folder for another lifetime
        offer = self._offered()
        wanted = [root for root in self._roots if root.id == root_id] if root_id else self._of(AuthorityState.ACTIVE)
        if all(root.certificate != offer.root for root in wanted):
            raise FailedPrecondition(
                Reason.UPSTREAM_DECIDES,
                f"the authority in {self.folder} is under another root than the one that is asked for",
                fix="let the rotation that takes it go on",
            )
        if offer.certificate.not_valid_after_utc <= self._clock.now():
            raise Unavailable(Reason.ISSUER_UNAVAILABLE, f"the authority in {self.folder} has expired")
        key_id = await self._keys.adopt(offer.key, KeyPurpose.ISSUER)
        return MintedIssuer(certificate=offer.certificate, root_id=wanted[0].id, key_id=key_id, chain=offer.chain)

    async def sign_downstream(self, csr: bytes, *, not_before: datetime, not_after: datetime) -> SignedDownstream:  # noqa: ARG002 - there is nothing to sign it with
        raise FailedPrecondition(
            Reason.UPSTREAM_CANNOT_SIGN,
            f"the authority in {self.folder} signs leaves and no authorities, and its root is elsewhere",
            fix="give the child a folder of its own with `citadel-cli root sign`, or a parent whose root is its own",
        )

    async def prepare(self, authority_id: str) -> None:
        known = next((root for root in self._roots if root.id == authority_id), None)
        if known is not None and (self.found.offer is None or await self._has_issuers(known)):
            return
        offer = self._offered()
        # Whoever was killed before there was an issuing authority under it finds what the folder holds by now.
        if known is None or known.certificate != offer.root:
            await self._record(offer.root, AuthorityState.PREPARED, authority_id)
        # It was trusted already, because it is listed: from now on under this id.
        twins = [r for r in self._of(AuthorityState.PREPARED) if r.certificate == offer.root and r.id != authority_id]
        await self._forget([twin for twin in twins if not await self._has_issuers(twin)])

    async def activate(self, authority_id: str, *, taints: bool) -> None:
        left = AuthorityState.TAINTED if taints else AuthorityState.OLD
        if not taints:
            new = [root.certificate for root in self._roots if root.id == authority_id]
            for root in self._of(AuthorityState.ACTIVE):
                if root.key_id and root.id != authority_id:  # it was a root of this server's own
                    await self._vouching.leave(root, new)
        leaving = (AuthorityState.ACTIVE, AuthorityState.OLD) if taints else (AuthorityState.ACTIVE,)
        await self._set_states({root.id: left for root in self._of(*leaving)} | {authority_id: AuthorityState.ACTIVE})

    async def drop(self, authority_ids: Collection[str]) -> None:
        going = [r for r in self._roots if r.id in authority_ids and r.state is not AuthorityState.ACTIVE]
        stay = {root.certificate for root in self._roots if root not in going}
        gone = []
        for root in going:
            # The folder lists it still, for other clusters. Before a good folder was seen, nobody knows.
            if root.certificate not in stay and (self._listed is None or root.certificate in self._listed):
                stay.add(root.certificate)
            else:
                gone.append(root)
        await self._forget(gone)

    def roots(self) -> tuple[x509.Certificate, ...]:
        return tuple(dict.fromkeys(root.certificate for root in self._roots))

    def successions(self) -> Sequence[Succession]:
        return self._vouching.current()

    def authorities(self) -> tuple[Authority, ...]:
        return self._roots

    async def _add_listed(self, listed: Sequence[x509.Certificate]) -> list[RootChange]:
        known = set(self.roots())
        added = [root for root in listed if root not in known]
        for root in added:
            await self._record(root, AuthorityState.PREPARED)
        return [RootChange(certificate=root, is_added=True) for root in added]

    async def _drop_left_out(self, offer: Offer) -> list[RootChange]:
        """Those that the folder lists no more, and nothing here hangs on; what does goes by a rotation."""
        issuers = [a for a in await self._store.load() if a.kind is AuthorityKind.ISSUER]
        needed = {issuer.parent_id for issuer in issuers}
        left_out = [
            root
            for root in self._roots
            if root.certificate not in offer.roots and root.state is not AuthorityState.ACTIVE and root.id not in needed
        ]
        now = self._clock.monotonic()
        self._left_out = {root.id: self._left_out.get(root.id, now) for root in left_out}
        gone = [root for root in left_out if now - self._left_out[root.id] >= _LEFT_OUT_FOR.total_seconds()]
        await self._forget(gone)
        for root in gone:
            del self._left_out[root.id]
        return [RootChange(certificate=root.certificate, is_added=False) for root in gone]

    async def _has_issuers(self, root: Authority) -> bool:
        return any(each.parent_id == root.id for each in await self._store.load())

    def _offered(self) -> Offer:
        if self.found.offer is None:
            raise self.found.trouble or invalid(self.folder, "was not read yet")
        return self.found.offer

    def _of(self, *states: AuthorityState) -> list[Authority]:
        return [root for root in self._roots if root.state in states]

    async def _record(self, certificate: x509.Certificate, state: AuthorityState, authority_id: str = "") -> None:
        root = Authority(
            id=authority_id or uuid4().hex,
            kind=AuthorityKind.ROOT,
            state=state,
            key_id="",
            certificate=certificate,
            parent_id=None,
            created_at=self._clock.now(),
        )
        await self._store.record(root)
        self._roots = (*(each for each in self._roots if each.id != root.id), root)
        _log.info("root recorded", authority=root.id, sha256=certificate.fingerprint(hashes.SHA256()).hex())

    async def _set_states(self, states: dict[str, AuthorityState]) -> None:
        await self._store.set_states(states)
        self._roots = tuple(replace(root, state=states.get(root.id, root.state)) for root in self._roots)

    async def _forget(self, gone: Sequence[Authority]) -> None:
        if not gone:
            return
        heirs = [root.certificate for root in self._of(AuthorityState.ACTIVE)]
        for root in gone:
            if root.key_id and root.state is AuthorityState.OLD:
                await self._vouching.leave(root, heirs)
            elif root.state is AuthorityState.TAINTED:
                await self._vouching.taint(root.certificate)
        await self._store.set_states({root.id: AuthorityState.REVOKED for root in gone})
        self._roots = tuple(root for root in self._roots if root not in gone)
        for root in gone:
            if root.key_id:
                await self._keys.delete(root.key_id)
