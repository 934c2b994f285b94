"""The key manager: makes keys, seals them before they lie anywhere, and opens them to sign."""

from __future__ import annotations

import asyncio
from typing import Protocol
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from ca.keys.sealing import KeyLabel, KeyPurpose, Sealer
from citadel.errors import FailedPrecondition, Reason
from citadel.spiffe import TrustDomain


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


class SealedKeyManager:
    """Fulfils `ca.authority.ports.KeyManager` with EC P-256 keys that lie, sealed, where `keys` puts them."""

    def __init__(self, *, keys: SealedKeys, trust_domain: TrustDomain, sealer: Sealer) -> None:
        self._keys = keys
        self._trust_domain = trust_domain
        self._sealer = sealer

    async def create(self, purpose: KeyPurpose) -> str:
        key_id = uuid4().hex
        await self._keys.put(key_id, await asyncio.to_thread(self._make, self._label(key_id, purpose)))
        return key_id

    async def signer(self, key_id: str, purpose: KeyPurpose) -> ec.EllipticCurvePrivateKey:
        sealed = await self._keys.get(key_id)
        return await asyncio.to_thread(self._open, sealed, self._label(key_id, purpose))

    async def delete(self, key_id: str) -> None:
        await self._keys.delete(key_id)

    def _make(self, label: KeyLabel) -> bytes:
        key = ec.generate_private_key(ec.SECP256R1())
        return self._sealer.seal(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), label)

    def _open(self, sealed: bytes, label: KeyLabel) -> ec.EllipticCurvePrivateKey:
        key = load_der_private_key(self._sealer.open(sealed, label), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise FailedPrecondition(Reason.KEY_UNSEALABLE, f"key {label.key_id} is not an elliptic-curve key")
        return key

    def _label(self, key_id: str, purpose: KeyPurpose) -> KeyLabel:
        return KeyLabel(key_id=key_id, purpose=purpose, trust_domain=self._trust_domain)
