"""What Transit says of a key, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from ca.keys.kinds import AuthorityKey, AuthorityPublicKey, KeyKind
from citadel.errors import FailedPrecondition, Reason, Unavailable

VERSION: Final = 1  # the only one that signs: certificates say which public key an authority has
TYPES: Final[Mapping[KeyKind, str]] = {
    KeyKind.EC_P256: "ecdsa-p256",
    KeyKind.EC_P384: "ecdsa-p384",
    KeyKind.RSA_2048: "rsa-2048",
    KeyKind.RSA_4096: "rsa-4096",
}
_TAKEN_IN_TOO: Final = frozenset({"rsa-3072"})  # in folders of others


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFacts:
    """A key as Transit describes it. `public_key` is that of the pinned version, or None where it may not be used."""

    type: str
    public_key: AuthorityPublicKey | None
    is_exportable: bool
    rotates: bool

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> KeyFacts:
        """Raises `Unavailable` (`vault_refused`) where this is not the description of a key that signs."""
        try:
            version = data["keys"].get(str(VERSION))
            is_usable = version is not None and data["min_encryption_version"] <= VERSION
            return cls(
                type=str(data["type"]),
                public_key=_public_key(version["public_key"]) if is_usable and not data.get("soft_deleted") else None,
                is_exportable=bool(data["exportable"] or data["allow_plaintext_backup"]),
                rotates=bool(data.get("auto_rotate_period")),
            )
        except (KeyError, TypeError, AttributeError, ValueError, UnsupportedAlgorithm) as error:
            raise Unavailable(Reason.VAULT_REFUSED, "what Vault says of a key is not that of one that signs") from error

    def trouble_as_new(self, wanted: str) -> str:
        """Why a key that was just made with this type is not as it must be; "" where it is."""
        if self.public_key is None or self.type != wanted or type_of(self.public_key) != wanted:
            return f"Vault made a key of type {self.type} instead of {wanted}"
        if self.is_exportable:
            return "Vault made a key that can be taken out of it"
        if self.rotates:
            return "Vault made a key that it rotates by itself"
        return ""


def type_of(key: AuthorityKey | AuthorityPublicKey) -> str:
    """What Transit calls such a key. Raises `FailedPrecondition` (`key_unsealable`) where it would not hold one."""
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        found = f"rsa-{key.key_size}"
    else:
        found = {"secp256r1": "ecdsa-p256", "secp384r1": "ecdsa-p384"}.get(key.curve.name, key.curve.name)
    if found not in {*TYPES.values(), *_TAKEN_IN_TOO}:
        raise FailedPrecondition(
            Reason.KEY_UNSEALABLE,
            f"a key of type {found} cannot be kept in Vault",
            fix=f"use one of {', '.join(TYPES.values())}, or keys.vault_seal instead of keys.vault_transit",
        )
    return found


def same_key(one: AuthorityPublicKey, other: AuthorityPublicKey) -> bool:
    """Whether these are one public key."""
    return _encoded(one) == _encoded(other)


def _public_key(pem: str) -> AuthorityPublicKey:
    key = load_pem_public_key(pem.encode())
    if not isinstance(key, AuthorityPublicKey):
        raise TypeError("neither an elliptic-curve nor an RSA key")
    return key


def _encoded(key: AuthorityPublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
