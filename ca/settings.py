"""The settings of `citadel server`. `deploy/server.yaml` shows each with its meaning."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from ca.authority.jwt_model import LONGEST_TOKEN
from ca.dns_name import DnsName
from ca.federation.settings import FederationSettings
from ca.keys.kinds import KeyKind
from ca.kubernetes.settings import KubernetesSettings
from ca.kubernetes.workloads.template import IdTemplate
from ca.oidc.settings import OidcSettings
from ca.rotation.polled import HINTS
from ca.upstream.settings import UpstreamSettings
from ca.vault.settings import VaultMount, VaultName, VaultSettings
from citadel.config.types import (
    Address,
    DataDir,
    Duration,
    HostPort,
    LogSettings,
    ProbesSettings,
    Settings,
    TrustDomainName,
    format_duration,
)
from citadel.errors import InvalidArgument, Reason
from citadel.name_constraints import is_one_host, is_refused_by_envoy

_LEAST_LIFETIME: Final = timedelta(seconds=1)
_LEAST_KEPT: Final = timedelta(days=1)
_MOST_BACKDATE: Final = timedelta(hours=1)
_MOST_TOKEN_LIFETIME: Final = timedelta(days=1)
# In capitals, as variables of the environment are by custom: a key that was pasted here is never taken for a name.
_VARIABLE: Final = re.compile(r"[A-Z_][A-Z0-9_]*")
_STORE_URL: Final = re.compile(r"(?:sqlite\+aiosqlite|postgresql(?:\+[a-z0-9_]+)?)://.*", re.DOTALL)


def _variable(name: str) -> str:
    if _VARIABLE.fullmatch(name) is None:
        raise ValueError("must be the name of an environment variable in capitals, such as CITADEL_KEK")
    return name


def _database(url: str) -> str:
    if _STORE_URL.fullmatch(url) is None:
        raise ValueError("must be a URL like sqlite+aiosqlite:///file or postgresql://user@host/database")
    return url


VariableName = Annotated[str, AfterValidator(_variable)]
DatabaseUrl = Annotated[str, AfterValidator(_database)]


class ListenSettings(ProbesSettings):
    """Where the server listens."""

    bootstrap: Address = HostPort("127.0.0.1", 8443)
    agents: Address = HostPort("127.0.0.1", 8444)
    probes: Address = HostPort("127.0.0.1", 8480)
    admin_socket: Path = Path("/run/citadel/admin.sock")


class AdvertiseSettings(Settings):
    """The addresses that join strings and answers name, where they differ from those listened on.

    `dns_names` stand in the server's certificate, for callers that know it by the name that they reached it under.
    """

    bootstrap: Address | None = None
    agents: Address | None = None
    dns_names: tuple[DnsName, ...] = ()


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


class LeaseSettings(Settings):
    """How long the lease of the store lasts when it is not renewed, which is how soon a standby takes over."""

    duration: Duration = Field(default=timedelta(seconds=3), ge=timedelta(seconds=1), le=timedelta(minutes=1))


class AuthoritySettings(Settings):
    """Lifetimes of the self-signed root, of the issuing authorities under it, and of the keys that sign JWT-SVIDs.

    `key` is what the keys of roots and issuing authorities are that are made from now on, `jwt_key` those for tokens.
    """

    root_lifetime: Duration = Field(default=timedelta(days=365), ge=_LEAST_LIFETIME)
    issuer_lifetime: Duration = Field(default=timedelta(days=7), ge=_LEAST_LIFETIME)
    jwt_lifetime: Duration = Field(default=timedelta(days=7), ge=_LEAST_LIFETIME)
    key: KeyKind = KeyKind.EC_P256
    jwt_key: KeyKind = KeyKind.EC_P256

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.issuer_lifetime > self.root_lifetime:
            raise ValueError("issuer_lifetime must be at most root_lifetime")
        return self


class RotationSettings(Settings):
    """When authorities are rotated by themselves, as shares of their lives; and how gently.

    `window` is what renewing all SVIDs is spread over, `margin` how long a proxy is given between its acknowledgement
    and the first use of what it acknowledged. Roots are not rotated by themselves where `root_at` is null.
    """

    root_at: float | None = Field(default=0.5, gt=0, lt=1)
    issuer_at: float = Field(default=0.5, gt=0, lt=1)
    jwt_at: float = Field(default=0.5, gt=0, lt=1)
    window: Duration = timedelta(minutes=5)
    margin: Duration = Field(default=timedelta(seconds=2), ge=timedelta(milliseconds=500))


class SvidSettings(Settings):
    """Lifetimes of leaves. An entry may ask for less or more than the default, never for more than the cap."""

    default_lifetime: Duration = Field(default=timedelta(hours=1), ge=_LEAST_LIFETIME)
    max_lifetime: Duration = Field(default=timedelta(hours=24), ge=_LEAST_LIFETIME)
    agent_lifetime: Duration = Field(default=timedelta(hours=1), ge=_LEAST_LIFETIME)
    backdate: Duration = Field(default=timedelta(seconds=10), le=_MOST_BACKDATE)
    jwt_default_lifetime: Duration = Field(default=timedelta(minutes=5), ge=_LEAST_LIFETIME)
    jwt_max_lifetime: Duration = Field(default=timedelta(hours=1), ge=_LEAST_LIFETIME, le=LONGEST_TOKEN)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.default_lifetime > self.max_lifetime:
            raise ValueError("default_lifetime must be at most max_lifetime")
        if self.agent_lifetime > self.max_lifetime:
            raise ValueError("agent_lifetime must be at most max_lifetime")
        if self.jwt_default_lifetime > self.jwt_max_lifetime:
            raise ValueError("jwt_default_lifetime must be at most jwt_max_lifetime")
        return self


class LimitSettings(Settings):
    """What one caller may ask. `joins_per_second` holds for each address alone, `svids_per_second` for each agent.

    A child cluster may ask for authorities as often as an address for joins.
    Certificates and tokens are counted apart, so that who asks for many of the one gets the other still. `proxy_calls`
    are those of Istio's proxies that may be under way at once, a quarter of them from one address; `svids_per_second`
    holds for each of their pods.
    """

    batch: int = Field(default=500, ge=1, le=10_000)
    svids_per_second: float = Field(default=100.0, gt=0)
    agent_calls: int = Field(default=16, ge=2, le=1000)
    anonymous_calls: int = Field(default=256, ge=1, le=10_000)
    proxy_calls: int = Field(default=1000, ge=1, le=100_000)
    joins_per_second: float = Field(default=10.0, gt=0)
    token_lifetime: Duration = Field(default=timedelta(minutes=10), ge=_LEAST_LIFETIME, le=_MOST_TOKEN_LIFETIME)
    silent_streams: int = Field(default=8, ge=1, le=10_000)
    hello_timeout: Duration = Field(default=timedelta(seconds=10), ge=timedelta(milliseconds=10))


class ConnectionSettings(Settings):
    """What one connection may cost. Whoever has no identity may cost less."""

    message_bytes: int = Field(default=8 * 1024 * 1024, ge=1024 * 1024, le=64 * 1024 * 1024)
    anonymous_message_bytes: int = Field(default=256 * 1024, ge=16 * 1024, le=1024 * 1024)
    calls: int = Field(default=1000, ge=10, le=10_000)
    handshake: Duration = Field(default=timedelta(seconds=10), ge=_LEAST_LIFETIME)
    anonymous_idle: Duration = Field(default=timedelta(seconds=30), ge=timedelta(milliseconds=10))


class X509PopSettings(Settings):
    """Joining with a certificate. `ca_file` holds PEM certificates of authorities, and is read anew for each join."""

    ca_file: Path | None = None


class JoiningSettings(Settings):
    """How agents join beside tokens, and how long after its end an agent's own identity brings it back."""

    x509pop: X509PopSettings = X509PopSettings()
    rejoin_grace: Duration = timedelta(days=7)


