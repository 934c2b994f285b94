"""The key manager: makes keys, seals them before they lie anywhere, and opens them to sign."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Protocol
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from ca.keys.kinds import AuthorityKey, JwtPrivateKey, KeyKind
from ca.keys.sealing import KeyLabel, KeyPurpose
from citadel.errors import FailedPrecondition, Reason
from citadel.spiffe import TrustDomain

_MAKERS: Final[Mapping[KeyKind, Callable[[], JwtPrivateKey]]] = {
    KeyKind.EC_P256: lambda: ec.generate_private_key(ec.SECP256R1()),
    KeyKind.EC_P384: lambda: ec.generate_private_key(ec.SECP384R1()),
    KeyKind.RSA_2048: lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    KeyKind.RSA_4096: lambda: rsa.generate_private_key(public_exponent=65537, key_size=4096),
}


class SealedKeys(Protocol):
    """Where sealed keys lie. What lies there is worth nothing without the key-encryption key."""

    async def put(self, key_id: str, sealed: bytes) -> None:
        """Keep it; when this returns, it survives a crash. Raises `Unavailable` (`store_unavailable`)."""
        ...

    async def get(self, key_id: str) -> bytes:
        """What was put. Raises `FailedPrecondition` (`key_unsealable`) where it is missing."""
        ...

    async def delete(self, key_id: str) -> None:
        """Forget it; what does not exist is no error. Raises `Unavailable` (`store_unavailable`)."""
        ...


class Sealer(Protocol):
    """Seals keys, so that they can lie anywhere, and opens them again."""

    async def seal(self, plaintext: bytes, label: KeyLabel) -> bytes:
        """What nobody can read, or pass off under another label.

        Raises `FailedPrecondition` (`key_unsealable`, `vault_key_lost`) where there is no key to seal with, and
        `Unavailable` as `open`.
        """
        ...

    async def open(self, sealed: bytes, label: KeyLabel) -> bytes:
        """The plaintext of what was sealed under `label`.

        Raises `FailedPrecondition`: `key_unsealable` where key, label or content do not fit, `vault_key_lost` where the
        key that sealed it is gone from Vault; and `Unavailable` with the reasons of `ca.vault.ports.Vault`.
        """
        ...


class SealedKeyManager:
    """Fulfils `KeyManager` and `JwtKeyManager` of `ca.authority` with keys that lie, sealed, where `keys` puts them."""

    def __init__(
        self, *, keys: SealedKeys, trust_domain: TrustDomain, sealer: Sealer, kind: KeyKind = KeyKind.EC_P256
    ) -> None:
        """`kind` is what the keys of authorities are that are made."""
        self._kind = kind
        self._keys = keys
        self._trust_domain = trust_domain
        self._sealer = sealer

    async def create(self, purpose: KeyPurpose) -> str:
        is_authority = purpose in (KeyPurpose.ROOT, KeyPurpose.ISSUER)
        return await self._create(purpose, self._kind if is_authority else KeyKind.EC_P256)

    async def create_jwt(self, kind: KeyKind) -> str:
        return await self._create(KeyPurpose.JWT, kind)

    async def adopt(self, key: AuthorityKey, purpose: KeyPurpose) -> str:
        key_id = uuid4().hex
        await self._keys.put(key_id, await self._sealer.seal(_encoded(key), self._label(key_id, purpose)))
        return key_id

    async def signer(self, key_id: str, purpose: KeyPurpose) -> AuthorityKey:
        key = await self._opened(key_id, purpose)
        if not isinstance(key, AuthorityKey):
            raise FailedPrecondition(Reason.KEY_UNSEALABLE, f"key {key_id} is neither an elliptic-curve nor an RSA key")
        return key

    async def jwt_signer(self, key_id: str) -> JwtPrivateKey:
        return await self.signer(key_id, KeyPurpose.JWT)

    async def delete(self, key_id: str) -> None:
        await self._keys.delete(key_id)

    async def _create(self, purpose: KeyPurpose, kind: KeyKind) -> str:
        return await self.adopt(await asyncio.to_thread(_MAKERS[kind]), purpose)

    async def _opened(self, key_id: str, purpose: KeyPurpose) -> object:
        plain = await self._sealer.open(await self._keys.get(key_id), self._label(key_id, purpose))
        return await asyncio.to_thread(load_der_private_key, plain, password=None)

    def _label(self, key_id: str, purpose: KeyPurpose) -> KeyLabel:
        return KeyLabel(key_id=key_id, purpose=purpose, trust_domain=self._trust_domain)


def _encoded(key: AuthorityKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
