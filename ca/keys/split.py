"""New keys are made in Vault, while those that were sealed before are used until they end."""

from __future__ import annotations

from ca.keys.kinds import AuthorityKey, KeyKind
from ca.keys.manager import SealedKeyManager
from ca.keys.remote import SigningKey
from ca.keys.sealing import KeyPurpose
from ca.keys.transit.manager import TransitKeyManager
from ca.keys.transit.naming import is_in_vault
from citadel.errors import FailedPrecondition, Reason


class SplitKeyManager:
    """Fulfils `KeyManager` and `JwtKeyManager` of `ca.authority`: the id of a key tells where it is."""

    def __init__(self, *, transit: TransitKeyManager, sealed: SealedKeyManager) -> None:
        self._transit = transit
        self._sealed = sealed

    async def create(self, purpose: KeyPurpose) -> str:
        return await self._transit.create(purpose)

    async def create_jwt(self, kind: KeyKind) -> str:
        return await self._transit.create_jwt(kind)

    async def adopt(self, key: AuthorityKey, purpose: KeyPurpose) -> str:
        return await self._transit.adopt(key, purpose)

    async def signer(self, key_id: str, purpose: KeyPurpose) -> SigningKey:
        return await (self._transit if is_in_vault(key_id) else self._sealed).signer(key_id, purpose)

    async def jwt_signer(self, key_id: str) -> SigningKey:
        return await self.signer(key_id, KeyPurpose.JWT)

    async def delete(self, key_id: str) -> None:
        await (self._transit if is_in_vault(key_id) else self._sealed).delete(key_id)


def refuse_in_vault(key_id: str) -> None:
    """Raises `FailedPrecondition` (`key_unsealable`) for a key that only `SplitKeyManager` would find."""
    if is_in_vault(key_id):
        raise FailedPrecondition(Reason.KEY_UNSEALABLE, f"key {key_id} is in Vault", fix="set keys.vault_transit again")
