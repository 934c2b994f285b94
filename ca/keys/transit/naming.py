"""What a key in Transit is called, here and there."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.keys.kinds import AuthorityPublicKey
from ca.keys.sealing import KeyPurpose
from citadel.errors import FailedPrecondition, Reason

# What keys in Vault are for: a backup is sealed by one that somebody else made.
PURPOSES: Final = tuple(purpose for purpose in KeyPurpose if purpose is not KeyPurpose.BACKUP)
_MARK: Final = "vault-"
_DIGITS: Final = 24  # of a SHA-256: ids have room for no more
_KEY_ID: Final = re.compile(rf"{_MARK}([0-9a-f]{{32}})-([0-9a-f]{{{_DIGITS}}})")


def is_in_vault(key_id: str) -> bool:
    """Whether a key of this id is in Vault; the others are sealed."""
    return key_id.startswith(_MARK)


@dataclass(frozen=True, slots=True)
class TransitId:
    """The id of a key in Vault. `unique` stands in its name there.

    `digest` is of its public key: one that was put in its place under its name is not taken for it.
    """

    unique: str
    digest: str

    @classmethod
    def of(cls, unique: str, public_key: AuthorityPublicKey) -> TransitId:
        """The id of this key."""
        encoded = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return cls(unique, hashlib.sha256(encoded).hexdigest()[:_DIGITS])

    @classmethod
    def parse(cls, key_id: str) -> TransitId:
        """Raises `FailedPrecondition` (`key_unsealable`) where no key in Vault has such an id."""
        found = _KEY_ID.fullmatch(key_id)
        if found is None:
            raise FailedPrecondition(Reason.KEY_UNSEALABLE, f"{key_id[:64]!r} is not the id of a key in Vault")
        return cls(found[1], found[2])

    def __str__(self) -> str:
        return f"{_MARK}{self.unique}-{self.digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitNames:
    """Names of keys at `mount` that begin with `prefix`: all that this server touches there.

    A name has the purpose in it, so that a key made for one purpose is not found for another.
    """

    mount: str
    prefix: str

    def name(self, unique: str, purpose: KeyPurpose) -> str:
        """The name of this key."""
        return f"{self.prefix}-{purpose}-{unique}"

    def path(self, name: str, verb: str = "keys", end: str = "") -> str:
        """Where Vault's API has it."""
        return "/".join(part for part in (self.mount, verb, name, end) if part)
