"""Upstream `vault`: issuing authorities that an issuer of Vault's signs, and all roots of its PKI engine.

What is in force is on record here: whatever becomes of Vault, it goes on until its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import structlog
from cryptography import x509

from ca.authority.model import Authority, AuthorityKind, AuthorityState, can_go_on, old_and_ended
from ca.authority.ports import AuthorityStore, MintedIssuer, Pending, SignedDownstream
from ca.upstream.roots import ListedRoots, RootChange
from ca.upstream.settings import VaultPkiSettings
from ca.upstream.vault.answer import longest_end
from ca.upstream.vault.engine import PkiEngine
from ca.upstream.vault.offer import Found, Line, Offer, offer_of
from ca.upstream.vault.rooting import VaultRooting
from ca.upstream.vault.signing import VaultSigning
from citadel.clock import Clock
from citadel.errors import CitadelError, FailedPrecondition, Reason, Unavailable
from citadel.repeated import Repeated
from citadel.spiffe import TrustDomain
from citadel.succession import Succession

_log = structlog.get_logger(__name__)

_LOOK_AGAIN: Final = 1.0  # seconds, where a start waits
_NOT_YET: Final = "the PKI engine was not looked at yet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look at the engine found: an offer, or why there is none. `changes` is how many were made before it."""

    offer: Offer | None = None
    trouble: CitadelError | None = None
    changes: int = 0


