"""Upstream `files`: the authority in a folder is the issuing authority, and the folder says which roots are trusted.

What is in force is on record here, and its key with the key manager: whatever happens to the folder, it goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from ca.authority.model import AuthorityKind, AuthorityState, old_and_ended
from ca.authority.ports import AuthorityStore, KeyManager, MintedIssuer, Pending, SignedDownstream
from ca.keys.sealing import KeyPurpose
from ca.upstream.files.beside import check_beside
from ca.upstream.files.folder import invalid
from ca.upstream.files.offer import Offer
from ca.upstream.listing import ListingUpstream
from ca.upstream.roots import ListedRoots, RootChange
from citadel.clock import Clock
from citadel.errors import CitadelError, FailedPrecondition, Reason, Unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look at the folder found: an offer, or why there is none."""

    offer: Offer | None = None
    trouble: CitadelError | None = None


class FilesUpstream(ListingUpstream):
    """Fulfils `UpstreamAuthority`. `read` reads and judges the folder, and blocks while it does."""

    def __init__(
        self,
        *,
        folder: Path,
        read: Callable[[Collection[x509.Certificate]], Offer],
        keys: KeyManager,
        store: AuthorityStore,
        roots: ListedRoots,
        clock: Clock,
        alone: bool,
    ) -> None:
        """`alone` where no other cluster has an authority under these roots, so that revocation lists are pushed."""
        super().__init__(roots)
        self.folder = folder
        self._alone = alone
        self._read = read
        self._keys = keys
        self._store = store
        self._clock = clock
        self.found = Look()
        self.troubled_since: datetime | None = None

    async def start(self) -> None:
        await self._roots.start()
        found = await self.look()
        if self._active_root() is None:
            if found.offer is None:
                raise found.trouble or invalid(self.folder, "was not read")
            await self._roots.record(found.offer.root, AuthorityState.ACTIVE)
        await self.take(found)
        await self.drop(old_and_ended(self._roots.all, self._clock.now()))

    async def look(self) -> Look:
        """Read the folder. Changes nothing; `take` does. Raises `Unavailable` (`store_unavailable`)."""
        issuers = [a for a in await self._store.load() if a.kind is AuthorityKind.ISSUER]
        trusted = [root.certificate for root in self._roots.of(AuthorityState.ACTIVE)]
        try:
            offer = await asyncio.to_thread(self._read, trusted)
            check_beside(offer, self._roots.all, issuers, folder=self.folder, may_keep_key=not self._alone)
        except CitadelError as error:
            return Look(trouble=error)
        return Look(offer=offer)

    def is_news(self, look: Look) -> bool:
        """Whether taking this would change anything."""
        is_other = look.offer != self.found.offer or str(look.trouble) != str(self.found.trouble)
        return is_other or (self._roots.are_leaving and look.offer is not None)

    async def take(self, look: Look) -> list[RootChange]:
        """Go by this from now on. Roots that are listed are trusted at once; what comes of the rest is `pending`.

        One change of authorities at a time: within `AuthorityManager.changing_upstream`.
        """
        self.found = look
        if look.offer is None:
            self.troubled_since = self.troubled_since or self._clock.now()
            return []
        self.troubled_since = None
        return await self._roots.take(look.offer.roots)

    @property
    def decides(self) -> frozenset[AuthorityKind]:
        return frozenset({AuthorityKind.ROOT, AuthorityKind.ISSUER})

    @property
    def advice(self) -> str:
        return f"put another authority into {self.folder}: it is taken here through the same rotation"

    def can_mint(self) -> bool:
        return self.found.offer is not None

    def can_make_root(self) -> bool:
        return False  # those of others alone

    def pending(self) -> Pending | None:
        offer = self.found.offer
        if offer is None or self._roots.is_tainted(offer.root):
            return None
        is_root = all(root.certificate != offer.root for root in self._roots.of(AuthorityState.ACTIVE))
        why = f"{self.folder} holds another issuing authority{', under another root' if is_root else ''}"
        return Pending(is_root=is_root, why=why, certificate=offer.certificate)

    def cannot_sign(self) -> str:
        if self.found.offer is None:
            return f"{self.folder} holds nothing that could sign"
        if self._roots.is_tainted(self.found.offer.root):
            return f"{self.folder} holds an authority under a tainted root"
        pending = self.pending()
        return pending.why if pending is not None and pending.is_root else ""

    async def mint(self, *, not_before: datetime, not_after: datetime, root_id: str = "") -> MintedIssuer:  # noqa: ARG002 - nobody can ask a folder for another lifetime
        offer, root = self._offered(), self._root_to_sign(root_id)
        if root is None or root.certificate != offer.root:
            raise FailedPrecondition(
                Reason.UPSTREAM_DECIDES,
                f"the authority in {self.folder} is under another root than the one that is asked for",
                fix="let the rotation that takes it go on",
            )
        if offer.certificate.not_valid_after_utc <= self._clock.now():
            raise Unavailable(Reason.ISSUER_UNAVAILABLE, f"the authority in {self.folder} has expired")
        key_id = await self._keys.adopt(offer.key, KeyPurpose.ISSUER)
        return MintedIssuer(certificate=offer.certificate, root_id=root.id, key_id=key_id, chain=offer.chain)

    async def sign_downstream(self, csr: bytes, *, not_before: datetime, not_after: datetime) -> SignedDownstream:  # noqa: ARG002 - there is nothing to sign it with
        raise FailedPrecondition(
            Reason.UPSTREAM_CANNOT_SIGN,
            f"the authority in {self.folder} signs leaves and no authorities, and its root is elsewhere",
            fix="give the child a folder of its own with `citadel-cli root sign`, or a parent whose root is its own",
        )

    async def prepare(self, authority_id: str) -> None:
        known = self._roots.by_id(authority_id)
        if known is not None and (self.found.offer is None or await self._roots.has_issuers(known)):
            return
        # Whoever was killed before there was an issuing authority under it finds what the folder holds by now.
        await self._roots.prepare(self._offered().root, authority_id)

    async def activate(self, authority_id: str, *, taints: bool) -> None:
        await self._roots.activate(authority_id, taints=taints)

    async def drop(self, authority_ids: Collection[str]) -> None:
        await self._roots.drop(authority_ids)

    def _offered(self) -> Offer:
        if self.found.offer is None:
            raise self.found.trouble or invalid(self.folder, "was not read yet")
        return self.found.offer
