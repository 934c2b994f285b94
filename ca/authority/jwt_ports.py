"""What the JWT authorities need of the world."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from ca.authority.jwt_model import JwtAuthority
from ca.authority.model import AuthorityState
from ca.keys.kinds import KeyKind
from ca.keys.remote import SigningKey


class JwtKeyManager(Protocol):
    """Holds the private keys that sign tokens. `ca.keys.manager` is the default."""

    async def create_jwt(self, kind: KeyKind) -> str:
        """Make a key; when this returns, the key survives a crash. Returns its id."""
        ...

    async def jwt_signer(self, key_id: str) -> SigningKey:
        """What signs with the key.

        Raises `FailedPrecondition` (`key_unsealable`, or `vault_key_lost` where it is gone from Vault), or as
        `RemoteKey.sign`.
        """
        ...

    async def delete(self, key_id: str) -> None:
        """Forget the key; a key that does not exist is no error."""
        ...


class JwtAuthorityStore(Protocol):
    """Where JWT authorities are recorded."""

    async def load(self) -> Sequence[JwtAuthority]:
        """Every authority that was not revoked, oldest first."""
        ...

    async def withdrawn(self) -> Collection[str]:
        """The key ids of those that were revoked."""
        ...

    async def record(self, authority: JwtAuthority) -> None:
        """Insert `authority`, or put it in the place of one with its id: a failed try's, or one that was revoked."""
        ...

    async def set_states(self, states: Mapping[str, AuthorityState]) -> None:
        """Change the states of authorities, by id, all in one transaction."""
        ...

    async def extend(self, authority_id: str, signed_until: datetime) -> None:
        """From now on it may have signed until this time. What is later already stays."""
        ...