class LedgerSettings(Settings):
    """How long expired certificates stay in the ledger (null: for ever); how often both logs' heads are signed."""

    keep: Duration | None = Field(default=timedelta(days=90), ge=_LEAST_KEPT)
    checkpoint_interval: Duration = Field(default=timedelta(minutes=5), ge=_LEAST_LIFETIME)


class AuditSettings(Settings):
    """How long acts and refusals stay in the audit log; null is for ever."""

    keep: Duration | None = Field(default=None, ge=_LEAST_KEPT)


class ServerSettings(Settings):
    """All of `server.yaml`.

    The store is SQLite in `data_dir`, unless `store_url`, or the variable that `store_url_env` names, has its URL.
    """

    trust_domain: TrustDomainName
    data_dir: DataDir
    store_url: DatabaseUrl | None = Field(default=None, repr=False)  # can hold a password
    store_url_env: VariableName | None = Field(default=None, repr=False)  # as kek_env
    lease: LeaseSettings = LeaseSettings()
    listen: ListenSettings = ListenSettings()
    advertise: AdvertiseSettings = AdvertiseSettings()
    keys: KeySettings
    vault: VaultSettings | None = None
    upstream: UpstreamSettings = UpstreamSettings()
    authorities: AuthoritySettings = AuthoritySettings()
    rotation: RotationSettings = RotationSettings()
    svids: SvidSettings = Field(default=SvidSettings(), validate_default=True)
    oidc: OidcSettings = OidcSettings()
    federation: FederationSettings = FederationSettings()
    limits: LimitSettings = LimitSettings()
    joining: JoiningSettings = JoiningSettings()
    connections: ConnectionSettings = ConnectionSettings()
    ledger: LedgerSettings = LedgerSettings()
    audit: AuditSettings = AuditSettings()
    kubernetes: KubernetesSettings | None = None
    log: LogSettings = LogSettings()

    @property
    def relay_dir(self) -> Path:
        """Where the sockets behind the relays lie: this process's alone, unlike a folder for temporary files."""
        return self.data_dir / "relay"

    @property
    def database_url(self) -> str:
        """The URL of the store, which can hold a password.

        Raises `InvalidArgument` (`config_invalid`) where the variable that should have it does not.
        """
        if self.store_url_env is None:
            return self.store_url or f"sqlite+aiosqlite:///{self.data_dir / 'citadel.db'}"
        try:
            return _database(os.environ.get(self.store_url_env, ""))
        except ValueError as problem:
            raise InvalidArgument(
                Reason.CONFIG_INVALID, f"store_url_env: the environment variable {self.store_url_env} {problem}"
            ) from None

    @property
    def keys_in_database(self) -> bool:
        """Whether sealed keys lie in the store: by default where other servers may own it too."""
        if self.keys.store is None:
            return self.database_url.startswith("postgresql")
        return self.keys.store == "database"

    @model_validator(mode="after")
    def _one_store(self) -> Self:
        if self.store_url is not None and self.store_url_env is not None:
            raise ValueError("set at most one of store_url and store_url_env")
        return self

    @property
    def longest_leaf(self) -> timedelta:
        """How long a certificate can live, whoever it is for."""
        others = self.kubernetes.longest_lifetime if self.kubernetes is not None else timedelta(0)
        return min(max(self.svids.max_lifetime, others), self.authorities.issuer_lifetime)

    @model_validator(mode="after")
    def _vault_is_named_and_used(self) -> Self:
        uses = {
            "upstream.vault": self.upstream.vault,
            "keys.vault_seal": self.keys.vault_seal,
            "keys.vault_transit": self.keys.vault_transit,
        }
        used = [name for name, section in uses.items() if section is not None]
        if used and self.vault is None:
            raise ValueError(f"{used[0]} needs the section vault, which says where Vault is and how to log in there")
        if self.vault is not None and not used:
            raise ValueError(f"vault is set, and nothing uses it: set one of {', '.join(uses)}")
        return self

    @field_validator("upstream")
    @classmethod
    def _can_be_constrained(cls, upstream: UpstreamSettings, others: ValidationInfo) -> UpstreamSettings:
        """Where nobody could be served by what is asked for."""
        domain = others.data.get("trust_domain")  # absent where it is wrong itself
        if domain is None or upstream.vault is None or not upstream.vault.constrained:
            return upstream
        if is_refused_by_envoy(domain) or not is_one_host(domain):
            raise ValueError(f"vault.constrained cannot be for {domain}: in Envoy no constraint fits that name")
        return upstream

    @field_validator("kubernetes")
    @classmethod
    def _fit_the_trust_domain(
        cls, kubernetes: KubernetesSettings | None, others: ValidationInfo
    ) -> KubernetesSettings | None:
        """Where pods would get identities that are not this server's to give."""
        domain = others.data.get("trust_domain")  # absent where it is wrong itself
        if kubernetes is None or domain is None:
            return kubernetes
        for cluster in kubernetes.clusters:
            if (workloads := cluster.workloads) is None:
                continue
            try:
                IdTemplate.parse(workloads.template, trust_domain=domain, cluster=cluster.name)
            except ValueError as problem:
                raise ValueError(f"workloads.template of cluster {cluster.name} {problem}") from problem
            if domain in workloads.federates_with:
                raise ValueError(f"workloads.federates_with of cluster {cluster.name} names this trust domain itself")
        return kubernetes

    @field_validator("oidc")
    @classmethod
    def _fit_the_keys(cls, oidc: OidcSettings, others: ValidationInfo) -> OidcSettings:
        """A new key waits as long as strangers may keep the old ones, and that must come long before those end."""
        authorities = others.data.get("authorities")  # absent where it is wrong itself
        if authorities is not None and oidc.issuer is not None and oidc.max_age > authorities.jwt_lifetime / 4:
            asked, limit = format_duration(oidc.max_age), format_duration(authorities.jwt_lifetime / 4)
            raise ValueError(f"max_age ({asked}) must be at most a quarter of authorities.jwt_lifetime ({limit})")
        return oidc

    @field_validator("federation")
    @classmethod
    def _fit_the_authorities(cls, federation: FederationSettings, others: ValidationInfo) -> FederationSettings:
        """What is new waits until other trust domains have looked, and that must come long before what signs ends."""
        authorities = others.data.get("authorities")  # absent where it is wrong itself
        if authorities is None or federation.listen is None:
            return federation
        for name in ("issuer_lifetime", "jwt_lifetime"):  # a root lives as long as its issuer at least
            limit = getattr(authorities, name) / 4
            if HINTS * federation.refresh_hint > limit:
                raise ValueError(
                    f"{HINTS} times refresh_hint ({format_duration(HINTS * federation.refresh_hint)}) must be at most a"
                    f" quarter of authorities.{name} ({format_duration(limit)})"
                )
        return federation

    @field_validator("svids")
    @classmethod
    def _fit_their_issuer(cls, svids: SvidSettings, others: ValidationInfo) -> SvidSettings:
        authorities = others.data.get("authorities")  # absent where it is wrong itself
        for own, of_issuer in (("default_lifetime", "issuer_lifetime"), ("jwt_default_lifetime", "jwt_lifetime")):
            if authorities is not None and getattr(svids, own) > getattr(authorities, of_issuer):
                asked, limit = (format_duration(getattr(*each)) for each in ((svids, own), (authorities, of_issuer)))
                raise ValueError(f"{own} ({asked}) must be at most authorities.{of_issuer} ({limit})")
        return svids
