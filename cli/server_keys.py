"""Where the private keys of authorities are, wired: sealed here, or in Vault."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from ca.authority.manager import AuthorityManager
from ca.authority.model import AuthorityKind, AuthorityState, active_of
from ca.keys.disk import DiskKeys
from ca.keys.forms import SealerByForm
from ca.keys.kek import read_kek
from ca.keys.manager import SealedKeyManager, Sealer
from ca.keys.sealing import KekSealer, KeyPurpose
from ca.keys.split import SplitKeyManager
from ca.keys.transit.condition import KeysCondition
from ca.keys.transit.manager import TransitKeyManager
from ca.keys.transit.naming import TransitNames
from ca.keys.transit.sealer import VaultSealer
from ca.settings import ServerSettings
from ca.store.database import Database
from ca.store.sealed_keys import SqlKeys
from ca.vault.ports import Vault
from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.unexpected import nothing_unexpected
from cli.server_vault import VaultAffairs, Worry

_LOOK_SECONDS: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class ServerKeys:
    """The key manager, and what seals beside it."""

    manager: SplitKeyManager
    sealer: Sealer
    by_vault: VaultSealer | None
    are_made_in_vault: bool
    lifetime: timedelta  # of the certificates that they sign

    @property
    def need_vault(self) -> bool:
        """Whether nothing is made or opened without it."""
        return self.are_made_in_vault or self.by_vault is not None

    def worry(self, authorities: AuthorityManager) -> Worry | None:
        """What is wrong with a key in Vault that is in use, whatever the session thinks of Vault."""
        if (trouble := self.manager.trouble(keys_in_use(authorities))) is not None:
            return Worry(trouble.error, trouble.since)
        lost = self.by_vault.lost if self.by_vault is not None else None
        return Worry(lost, None) if lost is not None else None

    def condition(self, vault: VaultAffairs, authorities: AuthorityManager) -> KeysCondition:
        """What it means for them how it is with Vault."""
        of_key, worry = self.manager.trouble(keys_in_use(authorities)), self.worry(authorities)
        away = vault.vault.trouble()
        signing = active_of(authorities.issuers())
        return KeysCondition(
            are_made_there=self.are_made_in_vault,
            trouble=away or (worry.error if worry is not None else None),
            since=vault.condition().since if away is not None or worry is None else worry.since,
            concerns=of_key.purpose if of_key is not None and away is None else None,
            lifetime=self.lifetime,
            issuer_ends=signing.not_after if signing is not None else None,
        )

    async def run(self, vault: VaultAffairs, authorities: AuthorityManager, clock: Clock) -> None:
        """Look at each key in Vault that is in use, now and then, for ever: one that signs seldom can be gone long."""
        vault.watch(lambda: self.worry(authorities))
        while True:
            for key_id, purpose in keys_in_use(authorities).items():
                # Its trouble is known now, or that of Vault.
                with suppress(CitadelError), nothing_unexpected("a key in Vault"):
                    await self.manager.look(key_id, purpose)
            await clock.sleep(_LOOK_SECONDS)


def keys_in_use(authorities: AuthorityManager) -> Mapping[str, KeyPurpose]:
    """Ids of the keys of the authorities that sign now."""
    found = {
        each.key_id: KeyPurpose.ROOT if each.kind is AuthorityKind.ROOT else KeyPurpose.ISSUER
        for each in authorities.authorities()
        if each.state is AuthorityState.ACTIVE
    }
    tokens = [each for each in authorities.jwt.authorities() if each.state is AuthorityState.ACTIVE]
    return found | {each.key_id: KeyPurpose.JWT for each in tokens}


async def ready_keys(
    settings: ServerSettings,
    *,
    database: Database,
    vault: VaultAffairs | None,
    on_wait: Callable[[str], None],
    clock: Clock,
) -> ServerKeys:
    """What `settings.keys` asks for; where they need Vault, it is waited for. Raises as `read_kek`, and as Vault."""
    spoken_to = vault.vault if vault is not None else None
    by_vault, transit = _vault_sealer(settings, spoken_to), _transit(settings, spoken_to, clock)
    sealer = _sealer(settings, by_vault)
    sealed = SealedKeyManager(
        keys=SqlKeys(database=database) if settings.keys_in_database else DiskKeys(settings.data_dir / "keys"),
        trust_domain=settings.trust_domain,
        sealer=sealer,
        kind=settings.authorities.key,
    )

    kept = ServerKeys(
        manager=SplitKeyManager(transit=transit, sealed=sealed),
        sealer=sealer,
        by_vault=by_vault,
        are_made_in_vault=transit is not None,
        lifetime=settings.svids.default_lifetime,
    )
    if vault is not None and kept.need_vault:
        await vault.until_heard(on_wait)
    return kept


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


def _transit(settings: ServerSettings, vault: Vault | None, clock: Clock) -> TransitKeyManager | None:
    transit = settings.keys.vault_transit
    if transit is None or vault is None or settings.vault is None:
        return None
    return TransitKeyManager(
        vault=vault,
        names=TransitNames(mount=transit.mount, prefix=transit.prefix),
        timeout=settings.vault.timeout,
        clock=clock,
        kind=settings.authorities.key,
    )
