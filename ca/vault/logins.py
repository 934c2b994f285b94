"""How this server proves to Vault who it is: four ways, each with its secret read anew from its file."""

from __future__ import annotations

from typing import Final, Protocol

from ca.vault.client import VaultClient
from ca.vault.connections import Certificate
from ca.vault.secret_files import RefusedSecret, SecretFile
from ca.vault.settings import AppRoleLogin, CertificateLogin, KubernetesLogin, LoginSettings, TokenLogin
from citadel.clock import Clock
from citadel.config.files import read_secret_file, read_trusted_file
from citadel.errors import InvalidArgument, Reason, Unavailable

# What Vault says to who may not log in; the rest is about itself.
_NO: Final = frozenset({Reason.VAULT_DENIED, Reason.VAULT_REFUSED})


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

    @property
    def certificate(self) -> Certificate | None:
        """What is shown on every connection: Vault renews such a token only to who shows it again."""
        ...

    @property
    def secret(self) -> SecretFile:
        """Where what it logs in with lies."""
        ...

    async def token(self, client: VaultClient, /) -> str:
        """A token that was not looked at yet, over connections of `connect`.

        Raises `Unavailable`: `vault_login_refused`, or why Vault is away.
        """
        ...


class ByToken:
    """A token that somebody else made, and that only somebody else can replace."""

    kind: Final = "token"
    makes_tokens: Final = False
    certificate: Final = None

    def __init__(self, settings: TokenLogin) -> None:
        self.secret = SecretFile(settings.token_file, read_secret_file)
        self.shows = f"the token in {settings.token_file}"

    async def token(self, _: VaultClient, /) -> str:
        return await self.secret.word()


class ByAppRole:
    """A role's id, and a secret id of it."""

    kind: Final = "approle"
    makes_tokens: Final = True
    certificate: Final = None

    def __init__(self, settings: AppRoleLogin, clock: Clock) -> None:
        self._role_id, self._mount = settings.role_id, settings.mount
        self._refused = RefusedSecret(clock)
        self.secret = SecretFile(settings.secret_id_file, read_secret_file)
        self.shows = f"role_id and the secret id in {settings.secret_id_file}, at auth/{self._mount}"

    async def token(self, client: VaultClient, /) -> str:
        secret = await self.secret.word()
        self._refused.check(secret)
        try:
            return await client.log_in(f"auth/{self._mount}/login", {"role_id": self._role_id, "secret_id": secret})
        except Unavailable as error:
            refusal = _refusal(error, self)
            if error.reason is Reason.VAULT_REFUSED:  # and the role is not locked already
                self._refused.note(refusal)
            raise refusal from None


class ByKubernetes:
    """The token of this pod's service account, which Vault shows to Kubernetes."""

    kind: Final = "kubernetes"
    makes_tokens: Final = True
    certificate: Final = None

    def __init__(self, settings: KubernetesLogin) -> None:
        self._role, self._mount = settings.role, settings.mount
        # Kubernetes lets its group, or all of the pod, read it.
        self.secret = SecretFile(settings.token_file, read_trusted_file)
        self.shows = f"role {self._role} and the token in {settings.token_file}, at auth/{self._mount}"

    async def token(self, client: VaultClient, /) -> str:
        data = {"role": self._role, "jwt": await self.secret.word()}
        try:
            return await client.log_in(f"auth/{self._mount}/login", data)
        except Unavailable as error:
            raise _refusal(error, self) from None


class ByCertificate:
    """A TLS certificate."""

    kind: Final = "certificate"
    makes_tokens: Final = True

    def __init__(self, settings: CertificateLogin) -> None:
        self._mount = settings.mount
        self._data = {"name": settings.role} if settings.role is not None else {}
        self.certificate = Certificate(settings.certificate_file, settings.key_file)
        self.secret = SecretFile(settings.key_file, read_secret_file)
        self.shows = f"the certificate in {settings.certificate_file}, at auth/{self._mount}"

    async def token(self, client: VaultClient, /) -> str:
        try:
            return await client.log_in(f"auth/{self._mount}/login", self._data)
        except Unavailable as error:
            raise _refusal(error, self) from None


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


async def connect(client: VaultClient, login: Login) -> None:
    """Go over to new connections, with the files as they are now; before a log-in. Raises `vault_login_refused`."""
    if login.certificate is not None:
        await login.secret.content()  # TLS takes it by its path, whoever else can read it
    try:
        await client.reconnect(login.certificate)
    except InvalidArgument as error:
        raise Unavailable(Reason.VAULT_LOGIN_REFUSED, error.message, fix=error.fix) from None


def _refusal(error: Unavailable, login: Login) -> Unavailable:
    """What a log-in has met, where Vault says no as one that says what was refused."""
    if error.reason not in _NO:
        return error
    # An auth method that is not mounted is no path that anybody may use, so that it is refused alike.
    said = "" if error.reason is Reason.VAULT_DENIED else f": {error.message}"
    fix = error.fix or (
        f"look whether that auth method is mounted there, or set vault.login.{login.kind}.mount"
        if error.reason is Reason.VAULT_DENIED
        else f"compare vault.login.{login.kind} and vault.namespace with what is there; a new secret is taken by itself"
    )
    return Unavailable(Reason.VAULT_LOGIN_REFUSED, f"Vault does not log in {login.shows}{said}", fix=fix)
