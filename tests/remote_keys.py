"""Keys that are elsewhere, for tests without a Vault: many messages are signed in one call, and it can be away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from ca.keys.kinds import AuthorityKey, AuthorityPublicKey, KeyKind, hash_for
from ca.keys.manager import SealedKeyManager
from ca.keys.sealing import KeyPurpose
from citadel.errors import CitadelError


class Elsewhere:
    """Where the keys are: answers while its gate is open, and raises `failure` where that is set.

    Where `denial` is set it makes and deletes keys, and neither opens them nor signs by them.
    """

    def __init__(self) -> None:
        self.calls: list[Sequence[bytes]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: CitadelError | None = None
        self.denial: CitadelError | None = None

    async def sign(self, messages: Sequence[bytes]) -> None:
        self.calls.append(messages)
        await self.asked()
        if self.denial is not None:
            raise self.denial

    async def asked(self) -> None:
        await asyncio.sleep(0)  # nothing that is elsewhere answers at once
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure


class LocalRemoteKey:
    """A `RemoteKey` over a key that is here."""

    def __init__(self, key: AuthorityKey, elsewhere: Elsewhere | None = None) -> None:
        self.elsewhere = elsewhere or Elsewhere()
        self._key = key

    def public_key(self) -> AuthorityPublicKey:
        return self._key.public_key()

    async def sign(self, messages: Sequence[bytes]) -> Sequence[bytes]:
        await self.elsewhere.sign(messages)
        return [_signature(self._key, message) for message in messages]


class RemoteKeys:
    """A key manager for authorities and tokens whose keys all sign `elsewhere`."""

    def __init__(self, keys: SealedKeyManager, elsewhere: Elsewhere | None = None) -> None:
        self.elsewhere = elsewhere or Elsewhere()
        self.is_forgetful = False  # then no key is opened without asking
        self._keys = keys

    async def create(self, purpose: KeyPurpose) -> str:
        await self.elsewhere.asked()
        return await self._keys.create(purpose)

    async def create_jwt(self, kind: KeyKind) -> str:
        await self.elsewhere.asked()
        return await self._keys.create_jwt(kind)

    async def adopt(self, key: AuthorityKey, purpose: KeyPurpose) -> str:
        await self.elsewhere.asked()
        return await self._keys.adopt(key, purpose)

    async def signer(self, key_id: str, purpose: KeyPurpose) -> LocalRemoteKey:
        if self.is_forgetful:
            await self.elsewhere.sign([])
        return LocalRemoteKey(await self._keys.signer(key_id, purpose), self.elsewhere)

    async def jwt_signer(self, key_id: str) -> LocalRemoteKey:
        return await self.signer(key_id, KeyPurpose.JWT)

    async def delete(self, key_id: str) -> None:
        await self.elsewhere.asked()
        await self._keys.delete(key_id)


def _signature(key: AuthorityKey, message: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, padding.PKCS1v15(), hash_for(key))
    return key.sign(message, ec.ECDSA(hash_for(key)))
