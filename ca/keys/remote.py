"""Keys that are elsewhere, as in Vault: they are asked for signatures, and never seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from ca.keys.kinds import AuthorityKey, AuthorityPublicKey


class RemoteKey(Protocol):
    """A private key of an authority that signs elsewhere, many messages in one call."""

    def public_key(self) -> AuthorityPublicKey:
        """Its public half, known without asking."""
        ...

    async def sign(self, messages: Sequence[bytes]) -> Sequence[bytes]:
        """Signatures of `messages`, in their order, each one verified: ECDSA in DER, or RSA with PKCS #1 v1.5.

        What is signed is hashed as `kinds.hash_for` says. All or nothing: raises `Unavailable` with the reasons of
        `ca.vault.ports.Vault`, and `vault_key_lost` where the key is no longer there.
        """
        ...


# `isinstance(key, AuthorityKey)` tells which: a key that is here has the methods of one that is elsewhere, too.
SigningKey: TypeAlias = AuthorityKey | RemoteKey
