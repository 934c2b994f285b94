"""The section `vault` of the server's settings: where Vault is, and how this server logs in there."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from citadel.config.types import Duration, HostPort, Settings

# What may stand in a path of Vault's API as one mount or name, so that none leads elsewhere.
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]*[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def _mount(path: str) -> str:
    if not all(_NAME.fullmatch(part) for part in path.split("/")):
        raise ValueError(f"{path!r} is not a mount path; write it like pki or mesh/pki")
    return path


def _name(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is not a name in Vault: letters, digits, '.', '_' and '-'")
    return name


VaultMount = Annotated[str, AfterValidator(_mount)]
VaultName = Annotated[str, AfterValidator(_name)]


class TokenLogin(Settings):
    """A token in a file (mode 0600), which is read again whenever a log-in is due."""

    token_file: Path


class AppRoleLogin(Settings):
    """AppRole; `secret_id_file` has mode 0600."""

    role_id: str
    secret_id_file: Path
    mount: VaultMount = "approle"


class KubernetesLogin(Settings):
    """The service account's token of this pod."""

    role: str
    token_file: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
    mount: VaultMount = "kubernetes"


class CertificateLogin(Settings):
    """A TLS client certificate; `key_file` has mode 0600. Without `role` Vault takes the first that fits."""

    certificate_file: Path
    key_file: Path
    role: str | None = None
    mount: VaultMount = "cert"


class LoginSettings(Settings):
    """How this server logs in: exactly one of these."""

    token: TokenLogin | None = None
    approle: AppRoleLogin | None = None
    kubernetes: KubernetesLogin | None = None
    certificate: CertificateLogin | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(each is not None for each in (self.token, self.approle, self.kubernetes, self.certificate)) != 1:
            raise ValueError("set exactly one of token, approle, kubernetes and certificate")
        return self


class VaultSettings(Settings):
    """`address` is a URL, with https unless it is on loopback. `timeout` is how long one answer is waited for."""

    address: str
    login: LoginSettings
    namespace: str | None = None
    ca_file: Path | None = None
    timeout: Duration = Field(default=timedelta(seconds=5), ge=timedelta(milliseconds=100), le=timedelta(minutes=1))

    @model_validator(mode="after")
    def _is_an_address(self) -> Self:
        url = urlsplit(self.address)
        if url.scheme not in ("http", "https") or not url.hostname or url.username or url.query or url.fragment:
            raise ValueError("address must be a URL like https://vault.example.org:8200")
        if url.path.strip("/"):
            raise ValueError("address must end with the host and the port; what follows is set as mount and namespace")
        if url.scheme == "http" and not HostPort(url.hostname, url.port or 80).is_loopback:
            raise ValueError("address must begin with https:// unless it is on loopback: a token goes there")
        return self
