"""New keys are made in Vault, while those that were sealed before are used until they end."""

from __future__ import annotations

from collections.abc import Collection

from ca.keys.kinds import AuthorityKey, KeyKind
from ca.keys.manager import SealedKeyManager
from ca.keys.remote import SigningKey
from ca.keys.sealing import KeyPurpose
from ca.keys.transit.manager import TransitKeyManager
from ca.keys.transit.naming import is_in_vault
from ca.keys.transit.troubles import KeyTrouble
from citadel.errors import FailedPrecondition, Reason


class SplitKeyManager:
    """Fulfils `KeyManager` and `JwtKeyManager` of `ca.authority`: the id of a key tells where it is."""

    def __init__(self, *, transit: TransitKeyManager | None, sealed: SealedKeyManager) -> None:
        """Without `transit` keys are made and sealed here, and those in Vault are not opened."""
        self._transit = transit
        self._sealed = sealed

    async def create(self, purpose: KeyPurpose) -> str:
        return await (self._transit or self._sealed).create(purpose)

    async def create_jwt(self, kind: KeyKind) -> str:
        return await (self._transit or self._sealed).create_jwt(kind)

    async def adopt(self, key: AuthorityKey, purpose: KeyPurpose) -> str:
        return await (self._transit or self._sealed).adopt(key, purpose)

    async def signer(self, key_id: str, purpose: KeyPurpose) -> SigningKey:
        return await self._place_of(key_id).signer(key_id, purpose)

    async def jwt_signer(self, key_id: str) -> SigningKey:
        return await self._place_of(key_id).signer(key_id, KeyPurpose.JWT)

    async def look(self, key_id: str, purpose: KeyPurpose) -> None:
        """That a key which signs from Vault is there; what is wrong is known from then on. Raises as `signer`."""
        if self._transit is not None and is_in_vault(key_id):
            await self._transit.look(key_id, purpose)

    def trouble(self, in_use: Collection[str]) -> KeyTrouble | None:
        """What is wrong with one of these keys in Vault."""
        return self._transit.trouble(in_use) if self._transit is not None else None

    def is_lost(self, key_id: str) -> bool:
        """Whether this key is known to be gone from Vault."""
        return self._transit is not None and is_in_vault(key_id) and self._transit.is_lost(key_id)

    async def delete(self, key_id: str) -> None:
        await self._place_of(key_id).delete(key_id)

    def _place_of(self, key_id: str) -> TransitKeyManager | SealedKeyManager:
        if not is_in_vault(key_id):
            return self._sealed
        if self._transit is None:
            raise FailedPrecondition(
                Reason.KEY_UNSEALABLE,
                f"key {key_id} is in Vault, and keys.vault_transit is not set",
                fix="set keys.vault_transit again",
            )
        return self._transit
