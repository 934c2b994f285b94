"""Roots that an upstream lists, on record here: trusted as soon as they are listed, gone once nothing needs them.

What was tainted once is never taken again, whoever lists it: its key is in the wrong hands for good.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final
from uuid import uuid4

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from ca.authority.fresh_key import forget_key
from ca.authority.model import Authority, AuthorityKind, AuthorityState
from ca.authority.ports import AuthorityStore, KeyManager
from ca.authority.vouching import Vouching
from ca.upstream.lineage import named, public_key_of
from citadel.clock import Clock
from citadel.errors import FailedPrecondition, Reason
from citadel.succession import Succession

_log = structlog.get_logger(__name__)

# A list of roots that is being written may end, for a moment, right after one of them. And who took one away by mistake
# has this long to put it back.
_LEFT_OUT_FOR: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RootChange:
    """A root that is trusted from now on because it is listed, or no more because it is not."""

    certificate: x509.Certificate
    is_added: bool


class ListedRoots:
    """The rows of roots. A root of this server's own, which an upstream before this one made, may be among them.

    `listed` is what the upstream listed last, None before it was read.
    """

    def __init__(
        self,
        *,
        store: AuthorityStore,
        keys: KeyManager,
        vouching: Vouching,
        clock: Clock,
        has_below: Callable[[x509.Certificate], bool] = lambda _: False,
    ) -> None:
        """`has_below` tells whether another cluster has an authority that was signed here under this root."""
        self._store = store
        self._keys = keys
        self._vouching = vouching
        self._clock = clock
        self._has_below = has_below
        self._left_out: dict[str, float] = {}  # since when, by the clock that never jumps
        self._tainted: frozenset[bytes] = frozenset()  # keys, not certificates: a leaked one may have several
        self.all: tuple[Authority, ...] = ()
        self.listed: tuple[x509.Certificate, ...] | None = None

    async def start(self) -> None:
        """Take up what is on record."""
        await self._vouching.start()
        self.all = tuple(a for a in await self._store.load() if a.kind is AuthorityKind.ROOT)
        self._tainted = frozenset(map(public_key_of, await self._store.tainted_roots()))

    def of(self, *states: AuthorityState) -> list[Authority]:
        """Those in one of these states, oldest first."""
        return [root for root in self.all if root.state in states]

    def by_id(self, authority_id: str) -> Authority | None:
        """The one of this id."""
        return next((root for root in self.all if root.id == authority_id), None)

    def certificates(self) -> tuple[x509.Certificate, ...]:
        """What the bundle holds."""
        return tuple(dict.fromkeys(root.certificate for root in self.all))

    def successions(self) -> Sequence[Succession]:
        """What roots that are gone said of those after them."""
        return self._vouching.current()

    def is_tainted(self, root: x509.Certificate) -> bool:
        """Whether it is one that was tainted, or has its key."""
        return public_key_of(root) in self._tainted

    def tainted_and_listed(self) -> Sequence[x509.Certificate]:
        """Those that are listed, and not to be trusted."""
        return [root for root in self.listed or () if self.is_tainted(root)]

    @property
    def are_leaving(self) -> bool:
        """Whether some are left out of the list, and go once that was so for long enough."""
        return bool(self._left_out)

    async def take(self, listed: tuple[x509.Certificate, ...]) -> list[RootChange]:
        """Trust what is listed from now on. What is listed no more goes, where nothing here hangs on it."""
        self.listed = listed
        return [*await self._add(listed), *await self._drop_left_out(listed)]

    async def record(self, certificate: x509.Certificate, state: AuthorityState, authority_id: str = "") -> None:
        """Have it on record, under this id or a new one. Raises `FailedPrecondition` where it was tainted."""
        if self.is_tainted(certificate):
            raise FailedPrecondition(
                Reason.UPSTREAM_INVALID, f"{named(certificate)} is a tainted root, and is never trusted again"
            )
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
        self.all = (*(each for each in self.all if each.id != root.id), root)
        _log.info("root recorded", authority=root.id, sha256=certificate.fingerprint(hashes.SHA256()).hex())

    async def prepare(self, certificate: x509.Certificate, authority_id: str) -> None:
        """Have it on record under this id, to sign after the one that does. Done again, it changes nothing more."""
        known = self.by_id(authority_id)
        if known is None or known.certificate != certificate:
            await self.record(certificate, AuthorityState.PREPARED, authority_id)
        # It was trusted already, because it is listed: from now on under this id.
        twins = [r for r in self.of(AuthorityState.PREPARED) if r.certificate == certificate and r.id != authority_id]
        await self._forget([twin for twin in twins if not await self.has_issuers(twin)])

    async def activate(self, authority_id: str, *, taints: bool) -> None:
        """Have it be the one that signs. As `UpstreamAuthority.activate`."""
        left = AuthorityState.TAINTED if taints else AuthorityState.OLD
        if not taints:
            new = [root.certificate for root in self.all if root.id == authority_id]
            for root in self.of(AuthorityState.ACTIVE):
                if root.key_id and root.id != authority_id:  # it was a root of this server's own
                    await self._vouching.leave(root, new)
        leaving = self.of(AuthorityState.ACTIVE, AuthorityState.OLD) if taints else self.of(AuthorityState.ACTIVE)
        if taints:  # whoever has a key can sign under each root that has it
            keys = {public_key_of(root.certificate) for root in leaving if root.id != authority_id}
            leaving += [r for r in self.of(AuthorityState.PREPARED) if public_key_of(r.certificate) in keys]
            self._tainted |= keys
        states = {root.id: left for root in leaving} | {authority_id: AuthorityState.ACTIVE}
        await self._store.set_states(states)
        self.all = tuple(replace(root, state=states.get(root.id, root.state)) for root in self.all)

    async def drop(self, authority_ids: Collection[str], *, unlisted: Collection[x509.Certificate] = ()) -> None:
        """Forget those of these that do not sign; but one that is listed stays, unless it is `unlisted` by now.

        A tainted one goes, whoever needs it still: that is what an emergency is for.
        """
        going = [r for r in self.all if r.id in authority_ids and r.state is not AuthorityState.ACTIVE]
        stay = {root.certificate for root in self.all if root not in going}
        gone = []
        for root in going:
            # It is listed still, for other clusters. Before a good list was seen, nobody knows.
            is_listed = self.listed is None or root.certificate in self.listed
            is_needed = is_listed and root.certificate not in unlisted and root.state is not AuthorityState.TAINTED
            if is_needed and root.certificate not in stay:
                stay.add(root.certificate)
            else:
                gone.append(root)
        await self._forget(gone)

    async def has_issuers(self, root: Authority) -> bool:
        """Whether an issuing authority on record leads to it."""
        return any(each.parent_id == root.id for each in await self._store.load())

    async def _add(self, listed: Sequence[x509.Certificate]) -> list[RootChange]:
        known = set(self.certificates())
        added = [root for root in listed if root not in known and not self.is_tainted(root)]
        for root in added:
            await self.record(root, AuthorityState.PREPARED)
        return [RootChange(certificate=root, is_added=True) for root in added]

    async def _drop_left_out(self, listed: Collection[x509.Certificate]) -> list[RootChange]:
        """Those that are listed no more, and nothing here hangs on; what does goes by a rotation."""
        issuers = [a for a in await self._store.load() if a.kind is AuthorityKind.ISSUER]
        needed = {issuer.parent_id for issuer in issuers}
        left_out = [
            root
            for root in self.all
            if root.certificate not in listed and root.state is not AuthorityState.ACTIVE and root.id not in needed
            if not self._has_below(root.certificate)
        ]
        now = self._clock.monotonic()
        self._left_out = {root.id: self._left_out.get(root.id, now) for root in left_out}
        gone = [root for root in left_out if now - self._left_out[root.id] >= _LEFT_OUT_FOR.total_seconds()]
        await self._forget(gone)
        for root in gone:
            del self._left_out[root.id]
        return [RootChange(certificate=root.certificate, is_added=False) for root in gone]

    async def _forget(self, gone: Sequence[Authority]) -> None:
        if not gone:
            return
        heirs = [root.certificate for root in self.of(AuthorityState.ACTIVE)]
        for root in gone:
            if root.key_id and root.state is AuthorityState.OLD:
                await self._vouching.leave(root, heirs)
            elif root.state is AuthorityState.TAINTED:
                await self._vouching.taint(root.certificate)
        await self._store.set_states({root.id: AuthorityState.REVOKED for root in gone})
        self.all = tuple(root for root in self.all if root not in gone)
        for root in gone:
            if root.key_id:
                await forget_key(self._keys, root.key_id)