class VaultUpstream:
    """Fulfils `UpstreamAuthority`. `rooting` is there where the root is rotated from here."""

    def __init__(  # noqa: PLR0913 - where an upstream is wired: each part is given, none is made in secret
        self,
        *,
        trust_domain: TrustDomain,
        settings: VaultPkiSettings,
        engine: PkiEngine,
        signing: VaultSigning,
        rooting: VaultRooting | None,
        roots: ListedRoots,
        store: AuthorityStore,
        clock: Clock,
        on_wait: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`on_wait` is told why the start waits."""
        self.mount = engine.mount
        self.signing = signing
        self._trust_domain = trust_domain
        self._engine = engine
        self._issuer = settings.issuer
        self._rooting = rooting
        self._roots = roots
        self._store = store
        self._clock = clock
        self._alone = settings.alone
        self._on_wait = on_wait
        self._issuers: Callable[[], Sequence[Authority]] | None = None
        self._said = Repeated(clock=clock)
        self._made: dict[x509.Certificate, Line] = {}  # roots that no look has seen yet
        self._changes = 0  # of what is in Vault, by this server
        self.found = Look()
        self.troubled_since: datetime | None = None

    def follow(self, issuers: Callable[[], Sequence[Authority]]) -> None:
        """The start is over; these are the issuing authorities on record."""
        self._issuers = issuers

    async def start(self) -> None:
        """Waits for Vault only where nothing on record can sign: a restart must not make an outage."""
        await self._roots.start()
        if can_go_on(await self._store.load(), self._roots.all, now=self._clock.now()):
            return
        while (found := await self.look()).offer is None:
            await self._wait(found.trouble)
        if not self._roots.of(AuthorityState.ACTIVE):
            await self._roots.record(found.offer.line.root, AuthorityState.ACTIVE)
        await self.take(found)
        await self._roots.drop(old_and_ended(self._roots.all, self._clock.now()))

    async def look(self) -> Look:
        """Read the engine. Changes nothing; `take` does."""
        changes = self._changes
        try:
            issuers = await self._engine.issuers()
            leading = await self._engine.leading(self._issuer)
            others = [each.id for each in issuers if each.id != leading and each.certificate is not None]
            retired = await self._engine.retired(others) if self._alone else frozenset()
            found = Found(issuers=issuers, leading=leading, retired=retired)
            offer = await asyncio.to_thread(self._judged, found)
        except CitadelError as error:
            return Look(trouble=error, changes=changes)
        return Look(offer=offer, changes=changes)

    def is_news(self, look: Look) -> bool:
        """Whether taking this would change anything."""
        is_other = look.offer != self.found.offer or str(look.trouble) != str(self.found.trouble)
        return is_other or (self._roots.are_leaving and look.offer is not None)

    async def take(self, look: Look) -> list[RootChange]:
        """Go by this from now on; what could not be read changes nothing but that nothing comes from there.

        One change of authorities at a time: within `AuthorityManager.changing_upstream`.
        """
        if look.changes != self._changes:
            return []  # it was begun before something was changed from here
        self.found = look
        if look.offer is None:
            self.troubled_since = self.troubled_since or self._clock.now()
            return []
        self.troubled_since = None
        return await self._roots.take(look.offer.roots)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is otherwise than asked for, or than one might think."""
        offer = self.found.offer
        seen = offer.notes if offer is not None else ()
        rooting = self._rooting.notes if self._rooting is not None else ()
        return (*seen, *self.signing.notes, *rooting)

    def trouble(self) -> CitadelError | None:
        """Why nothing new would come now."""
        return (
            self.found.trouble or self.signing.answered.last or (self._rooting.answered.last if self._rooting else None)
        )

    def tainted_and_listed(self) -> x509.Certificate | None:
        """A root that is not to be trusted, and is only because it is there."""
        return self._roots.tainted_and_listed()

    @property
    def decides(self) -> frozenset[AuthorityKind]:
        return frozenset() if self._rooting is not None else frozenset({AuthorityKind.ROOT})

    def can_mint(self) -> bool:
        """Not where it would live hardly longer than what signs: as the end of the root comes near, all end with it."""
        if self.found.offer is None or self._engine.vault.trouble() is not None or not self.signing.answered.are_over:
            return False
        root, signing, now = self._active_root(), self._signing(), self._clock.now()
        line = self._lines().get(root.certificate) if root is not None else None
        if line is None:
            return False
        if signing is None or self._is_other_line(signing, line):
            return True
        return longest_end(line, now) - now > (signing.not_after - now) * 1.5

    def pending(self) -> Pending | None:
        offer, signing = self.found.offer, self._signing()
        if offer is None or self._is_tainted(offer.line.root):
            return None
        if all(root.certificate != offer.line.root for root in self._roots.of(AuthorityState.ACTIVE)):
            return Pending(is_root=True, why=f"the PKI engine at {self.mount} signs by another root")
        if signing is not None and self._is_other_line(signing, offer.line):
            return Pending(is_root=False, why=f"the PKI engine at {self.mount} signs by another issuer")
        return None

    def cannot_sign(self) -> str:
        pending = self.pending()
        return pending.why if pending is not None and pending.is_root else ""

    async def mint(self, *, not_before: datetime, not_after: datetime, root_id: str = "") -> MintedIssuer:
        root = self._roots.by_id(root_id) if root_id else self._active_root()
        while True:
            line = self._line_to(root)
            try:
                return await self.signing.mint(
                    line, root_id=root.id if root else "", not_before=not_before, not_after=not_after
                )
            except Unavailable as error:
                if self._issuers is not None:
                    raise
                await self._wait(error)  # the start has nothing else

    async def sign_downstream(self, csr: bytes, *, not_before: datetime, not_after: datetime) -> SignedDownstream:
        root = self._active_root()
        return await self.signing.sign_downstream(self._line_to(root), csr, not_before=not_before, not_after=not_after)

    async def prepare(self, authority_id: str) -> None:
        offer, known = self._offered(), self._roots.by_id(authority_id)
        if known is not None and (known.certificate in self._lines() or await self._roots.has_issuers(known)):
            return
        pending = self.pending()
        if pending is not None and pending.is_root:
            await self._roots.prepare(offer.line.root, authority_id)
        elif self._rooting is not None:
            issuer, root = await self._rooting.make(authority_id, self.roots(), now=self._clock.now())
            self._made[root] = Line(issuer_id=issuer.id, chain=(), root=root)
            self._changes += 1
            await self._roots.prepare(root, authority_id)
        else:
            raise FailedPrecondition(
                Reason.UPSTREAM_DECIDES,
                f"the root is Vault's to rotate, and {self.mount} signs by the one that is active here",
                fix="rotate it there, or set upstream.vault.rotate_root",
            )

    async def activate(self, authority_id: str, *, taints: bool) -> None:
        await self._roots.activate(authority_id, taints=taints)
        root, offer = self._roots.by_id(authority_id), self.found.offer
        is_there = offer is not None and root is not None and offer.line.root == root.certificate
        if self._rooting is None or root is None or is_there:
            return
        await self._rooting.activate(root.certificate)
        self._changes += 1
        if offer is not None and (line := self._lines().get(root.certificate)) is not None:
            self.found = replace(self.found, offer=replace(offer, line=line))

    async def drop(self, authority_ids: Collection[str]) -> None:
        going = {r.certificate for r in self._roots.all if r.id in authority_ids and not r.key_id}
        going -= {root.certificate for root in self._roots.all if root.id not in authority_ids}
        if self._rooting is None:
            await self._roots.drop(authority_ids)
            return
        # First: what signs there is trusted here again at the next look.
        await self._rooting.retire(going, authority_ids)
        self._changes += 1
        await self._roots.drop(authority_ids, unlisted=going)

    def roots(self) -> tuple[x509.Certificate, ...]:
        return self._roots.certificates()

    def successions(self) -> Sequence[Succession]:
        return self._roots.successions()

    def authorities(self) -> tuple[Authority, ...]:
        return self._roots.all

    def _judged(self, found: Found) -> Offer:
        return offer_of(
            found,
            mount=self.mount,
            trust_domain=self._trust_domain,
            now=self._clock.now(),
            known=self.roots(),
            trusted=[root.certificate for root in self._roots.of(AuthorityState.ACTIVE)],
        )

    async def _wait(self, trouble: CitadelError | None) -> None:
        """Where waiting can mend it; said every minute."""
        if trouble is None or trouble.reason is not Reason.VAULT_UNAVAILABLE:
            raise trouble or Unavailable(Reason.UPSTREAM_UNAVAILABLE, _NOT_YET)
        self._on_wait(why := str(trouble))
        if self._said.is_news(why):
            _log.warning("waiting for Vault before anything is served", why=why)
        await self._clock.sleep(_LOOK_AGAIN)

    def _offered(self) -> Offer:
        if self.found.offer is None:
            raise self.found.trouble or Unavailable(Reason.UPSTREAM_UNAVAILABLE, _NOT_YET)
        return self.found.offer

    def _lines(self) -> Mapping[x509.Certificate, Line]:
        return {**self._made, **(self.found.offer.lines if self.found.offer is not None else {})}

    def _line_to(self, root: Authority | None) -> Line:
        """What signs under this root; by the id of its issuer, whatever the default is."""
        self._offered()
        line = self._lines().get(root.certificate) if root is not None else None
        if line is None:
            raise FailedPrecondition(
                Reason.UPSTREAM_DECIDES,
                f"nothing in the PKI engine at {self.mount} signs under the root that is asked for",
                fix="let the rotation that takes another root go on",
            )
        return line

    def _active_root(self) -> Authority | None:
        return next(iter(self._roots.of(AuthorityState.ACTIVE)), None)

    def _signing(self) -> Authority | None:
        issuers = self._issuers() if self._issuers is not None else ()
        return next((each for each in issuers if each.state is AuthorityState.ACTIVE), None)

    def _is_other_line(self, issuer: Authority, line: Line) -> bool:
        """Whether this issuing authority was signed by something else."""
        root = self._roots.by_id(issuer.parent_id or "")
        return root is None or root.certificate != line.root or issuer.chain[:1] != line.chain[:1]

    def _is_tainted(self, certificate: x509.Certificate) -> bool:
        return any(root.certificate == certificate for root in self._roots.of(AuthorityState.TAINTED))
