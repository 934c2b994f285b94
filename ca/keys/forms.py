"""What was sealed before is opened by what sealed it: its form tells which that is."""

from __future__ import annotations

from ca.keys.manager import Sealer
from ca.keys.sealing import KeyLabel
from ca.keys.transit.sealer import is_sealed_by_vault
from citadel.errors import FailedPrecondition, Reason


class SealerByForm:
    """Fulfils `ca.keys.manager.Sealer`: seals with the key in Vault where there is one, and opens both forms."""

    def __init__(self, *, kek: Sealer | None, vault: Sealer | None) -> None:
        self._kek = kek
        self._vault = vault

    async def seal(self, plaintext: bytes, label: KeyLabel) -> bytes:
        sealer = self._vault or self._kek
        if sealer is None:
            raise FailedPrecondition(
                Reason.KEY_UNSEALABLE,
                f"there is no key to seal the {label.purpose} with",
                fix="set keys.vault_seal, keys.kek_file or keys.kek_env beside keys.vault_transit",
            )
        return await sealer.seal(plaintext, label)

    async def open(self, sealed: bytes, label: KeyLabel) -> bytes:
        by_vault = is_sealed_by_vault(sealed)
        sealer = self._vault if by_vault else self._kek
        if sealer is None:
            raise FailedPrecondition(
                Reason.KEY_UNSEALABLE,
                f"{label.key_id} ({label.purpose}) was sealed with "
                + ("a key in Vault" if by_vault else "a key-encryption key"),
                fix="set keys.vault_seal again" if by_vault else "set keys.kek_file or keys.kek_env again",
            )
        return await sealer.open(sealed, label)
