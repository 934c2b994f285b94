"""A PKI engine of Vault's as the upstream, wired."""

from __future__ import annotations

from collections.abc import Callable

from cryptography import x509

from ca.authority.manager import AuthorityManager
from ca.authority.ports import AuthorityStore, KeyManager
from ca.authority.vouching import Vouching
from ca.settings import ServerSettings
from ca.store.audit import SqlAuditLog
from ca.store.database import Database
from ca.upstream.condition import UpstreamCondition
from ca.upstream.roots import ListedRoots
from ca.upstream.settings import VaultPkiSettings
from ca.upstream.vault.authority import VaultUpstream
from ca.upstream.vault.engine import PkiEngine
from ca.upstream.vault.keeper import VaultKeeper
from ca.upstream.vault.rooting import RootTerms, VaultRooting
from ca.upstream.vault.signing import VaultSigning
from ca.upstream.vault.view import EngineView
from ca.vault.ports import Vault
from citadel.clock import Clock


class VaultPkiAffairs:
    """The engine as an upstream, and what keeps an eye on it once there are authorities to follow it."""

    def __init__(  # noqa: PLR0913 - where an upstream is wired: each part is given, none is made in secret
        self,
        settings: ServerSettings,
        named: VaultPkiSettings,
        *,
        vault: Vault,
        keys: KeyManager,
        store: AuthorityStore,
        vouching: Vouching,
        database: Database,
        has_below: Callable[[x509.Certificate], bool],
        on_wait: Callable[[str], None],
        clock: Clock,
    ) -> None:
        domain, engine = settings.trust_domain, PkiEngine(vault, mount=named.mount)
        terms = RootTerms(key=settings.authorities.key, lifetime=settings.authorities.root_lifetime)
        self.authority = VaultUpstream(
            engine=engine,
            view=EngineView(engine, settings=named, trust_domain=domain, clock=clock),
            signing=VaultSigning(engine, trust_domain=domain, keys=keys, is_constrained=named.constrained, clock=clock),
            rooting=VaultRooting(engine, trust_domain=domain, terms=terms, clock=clock) if named.rotate_root else None,
            roots=ListedRoots(store=store, keys=keys, vouching=vouching, clock=clock, has_below=has_below),
            store=store,
            clock=clock,
            on_wait=on_wait,
        )
        self._acts = SqlAuditLog(database=database)
        self._poll, self._lifetime = named.poll, settings.authorities.issuer_lifetime
        self._clock = clock
        self._keeper: VaultKeeper | None = None

    async def run(self, authorities: AuthorityManager) -> None:
        """Look at the engine, for ever."""
        self._keeper = VaultKeeper(
            upstream=self.authority,
            authorities=authorities,
            acts=self._acts,
            poll=self._poll,
            lifetime=self._lifetime,
            clock=self._clock,
        )
        await self._keeper.run()

    def condition(self) -> UpstreamCondition:
        """How it is with the engine."""
        return self._keeper.condition() if self._keeper is not None else UpstreamCondition(kind="vault")
