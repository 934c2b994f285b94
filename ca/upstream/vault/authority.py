"""Upstream `vault`: issuing authorities that an issuer of Vault's signs, and all roots of its PKI engine.

What is in force is on record here: whatever becomes of Vault, it goes on until its end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

import structlog

from ca.authority.model import Authority, AuthorityKind, AuthorityState, active_of, can_go_on, old_and_ended
from ca.authority.ports import AuthorityStore, MintedIssuer, Pending, SignedDownstream
from ca.upstream.listing import ListingUpstream
from ca.upstream.roots import ListedRoots, RootChange
from ca.upstream.vault.answer import longest_end, shortened
from ca.upstream.vault.engine import PkiEngine
from ca.upstream.vault.offer import Line
from ca.upstream.vault.rooting import VaultRooting
from ca.upstream.vault.signing import VaultSigning
from ca.upstream.vault.tainted import TaintedRoots
from ca.upstream.vault.view import EngineView, Look, not_yet
from citadel.clock import Clock
from citadel.errors import CitadelError, FailedPrecondition, Reason, Unavailable
from citadel.repeated import Repeated

_log = structlog.get_logger(__name__)

_LOOK_AGAIN: Final = 1.0  # seconds, where a start waits
_WORTH_IT: Final = 1.5  # times the life that is left


class VaultUpstream(ListingUpstream):
    """Fulfils `UpstreamAuthority`. `rooting` is there where the root is rotated from here."""

    def __init__(
        self,
        *,
        engine: PkiEngine,
        view: EngineView,
        signing: VaultSigning,
        rooting: VaultRooting | None,
        roots: ListedRoots,
        store: AuthorityStore,
        clock: Clock,
        on_wait: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`on_wait` is told why the start waits."""
        super().__init__(roots)
        self.mount = engine.mount
        self.view = view
        self.signing = signing
        self.rooting = rooting
        self.tainted = TaintedRoots(view=view, rooting=rooting, roots=roots) if rooting is not None else None
        self._vault = engine.vault
        self._store = store
        self._clock = clock
        self._on_wait = on_wait
        self._issuers: Callable[[], Sequence[Authority]] | None = None
        self._said = Repeated(clock=clock)

    def follow(self, issuers: Callable[[], Sequence[Authority]]) -> None:
        """The start is over; these are the issuing authorities on record."""
        self._issuers = issuers

    async def start(self) -> None:
        """Waits for Vault only where nothing on record can sign: a restart must not make an outage."""
        await self._roots.start()
        if can_go_on(await self._store.load(), self._roots.all, now=self._clock.now()):
            return
        await self._look_first()
        await self._roots.drop(old_and_ended(self._roots.all, self._clock.now()))

    async def look(self) -> Look:
        """Read the engine. Changes nothing; `take` does."""
        return await self.view.look(self._roots.all)

    def is_news(self, look: Look) -> bool:
        """Whether taking this would change anything."""
        return self.view.is_news(look) or (self._roots.are_leaving and look.offer is not None)

    async def take(self, look: Look) -> list[RootChange]:
        """Go by this from now on; what could not be read changes nothing but that nothing comes from there.

        One change of authorities at a time: within `AuthorityManager.changing_upstream`.
        """
        if not self.view.take(look):
            return []
        self.signing.note_lines(self.view.lines().values())
        return await self._roots.take(self.view.offered().roots)

    @property
    def decides(self) -> frozenset[AuthorityKind]:
        return frozenset() if self.rooting is not None else frozenset({AuthorityKind.ROOT})

    @property
    def advice(self) -> str:
        if self.view.is_pinned:
            return "name its successor in upstream.vault.issuer and start again: it is taken through the same rotation"
        return (
            f"make a root in Vault with `vault write {self.mount}/root/rotate/internal` and what docs/vault.md has of a"
            f" new root (name, trust domain), then have it sign with `vault write {self.mount}/root/replace`, which is"
            " taken here through the same rotation; or set"
            " upstream.vault.rotate_root"
        )

    def can_mint(self) -> bool:
        """Not where it would live hardly longer than what signs: as the end of the root comes near, all end with it."""
        root, signing, now = self._active_root(), self._signing(), self._clock.now()
        if root is None or self._vault.trouble() is not None or self.view.found.offer is None:
            return False
        line = self.view.lines().get(root.certificate)
        if line is None or not self.signing.answered(line).are_over:
            return False
        if signing is None or self._is_other_line(signing, line):
            return True
        return longest_end(line, now) - now > (signing.not_after - now) * _WORTH_IT

    def can_make_root(self) -> bool:
        seen, rooting = self.view.found, self.rooting
        if rooting is None or seen.offer is None or seen.missing:
            return False
        return self._vault.trouble() is None and rooting.making.are_over

    def pending(self) -> Pending | None:
        offer, signing = self.view.found.offer, self._signing()
        if offer is None or self._roots.is_tainted(offer.line.root):
            return None
        if all(root.certificate != offer.line.root for root in self._roots.of(AuthorityState.ACTIVE)):
            return Pending(is_root=True, why=f"the PKI engine at {self.mount} signs by another root")
        if signing is not None and self._is_other_line(signing, offer.line):
            return Pending(is_root=False, why=f"the PKI engine at {self.mount} signs by another issuer")
        return None

    def cannot_sign(self) -> str:
        pending, root = self.pending(), self._active_root()
        if pending is None or not pending.is_root or (root is not None and root.certificate in self.view.lines()):
            return ""
        return pending.why

    async def mint(self, *, not_before: datetime, not_after: datetime, root_id: str = "") -> MintedIssuer:
        if self._issuers is None and self.view.found.offer is None:
            await self._look_first()  # what is on record seemed to go on, and its key is gone
        root = self._root_to_sign(root_id)
        while True:
            line, name = self.view.line_to(root), root.id if root is not None else ""
            try:
                return await self.signing.mint(line, root_id=name, not_before=not_before, not_after=not_after)
            except Unavailable as error:
                if self._issuers is not None:
                    raise
                await self._wait(error)  # the start has nothing else

    async def sign_downstream(self, csr: bytes, *, not_before: datetime, not_after: datetime) -> SignedDownstream:
        line = self.view.line_to(self._active_root())
        return await self.signing.sign_downstream(line, csr, not_before=not_before, not_after=not_after)

    async def prepare(self, authority_id: str) -> None:
        known = self._roots.by_id(authority_id)
        if known is not None and (known.certificate in self.view.lines() or await self._roots.has_issuers(known)):
            return
        offer = self.view.offered()
        if (pending := self.pending()) is not None and pending.is_root:
            await self._roots.prepare(offer.line.root, authority_id)
        elif self.rooting is not None:
            issuer, root = await self.rooting.make(authority_id, self.roots(), now=self._clock.now())
            self.view.note_made(Line(issuer_id=issuer.id, chain=(), root=root))
            await self._roots.prepare(root, authority_id)
        else:
            raise FailedPrecondition(
                Reason.UPSTREAM_DECIDES, f"{self.mount} signs by the root that is active here", fix=self.advice
            )

    async def activate(self, authority_id: str, *, taints: bool) -> None:
        if self.rooting is None or taints:  # whatever Vault says, what leaked goes now; `tainted` does the rest
            await self._roots.activate(authority_id, taints=taints)
            return
        leads = self.view.offered().line.root
        await self._roots.activate(authority_id, taints=taints)
        root = self._roots.by_id(authority_id)
        if root is not None and root.certificate != leads:
            await self.rooting.activate(root.certificate)
            self.view.note_lead(root.certificate)

    async def drop(self, authority_ids: Collection[str]) -> None:
        tainted = {root.id for root in self._roots.of(AuthorityState.TAINTED) if root.id in authority_ids}
        await self._roots.drop(tainted)  # first: nothing else may hold that up
        others = set(authority_ids) - tainted
        if self.rooting is None or not others:
            await self._roots.drop(others)
            return
        stay = {root.certificate for root in self._roots.all if root.id not in others or root.key_id}
        stay.add(self.view.offered().line.root)  # which somebody there has made the default
        signed = {root.certificate for root in self._roots.of(AuthorityState.OLD)}
        # Before they go here: what signs there is trusted here again at the next look.
        retired = await self.rooting.retire(signed, others, stay=stay)
        self.view.note_retired()
        await self._roots.drop(others, unlisted=retired)

    def shortened(self, wanted: timedelta) -> str:
        """Why what signs has less than the `wanted` lifetime; "" where it has not, or is from elsewhere."""
        signing = self._signing()
        root = self._roots.by_id(signing.parent_id or "") if signing is not None else None
        line = self.view.lines().get(root.certificate) if root is not None else None
        if signing is None or line is None:
            return ""
        return shortened(signing.certificate, replace(line, chain=signing.chain), wanted)

    async def _look_first(self) -> None:
        """Go by what is there, once something is: the start has nothing else."""
        while (offer := (found := await self.look()).offer) is None:
            await self._wait(found.trouble or not_yet())
        if self._active_root() is None:
            await self._roots.record(offer.line.root, AuthorityState.ACTIVE)
        await self.take(found)

    async def _wait(self, trouble: CitadelError) -> None:
        """Where waiting can mend it; said every minute."""
        if trouble.reason is not Reason.VAULT_UNAVAILABLE:
            raise trouble
        self._on_wait(why := str(trouble))
        if self._said.is_news(why):
            _log.warning("waiting for Vault before anything is served", why=why)
        await self._clock.sleep(_LOOK_AGAIN)

    def _signing(self) -> Authority | None:
        return active_of(self._issuers()) if self._issuers is not None else None

    def _is_other_line(self, issuer: Authority, line: Line) -> bool:
        """Whether this issuing authority was signed by something else."""
        root = self._roots.by_id(issuer.parent_id or "")
        return root is None or root.certificate != line.root or issuer.chain[:1] != line.chain[:1]
