"""The settings of `citadel server`: the sections lie in their rooms, and what must hold between them stands here.

`deploy/server.yaml` shows each setting with its meaning.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from ca.agents.settings import JoiningSettings
from ca.api.settings import AdvertiseSettings, ConnectionSettings, LimitSettings, ListenSettings
from ca.audit.settings import AuditSettings
from ca.authority.settings import AuthoritySettings
from ca.federation.settings import FederationSettings
from ca.issuance.settings import SvidSettings
from ca.keys.settings import KeySettings
from ca.kubernetes.settings import KubernetesSettings
from ca.kubernetes.workloads.template import IdTemplate
from ca.lease.settings import LeaseSettings
from ca.ledger.settings import LedgerSettings
from ca.oidc.settings import OidcSettings
from ca.rotation.polled import HINTS
from ca.rotation.settings import RotationSettings
from ca.upstream.settings import UpstreamSettings
from ca.variable_name import VariableName
from ca.vault.settings import VaultSettings
from citadel.config.types import DataDir, LogSettings, Settings, TrustDomainName, format_duration
from citadel.errors import InvalidArgument, Reason
from citadel.name_constraints import is_one_host, is_refused_by_envoy

_STORE_URL: Final = re.compile(r"(?:sqlite\+aiosqlite|postgresql(?:\+[a-z0-9_]+)?)://.*", re.DOTALL)


def _database(url: str) -> str:
    if url.startswith("postgres://"):
        raise ValueError("must begin with postgresql://, not postgres://")
    if _STORE_URL.fullmatch(url) is None:
        raise ValueError("must be a URL like sqlite+aiosqlite:///file or postgresql://user@host/database")
    if url.startswith("postgresql") and _is_read_otherwise(url.partition("://")[2]):
        raise ValueError(
            "must have / # ? @ or % of a password, a name or a value percent-encoded: another host could be meant"
        )
    return url


def _is_read_otherwise(rest: str) -> bool:
    """Whether a sign of the password could end it: what then stands for the host is a part of the password.

    So a database or a value with `@` or `#` is refused too: to SQLAlchemy the host in `h:1/d?user=u@x` is x.
    """
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    path, _, query = rest.removeprefix(host).partition("?")
    return host.count("@") > 1 or "#" in rest or "@" in path or ("@" in query and host != "" and "@" not in host)


DatabaseUrl = Annotated[str, AfterValidator(_database)]


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
