"""Sealing: what makes a private key safe to lie on a disk.

AES-256-GCM under a key-encryption key that the operator supplies, or under a key for one content that Vault wraps. Key
id, purpose and trust domain are authenticated with it, so a sealed key cannot be passed off as another one by renaming
its file.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from citadel.errors import FailedPrecondition, InvalidArgument, Reason
from citadel.spiffe import TrustDomain

KEK_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_FORMAT: Final = 1


class KeyPurpose(StrEnum):
    """What a key is for; a key made for one purpose is refused for another."""

    ROOT = "x509-root"
    ISSUER = "x509-issuer"
    JWT = "jwt"
    RECORDS = "records"
    BACKUP = "backup"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLabel:
    """What a sealed key claims to be."""

    key_id: str
    purpose: KeyPurpose
    trust_domain: TrustDomain

    def to_bytes(self) -> bytes:
        """The associated data: unambiguous, because JSON quotes its parts."""
        return json.dumps([_FORMAT, self.key_id, self.purpose.value, self.trust_domain.name]).encode()


class Box:
    """Seals and opens with one key that is at hand."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def __repr__(self) -> str:
        return "Box()"

    def seal(self, plaintext: bytes, bound: bytes) -> bytes:
        """Nonce and ciphertext, authenticated together with `bound`."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plaintext, bound)

    def open(self, sealed: bytes, bound: bytes) -> bytes:
        """The plaintext. Raises `ValueError` where key, content or what it is bound to do not fit."""
        try:
            return self._aead.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound)
        except InvalidTag as error:
            raise ValueError("not sealed by this key, or changed since") from error


class KekSealer:
    """Fulfils `ca.keys.manager.Sealer` with one key-encryption key."""

    def __init__(self, kek: bytes) -> None:
        if len(kek) != KEK_BYTES:
            raise InvalidArgument(
                Reason.KEY_UNSEALABLE,
                f"the key-encryption key has {len(kek)} bytes instead of {KEK_BYTES}",
                fix="make one with `openssl rand -base64 32`",
            )
        self._box = Box(kek)

    def __repr__(self) -> str:
        return "KekSealer()"

    async def seal(self, plaintext: bytes, label: KeyLabel) -> bytes:
        return self._box.seal(plaintext, label.to_bytes())

    async def open(self, sealed: bytes, label: KeyLabel) -> bytes:
        try:
            return self._box.open(sealed, label.to_bytes())
        except ValueError as error:
            raise FailedPrecondition(
                Reason.KEY_UNSEALABLE,
                f"key {label.key_id} ({label.purpose}) cannot be opened: wrong key-encryption key, or a changed file",
                fix="start with the key-encryption key that sealed it, or restore the file",
            ) from error


def decode_kek(text: bytes) -> bytes:
    """The 32 bytes of a base64 key-encryption key; surrounding white space is ignored."""
    try:
        return base64.b64decode(text.strip(), validate=True)
    except binascii.Error as error:
        raise InvalidArgument(
            Reason.KEY_UNSEALABLE,
            "the key-encryption key is not base64",
            fix="make one with `openssl rand -base64 32`",
        ) from error
