"""The section `keys` of the server's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from ca.variable_name import VariableName
from ca.vault.settings import VaultMount, VaultName
from citadel.config.types import Settings


class VaultSealSettings(Settings):
    """The key `key` (aes256-gcm96) of the Transit secrets engine at `mount`."""

    mount: VaultMount = "transit"
    key: VaultName = "citadel-seal"


class VaultTransitSettings(Settings):
    """The Transit secrets engine at `mount`; the names of all keys there that are this server's begin with `prefix`."""

    mount: VaultMount = "transit"
    prefix: VaultName = "citadel"


class KeySettings(Settings):
    """What seals private keys, or where they are kept instead; `store` says where the sealed ones lie.

    The key-encryption key (32 bytes, base64) comes from a file of mode 0600 or an environment variable. With
    `vault_seal` new keys are sealed with a key in Vault, with `vault_transit` they are made there and never leave it;
    beside these, a key-encryption key opens what it has sealed before.
    """

    kek_file: Path | None = None
    kek_env: VariableName | None = Field(default=None, repr=False)  # somebody may put the key itself here
    vault_seal: VaultSealSettings | None = None
    vault_transit: VaultTransitSettings | None = None
    store: Literal["disk", "database"] | None = None

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.kek_file is not None and self.kek_env is not None:
            raise ValueError("set at most one of kek_file and kek_env")
        if not self.has_kek and self.vault_seal is None and self.vault_transit is None:
            raise ValueError(
                "set one of kek_file, kek_env, vault_seal and vault_transit"
                " (make a key-encryption key with `openssl rand -base64 32`)"
            )
        return self

    @property
    def has_kek(self) -> bool:
        """Whether there is a key-encryption key of this server's own."""
        return self.kek_file is not None or self.kek_env is not None
