"""The section `upstream` of the server's settings."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

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


class UpstreamSettings(Settings):
    """Where the issuing authority comes from; where nothing is set, from a root of this server's own."""

    files: FilesSettings | None = None
    citadel: ParentSettings | None = None

    @model_validator(mode="after")
    def _at_most_one(self) -> Self:
        if self.files is not None and self.citadel is not None:
            raise ValueError("set at most one of files and citadel")
        return self
