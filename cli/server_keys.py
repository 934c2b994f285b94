"""Where the private keys of authorities are, wired: sealed here, or in Vault."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from ca.keys.disk import DiskKeys
from ca.keys.forms import SealerByForm
from ca.keys.kek import read_kek
from ca.keys.manager import SealedKeyManager, Sealer
from ca.keys.sealing import KekSealer
from ca.keys.split import SplitKeyManager
from ca.keys.transit.condition import KeysCondition
from ca.keys.transit.manager import TransitKeyManager
from ca.keys.transit.naming import TransitNames
from ca.keys.transit.sealer import VaultSealer
from ca.settings import ServerSettings
from ca.store.database import Database
from ca.store.sealed_keys import SqlKeys
from ca.vault.ports import Vault
from citadel.errors import CitadelError
from cli.server_vault import VaultAffairs


@dataclass(frozen=True, kw_only=True)
class ServerKeys:
    """The key manager, and what seals beside it."""

    manager: SplitKeyManager
    sealer: Sealer
    need_vault: bool
    are_made_in_vault: bool
    lifetime: timedelta  # of the certificates that they sign

    def condition(self, vault: VaultAffairs, *, issuer_ends: datetime | None) -> KeysCondition:
        """What it means for them how it is with Vault."""
        return KeysCondition(
            are_made_there=self.are_made_in_vault,
            trouble=vault.vault.trouble(),
            since=vault.condition().since,
            lifetime=self.lifetime,
            issuer_ends=issuer_ends,
        )


async def ready_keys(
    settings: ServerSettings, *, database: Database, vault: VaultAffairs | None, on_wait: Callable[[str], None]
) -> ServerKeys:
    """What `settings.keys` asks for; where they need Vault, it is waited for. Raises as `read_kek`, and as Vault."""
    spoken_to = vault.vault if vault is not None else None
    by_vault, transit = _vault_sealer(settings, spoken_to), _transit(settings, spoken_to)
    sealer = _sealer(settings, by_vault)
    sealed = SealedKeyManager(
        keys=SqlKeys(database=database) if settings.keys_in_database else DiskKeys(settings.data_dir / "keys"),
        trust_domain=settings.trust_domain,
        sealer=sealer,
        kind=settings.authorities.key,
    )

    def lost() -> CitadelError | None:
        of_keys = transit.trouble() if transit is not None else None
        return of_keys or (by_vault.lost if by_vault is not None else None)

    needs_vault = by_vault is not None or transit is not None
    if vault is not None and needs_vault:
        vault.watch(lost)
        await vault.until_heard(on_wait)
    return ServerKeys(
        manager=SplitKeyManager(transit=transit, sealed=sealed),
        sealer=sealer,
        need_vault=needs_vault,
        are_made_in_vault=transit is not None,
        lifetime=settings.svids.default_lifetime,
    )


def sealer_of(settings: ServerSettings, vault: Vault | None) -> Sealer:
    """What seals, without the keys. Raises as `read_kek`."""
    return _sealer(settings, _vault_sealer(settings, vault))


def check_keys(settings: ServerSettings) -> None:
    """That the key-encryption key can be read, where there is one. Raises as `read_kek`."""
    if settings.keys.has_kek:
        read_kek(settings.keys, os.environ)


def _sealer(settings: ServerSettings, by_vault: VaultSealer | None) -> SealerByForm:
    kek = KekSealer(read_kek(settings.keys, os.environ)) if settings.keys.has_kek else None
    return SealerByForm(kek=kek, vault=by_vault)


def _vault_sealer(settings: ServerSettings, vault: Vault | None) -> VaultSealer | None:
    seal = settings.keys.vault_seal
    return VaultSealer(vault=vault, mount=seal.mount, key=seal.key) if seal is not None and vault is not None else None


def _transit(settings: ServerSettings, vault: Vault | None) -> TransitKeyManager | None:
    transit = settings.keys.vault_transit
    if transit is None or vault is None or settings.vault is None:
        return None
    return TransitKeyManager(
        vault=vault,
        names=TransitNames(mount=transit.mount, prefix=transit.prefix),
        timeout=settings.vault.timeout,
        kind=settings.authorities.key,
    )
