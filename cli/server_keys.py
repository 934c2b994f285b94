"""Where the private keys of authorities are, wired: sealed here, or in Vault."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from ca.keys.disk import DiskKeys
from ca.keys.forms import SealerByForm
from ca.keys.kek import read_kek
from ca.keys.manager import SealedKeyManager, Sealer
from ca.keys.sealing import KekSealer
from ca.keys.split import SplitKeyManager
from ca.keys.transit.manager import TransitKeyManager
from ca.keys.transit.naming import TransitNames
from ca.keys.transit.sealer import VaultSealer
from ca.settings import ServerSettings
from ca.store.database import Database
from ca.store.sealed_keys import SqlKeys
from ca.vault.ports import Vault
from citadel.errors import CitadelError


@dataclass(frozen=True, kw_only=True)
class ServerKeys:
    """The key manager, and what seals beside it. `lost` says that a key is no longer in Vault which is needed."""

    manager: SplitKeyManager
    sealer: Sealer
    lost: Callable[[], CitadelError | None]


def server_keys(settings: ServerSettings, *, database: Database, vault: Vault | None) -> ServerKeys:
    """What `settings.keys` asks for; `vault` is there where `settings.vault` is. Raises as `read_kek`."""
    sealed, transit = _vault_sealer(settings, vault), _transit(settings, vault)
    sealer = _sealer(settings, sealed)
    manager = SplitKeyManager(
        transit=transit,
        sealed=SealedKeyManager(
            keys=SqlKeys(database=database) if settings.keys_in_database else DiskKeys(settings.data_dir / "keys"),
            trust_domain=settings.trust_domain,
            sealer=sealer,
            kind=settings.authorities.key,
        ),
    )

    def lost() -> CitadelError | None:
        return (transit and transit.trouble()) or (sealed and sealed.lost) or None

    return ServerKeys(manager=manager, sealer=sealer, lost=lost)


def sealer_of(settings: ServerSettings, vault: Vault | None) -> Sealer:
    """What seals, without the keys. Raises as `read_kek`."""
    return _sealer(settings, _vault_sealer(settings, vault))


def check_keys(settings: ServerSettings) -> None:
    """That the key-encryption key can be read, where there is one. Raises as `read_kek`."""
    if settings.keys.has_kek:
        read_kek(settings.keys, os.environ)


def keys_need_vault(settings: ServerSettings) -> bool:
    """Whether no start gets anywhere without Vault."""
    return settings.keys.vault_seal is not None or settings.keys.vault_transit is not None


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
