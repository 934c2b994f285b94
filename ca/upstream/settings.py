"""The section `upstream` of the server's settings."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from ca.vault.settings import VaultMount, VaultName
from citadel.config.types import Address, Duration, Settings


class FilesSettings(Settings):
    """A folder with `ca-cert.pem`, `ca-key.pem`, `root-cert.pem`, `cert-chain.pem`; or `tls.crt`, `tls.key`, `ca.crt`.

    It is watched, and looked at every `poll` too: watchers miss things. `alone` says that no other cluster has an
    authority under these roots.
    """

    folder: Path
    alone: bool = False
    poll: Duration = Field(default=timedelta(seconds=30), ge=timedelta(milliseconds=100))


class ParentSettings(Settings):
    """A parent Citadel at `address` (its `listen.agents`), to which this server proves itself by an SVID.

    It has that from the agent whose Workload API is at `workload_api`, an agent of the parent.
    """

    address: Address
    workload_api: Path


class VaultPkiSettings(Settings):
    """The PKI secrets engine at `mount`, whose `issuer` (a name or an id; null: the default one) signs.

    `constrained` asks that what is signed be good for this trust domain alone. `alone` says that no other cluster has
    an authority under these roots; only then can this server rotate the root there (`rotate_root`). Issuers are looked
    at every `poll`.
    """

    mount: VaultMount = "pki"
    issuer: VaultName | None = None
    constrained: bool = False
    alone: bool = False
    rotate_root: bool = False
    poll: Duration = Field(default=timedelta(seconds=30), ge=timedelta(milliseconds=100))

    @model_validator(mode="after")
    def _can_rotate(self) -> Self:
        if self.rotate_root and not self.alone:
            raise ValueError(
                "rotate_root needs alone: nobody here knows whether other clusters trust a new root already"
            )
        if self.rotate_root and self.issuer is not None:
            raise ValueError("rotate_root needs the default issuer: a new root would not be the one that issuer names")
        return self


class UpstreamSettings(Settings):
    """Where the issuing authority comes from; where nothing is set, from a root of this server's own."""

    files: FilesSettings | None = None
    citadel: ParentSettings | None = None
    vault: VaultPkiSettings | None = None

    @property
    def kind(self) -> str:
        """What people call it."""
        sections = {"files": self.files, "citadel": self.citadel, "vault": self.vault}
        return next((name for name, section in sections.items() if section is not None), "self")

    @model_validator(mode="after")
    def _at_most_one(self) -> Self:
        if sum(each is not None for each in (self.files, self.citadel, self.vault)) > 1:
            raise ValueError("set at most one of files, citadel and vault")
        return self
