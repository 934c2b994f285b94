"""Upstream `citadel`: issuing authorities that the parent's root signs, and roots that are the parent's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import Final

import structlog
from cryptography import x509

from ca.authority.model import Authority, AuthorityKind, AuthorityState, active_of, can_go_on
from ca.authority.ports import AuthorityStore, KeyManager, MintedIssuer, Pending, SignedDownstream
from ca.issuance.csr import public_key_of
from ca.upstream.citadel.ports import Asked, Changing, TrustStore
from ca.upstream.citadel.requests import IssuerRequests
from ca.upstream.citadel.trust import ParentTrust, Versions, read_kept_trust, read_trust, root_id_of
from citadel._wire import clusters_pb2 as pb
from citadel.clock import Clock
from citadel.errors import CitadelError, FailedPrecondition, Reason
from citadel.spiffe import TrustDomain
from citadel.succession import Succession

_log = structlog.get_logger(__name__)

_SAY_AGAIN: Final = 60.0  # seconds
_MAY_SIGN: Final = (AuthorityState.PREPARED, AuthorityState.ACTIVE)  # prepared: that it is active is on its way


class ParentAuthority:
    """Fulfils `UpstreamAuthority`. `trust` is what the parent said last, `in_force` its versions once all is settled.

    Roots are rotated at the parent alone: they come, change and go with what it says.
    """

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        keys: KeyManager,
        store: AuthorityStore,
        kept: TrustStore,
        clock: Clock,
        on_wait: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`on_wait` is told why the start waits, again and again."""
        self._trust_domain = trust_domain
        self._store = store
        self._kept = kept
        self._clock = clock
        self._on_wait = on_wait
        self._parent: Asked | None = None
        self._manager: Changing | None = None
        self._roots: tuple[Authority, ...] = ()
        self._turn = asyncio.Lock()
        self._watchers: list[Callable[[], None]] = []
        self.requests = IssuerRequests(trust_domain=trust_domain, keys=keys, clock=clock)
        self.trust: ParentTrust | None = None
        self.in_force = Versions()
        self.everywhere = Versions()  # what every proxy of every cluster has acknowledged

    def watch(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever the parent has said something."""
        self._watchers.append(callback)

    def ask(self, parent: Asked) -> None:
        """Who is asked; before `start`."""
        self._parent = parent

    def known_roots(self) -> frozenset[x509.Certificate]:
        """The parent's roots that are trusted: what is tainted proves nothing any more."""
        tainted = AuthorityState.TAINTED
        return frozenset(root.certificate for root in self._roots if root.state is not tainted)

    async def settle_by(self, manager: Changing) -> None:
        """From now on, what the parent says is settled by this, which has started."""
        async with self._turn:
            self._manager = manager
            async with manager.changing_upstream():
                pass
            self.in_force = self.trust.versions if self.trust is not None else Versions()
        self._tell()

    async def start(self) -> None:
        """Take up what the parent said last; wait for it where that is nothing, or where nothing here can sign."""
        rows = await self._store.load()
        self._roots = tuple(each for each in rows if each.kind is AuthorityKind.ROOT)
        for root in self._roots:
            # What the parent does not name goes at once, and with it whatever this server has signed so far.
            if root.id != root_id_of(root.certificate):
                whose = "this server's own" if root.key_id else "another upstream"
                raise FailedPrecondition(
                    Reason.DATA_DIR_FOREIGN,
                    f"the store holds a root of {whose}, {root.id}, which the parent does not know",
                    fix="begin with an empty data_dir and store, or take upstream.citadel out of the settings",
                )
        if (kept := await self._kept.load()) is not None:
            self.trust = await self._read(kept)
        if self.trust is not None:
            self._roots = await self._recorded(self.trust)
        if self.trust is None or not can_go_on(rows, self._roots, now=self._clock.now()):
            await self._until_heard()

    @property
    def decides(self) -> frozenset[AuthorityKind]:
        return frozenset({AuthorityKind.ROOT})

    @property
    def advice(self) -> str:
        return "rotate it at the parent: it is taken here through the same rotation"

    def pending(self) -> Pending | None:
        """The parent's root that this server signs under is no longer the one that signs: change over to that."""
        issuers = self._manager.issuers() if self._manager is not None else ()
        active = active_of(issuers)
        if active is None:
            return None
        root = next((each for each in self._roots if each.id == active.parent_id), None)
        match root.state if root is not None else AuthorityState.REVOKED:
            case AuthorityState.OLD:
                return Pending(is_root=False, why="the parent signs by another root")
            case AuthorityState.TAINTED:
                return Pending(is_root=False, why="the root above is tainted", is_urgent=True)
            case AuthorityState.REVOKED:
                return Pending(is_root=False, why="the root above is gone at the parent", is_urgent=True)
        return None

    def can_mint(self) -> bool:
        return self._asked().trouble() is None and self.requests.are_due

    def can_make_root(self) -> bool:
        return False

    def cannot_sign(self) -> str:
        """Never: the start waits until the parent has said which of its roots signs."""
        return ""

    async def mint(self, *, not_before: datetime, not_after: datetime, root_id: str = "") -> MintedIssuer:
        """Always under the root by which the parent signs now; it begins when the parent lets it."""
        del not_before, root_id
        return await self.requests.mint(self._asked(), self._may_sign, not_after=not_after)

    async def sign_downstream(self, csr: bytes, *, not_before: datetime, not_after: datetime) -> SignedDownstream:
        """By the parent, which knows this server alone: whose authority it is, it learns from this server's reports."""
        del not_before
        key = public_key_of(csr)
        return await self.requests.signed(self._asked(), self._may_sign, csr, key, not_after=not_after)

    async def prepare(self, authority_id: str) -> None:
        raise _decided_above(authority_id)

    async def activate(self, authority_id: str, *, taints: bool) -> None:
        del taints
        raise _decided_above(authority_id)

    async def drop(self, authority_ids: Collection[str]) -> None:
        raise _decided_above(", ".join(authority_ids))

    def roots(self) -> tuple[x509.Certificate, ...]:
        return tuple(root.certificate for root in self._roots)

    def successions(self) -> Sequence[Succession]:
        now = self._clock.now()
        return [each for each in self.trust.successions if each.until > now] if self.trust is not None else []

    def authorities(self) -> tuple[Authority, ...]:
        return self._roots

    async def take(self, update: pb.ClusterUpdate) -> None:
        """Put in force what the parent says. Raises `FailedPrecondition` (`upstream_invalid`) where it cannot be."""
        if update.HasField("trust"):
            now = self._clock.now()
            trust = await asyncio.to_thread(read_trust, update.trust, trust_domain=self._trust_domain, now=now)
            async with self._turn:  # two streams are up while the line moves
                await self._take(trust)
        elif update.HasField("everywhere"):
            self.everywhere = Versions.of(update.everywhere)
        self._tell()

    async def _take(self, trust: ParentTrust) -> None:
        if self.trust is not None and trust.message == self.trust.message and self.in_force == trust.versions:
            return
        self.in_force = Versions()
        async with self._manager.changing_upstream() if self._manager is not None else nullcontext():
            await self._kept.keep(trust.message, at=self._clock.now())
            self._roots = await self._recorded(trust)
            self.trust = trust
        if self._manager is not None:
            self.in_force = trust.versions

    async def _read(self, kept: bytes) -> ParentTrust | None:
        now = self._clock.now()
        try:
            return await asyncio.to_thread(read_kept_trust, kept, trust_domain=self._trust_domain, now=now)
        except CitadelError as error:
            _log.error("what is kept of the parent cannot be read: waiting for it", error=str(error))
            return None

    async def _recorded(self, trust: ParentTrust) -> tuple[Authority, ...]:
        """The rows of its roots, made to say what it says. Done again, it changes nothing more."""
        known, roots = {each.id: each for each in self._roots}, []
        for certificate, state in trust.roots.items():
            before = known.pop(root_id_of(certificate), None)
            root = Authority(
                id=root_id_of(certificate),
                kind=AuthorityKind.ROOT,
                state=state,
                key_id="",
                certificate=certificate,
                parent_id=None,
                created_at=before.created_at if before is not None else self._clock.now(),
            )
            if root != before:
                await self._store.record(root)
                _log.info("root of the parent", authority=root.id, state=state.value)
            roots.append(root)
        if known:
            await self._store.set_states(dict.fromkeys(known, AuthorityState.REVOKED))
            _log.info("roots are gone at the parent", authorities=sorted(known))
        return tuple(sorted(roots, key=lambda each: (each.created_at, each.not_before)))

    def _may_sign(self) -> list[x509.Certificate]:
        return [each.certificate for each in self._roots if each.state in _MAY_SIGN]

    async def _until_heard(self) -> None:
        """Nobody can be served before. Says every minute why; ends in an error only where no waiting mends it."""
        parent, said_at = self._asked(), -_SAY_AGAIN
        while not parent.is_heard:
            if (misfit := parent.misfit()) is not None:
                raise misfit
            self._on_wait(why := str(parent.trouble()))
            if self._clock.monotonic() - said_at >= _SAY_AGAIN:
                said_at = self._clock.monotonic()
                _log.warning("waiting for the parent before anything is served", why=why)
            await self._clock.sleep(0.05)

    def _asked(self) -> Asked:
        assert self._parent is not None  # noqa: S101 - for the type checker: it was set before the start
        return self._parent

    def _tell(self) -> None:
        for callback in self._watchers:
            callback()


def _decided_above(what: str) -> FailedPrecondition:
    return FailedPrecondition(
        Reason.UPSTREAM_DECIDES, f"the root {what} is the parent's to change", fix="rotate it at the parent"
    )
