"""What a key in Transit is called, here and there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from ca.keys.sealing import KeyPurpose
from citadel.errors import FailedPrecondition, Reason

_MARK: Final = "vault-"
_KEY_ID: Final = re.compile(r"vault-([0-9a-f]{32})")


def new_key_id() -> str:
    """An id that no other key has."""
    return f"{_MARK}{uuid4().hex}"


def is_in_vault(key_id: str) -> bool:
    """Whether a key of this id is in Vault; the others are sealed."""
    return key_id.startswith(_MARK)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitNames:
    """Names of keys at `mount` that begin with `prefix`: all that this server touches there.

    A name has the purpose in it, so that a key made for one purpose is not found for another.
    """

    mount: str
    prefix: str

    def name(self, key_id: str, purpose: KeyPurpose) -> str:
        """The name of the key of this id. Raises `FailedPrecondition` (`key_unsealable`) where none can have it."""
        found = _KEY_ID.fullmatch(key_id)
        if found is None:
            raise FailedPrecondition(Reason.KEY_UNSEALABLE, f"{key_id[:50]!r} is not the id of a key in Vault")
        return f"{self.prefix}-{purpose}-{found[1]}"

    def names(self, key_id: str) -> list[str]:
        """What it can be called, where its purpose is not known."""
        return [self.name(key_id, purpose) for purpose in KeyPurpose]

    def path(self, name: str, verb: str = "keys", end: str = "") -> str:
        """Where Vault's API has it."""
        return "/".join(part for part in (self.mount, verb, name, end) if part)
