"""How this server proves to Vault who it is: four ways, each with its secret read anew from its file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from ca.vault.client import VaultClient
from ca.vault.settings import AppRoleLogin, CertificateLogin, KubernetesLogin, LoginSettings, TokenLogin
from citadel.clock import Clock
from citadel.config.files import read_secret_file, read_trusted_file
from citadel.errors import InvalidArgument, Reason, Unavailable

# What Vault says to who may not log in; the rest is about itself.
_NO: Final = frozenset({Reason.VAULT_DENIED, Reason.VAULT_REFUSED})

_SENT_AT_ONCE: Final = 3
_UNTIL_FORGOTTEN: Final = 1000.0  # seconds


class Login(Protocol):
    """One way to log in."""

    @property
    def kind(self) -> str:
        """As settings and `citadel-cli status` call it."""
        ...

    @property
    def shows(self) -> str:
        """What it logs in with, for people."""
        ...

    @property
    def makes_tokens(self) -> bool:
        """Whether each log-in makes a new token, which is this server's own to revoke."""
        ...

    async def token(self, client: VaultClient) -> str:
        """A token that was not looked at yet. Raises `Unavailable`: `vault_login_refused`, or why Vault is away."""
        ...


class ByToken:
    """A token that somebody else made, and that only somebody else can replace."""

    kind: Final = "token"
    makes_tokens: Final = False

    def __init__(self, settings: TokenLogin) -> None:
        self._file = settings.token_file
        self.shows = f"the token in {self._file}"

    async def token(self, client: VaultClient) -> str:
        await _reconnect(client, None)
        return await _secret(self._file, read_secret_file)


class ByAppRole:
    """A role's id, and a secret id of it."""

    kind: Final = "approle"
    makes_tokens: Final = True

    def __init__(self, settings: AppRoleLogin, clock: Clock) -> None:
        self._role_id, self._file, self._mount = settings.role_id, settings.secret_id_file, settings.mount
        self._refused = _RefusedSecret(clock)
        self.shows = f"role_id and the secret id in {self._file}, at auth/{self._mount}"

    async def token(self, client: VaultClient) -> str:
        await _reconnect(client, None)
        secret = await _secret(self._file, read_secret_file)
        self._refused.is_it(secret)
        try:
            return await _logged_in(client, self, self._mount, {"role_id": self._role_id, "secret_id": secret}, secret)
        except Unavailable as error:
            self._refused.note(error)
            raise


class _RefusedSecret:
    """Keeps one that was refused from being sent until the role is locked, for whoever has a good one by then as well.

    Vault does that after five within a quarter of an hour, for as long.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._secret = ""
        self._error: Unavailable | None = None
        self._times = 0
        self._last = 0.0

    def is_it(self, secret: str) -> None:
        """Raises what Vault said of it last time, where it should not be sent again yet."""
        if secret != self._secret:
            self._secret, self._error, self._times = secret, None, 0
        is_recent = self._clock.monotonic() - self._last < _UNTIL_FORGOTTEN
        if self._error is not None and self._times >= _SENT_AT_ONCE and is_recent:
            raise self._error.with_traceback(None)

    def note(self, error: Unavailable) -> None:
        """It was sent, and Vault said this."""
        if error.reason is Reason.VAULT_LOGIN_REFUSED:
            self._error, self._times, self._last = error, self._times + 1, self._clock.monotonic()


class ByKubernetes:
    """The token of this pod's service account, which Vault shows to Kubernetes."""

    kind: Final = "kubernetes"
    makes_tokens: Final = True

    def __init__(self, settings: KubernetesLogin) -> None:
        self._role, self._file, self._mount = settings.role, settings.token_file, settings.mount
        self.shows = f"role {self._role} and the token in {self._file}, at auth/{self._mount}"

    async def token(self, client: VaultClient) -> str:
        await _reconnect(client, None)
        # Kubernetes lets its group, or all of the pod, read it.
        secret = await _secret(self._file, read_trusted_file)
        return await _logged_in(client, self, self._mount, {"role": self._role, "jwt": secret}, secret)


class ByCertificate:
    """A TLS certificate, which is shown on every connection: Vault renews such a token only to who shows it again."""

    kind: Final = "certificate"
    makes_tokens: Final = True

    def __init__(self, settings: CertificateLogin) -> None:
        self._files, self._mount = (settings.certificate_file, settings.key_file), settings.mount
        self._data = {"name": settings.role} if settings.role is not None else {}
        self.shows = f"the certificate in {settings.certificate_file}, at auth/{self._mount}"

    async def token(self, client: VaultClient) -> str:
        await _content(self._files[1], read_secret_file)  # TLS takes it by its path
        await _reconnect(client, self._files)
        return await _logged_in(client, self, self._mount, self._data, "")


def login_of(settings: LoginSettings, *, clock: Clock) -> Login:
    """The one that is set."""
    if settings.approle is not None:
        return ByAppRole(settings.approle, clock)
    if settings.kubernetes is not None:
        return ByKubernetes(settings.kubernetes)
    if settings.certificate is not None:
        return ByCertificate(settings.certificate)
    if settings.token is None:
        raise AssertionError("settings of a log-in have exactly one")
    return ByToken(settings.token)


async def _logged_in(client: VaultClient, login: Login, mount: str, data: dict[str, str], secret: str) -> str:
    try:
        return await client.log_in(f"auth/{mount}/login", data, secret=secret)
    except Unavailable as error:
        if error.reason not in _NO:
            raise
        # An auth method that is not mounted is no path that anybody may use, so that it is refused alike.
        said = "" if error.reason is Reason.VAULT_DENIED else f": {error.message}"
        raise Unavailable(Reason.VAULT_LOGIN_REFUSED, f"Vault does not log in {login.shows}{said}") from None


async def _reconnect(client: VaultClient, certificate: tuple[Path, Path] | None) -> None:
    try:
        await client.reconnect(certificate)
    except InvalidArgument as error:
        raise Unavailable(Reason.VAULT_LOGIN_REFUSED, error.message, fix=error.fix) from None


async def _secret(file: Path, read: Callable[[Path], bytes]) -> str:
    """What stands in `file`, which is one word. No error has any of it."""
    content = (await _content(file, read)).decode("ascii", "replace").strip()
    if not content or not content.isascii() or not content.isprintable() or " " in content:
        raise Unavailable(Reason.VAULT_LOGIN_REFUSED, f"{file} does not hold a secret in one line")
    return content


async def _content(file: Path, read: Callable[[Path], bytes]) -> bytes:
    try:
        return await asyncio.to_thread(read, file)
    except InvalidArgument as error:
        raise Unavailable(Reason.VAULT_LOGIN_REFUSED, error.message, fix=error.fix) from None
