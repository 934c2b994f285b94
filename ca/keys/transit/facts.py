"""What Transit says of a key, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from ca.keys.kinds import AuthorityKey, AuthorityPublicKey, KeyKind
from citadel.errors import InvalidArgument, Reason, Unavailable

VERSION: Final = 1  # the only one that signs: certificates say which public key an authority has
TYPES: Final[Mapping[KeyKind, str]] = {
    KeyKind.EC_P256: "ecdsa-p256",
    KeyKind.EC_P384: "ecdsa-p384",
    KeyKind.RSA_2048: "rsa-2048",
    KeyKind.RSA_4096: "rsa-4096",
}


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

    def trouble_as_new(self, kind: KeyKind) -> str:
        """Why a key that was just made as `kind` is not as it must be; "" where it is."""
        if self.public_key is None or self.type != TYPES[kind] or kind_of(self.public_key) is not kind:
            return f"Vault made a key of type {self.type} instead of {TYPES[kind]}"
        if self.is_exportable:
            return "Vault made a key that can be taken out of it"
        if self.rotates:
            return "Vault made a key that it rotates by itself"
        return ""


def kind_of(key: AuthorityKey | AuthorityPublicKey) -> KeyKind:
    """Raises `InvalidArgument` (`config_invalid`) for a key that Transit would not hold."""
    match key:
        case ec.EllipticCurvePrivateKey() | ec.EllipticCurvePublicKey():
            found = f"ec-p{key.curve.key_size}" if key.curve.name in ("secp256r1", "secp384r1") else key.curve.name
        case rsa.RSAPrivateKey() | rsa.RSAPublicKey():
            found = f"rsa-{key.key_size}"
    try:
        return KeyKind(found)
    except ValueError as error:
        raise InvalidArgument(
            Reason.CONFIG_INVALID,
            f"a key of kind {found} cannot be kept in Vault",
            fix=f"use one of {', '.join(KeyKind)}, or keys.vault_seal instead of keys.vault_transit",
        ) from error


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
