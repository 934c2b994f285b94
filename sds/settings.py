"""The settings of `citadel agent`. `deploy/agent.yaml` shows each with its meaning."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from citadel.config.types import (
    Address,
    DataDir,
    Duration,
    HostPort,
    LogSettings,
    ProbesSettings,
    Settings,
    TrustDomainName,
)
from citadel.kubernetes.settings import ApiServerSettings, ClusterName

# Less would keep a core busy while the server is away.
_LEAST_WAIT: Final = timedelta(milliseconds=10)
_LEAST_REQUEST_BYTES: Final = 128 * 1024  # an Envoy's first request has its Node, of about 61 KB
_LEAST_TIMEOUT: Final = timedelta(milliseconds=100)
EVERYTHING: Final = "*"  # the xDS protocol, "How the client specifies what resources to return"
MAX_NAME_BYTES: Final = 2048  # the longest SPIFFE ID (ID-19), and so the longest name of a secret


class X509PopSettings(Settings):
    """The certificate (PEM, leaf first) and key (PEM, mode 0600) that the machine has from elsewhere."""

    certificate_file: Path | None = None
    key_file: Path | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("set both certificate_file and key_file, or neither")
        return self


class K8sPsatSettings(Settings):
    """The projected token of this agent's service account, read anew for each use, and the cluster's name."""

    cluster: ClusterName
    token_file: Path = Path("/var/run/secrets/citadel/token")


class JoinSettings(Settings):
    """How the agent first comes to an identity, and back to it when it has expired.

    `servers` are bootstrap listeners, in the place of the one that the join string names. The join string is a secret:
    it is read from a file or from the environment variable `CITADEL_JOIN_STRING`, never from the command line, where
    every user of the machine could read it.
    """

    string_file: Path | None = None
    bundle_file: Path | None = None
    insecure_bootstrap: bool = False
    servers: tuple[Address, ...] = ()
    x509pop: X509PopSettings = X509PopSettings()
    k8s_psat: K8sPsatSettings | None = None

    @model_validator(mode="after")
    def _one_is_enough(self) -> Self:
        has = {
            "string_file": self.string_file is not None,
            "x509pop": self.x509pop.certificate_file is not None,
            "k8s_psat": self.k8s_psat is not None,
        }
        ways = [name for name, is_set in has.items() if is_set]
        if len(ways) > 1:
            raise ValueError(f"set one of {' and '.join(ways)}: each is enough to join")
        way = next(iter(ways), "string_file")
        if way == "string_file":
            return self
        if not self.servers:
            raise ValueError(f"{way} needs servers: the addresses of the server's bootstrap listener")
        if self.bundle_file is None and not self.insecure_bootstrap:
            raise ValueError(f"{way} needs bundle_file, to know the server by (`citadel-cli bundle show`)")
        return self


class ReconnectSettings(Settings):
    """Backoff towards the server: exponential with full jitter, from `initial` up to `maximum`."""

    initial: Duration = Field(default=timedelta(milliseconds=200), ge=_LEAST_WAIT)
    maximum: Duration = timedelta(seconds=5)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.maximum < self.initial:
            raise ValueError("maximum must be at least initial")
        return self


class RenewalSettings(Settings):
    """The share of its life after which an X.509-SVID, also the agent's own, is renewed."""

    at: float = Field(default=0.5, ge=0.1, le=0.9)


class SecretNameSettings(Settings):
    """What the short names of SDS secrets are called: the first identity, its trust bundle, all trust bundles."""

    default: str = "default"
    root: str = "ROOTCA"
    all: str = "ALL"

    @model_validator(mode="after")
    def _can_be_told_apart(self) -> Self:
        names = (self.default, self.root, self.all)
        if len(set(names)) < len(names):
            raise ValueError("default, root and all must be three different names")
        for name in names:
            if not name or not name.isprintable() or name == EVERYTHING or len(name.encode()) > MAX_NAME_BYTES:
                raise ValueError(f"{name[:200]!r} cannot be the name of a secret")
            if name.lower().startswith("spiffe:"):
                raise ValueError(f"{name[:200]!r} looks like a SPIFFE ID, which names that identity")
        return self


class SdsSettings(Settings):
    """How secrets are offered to proxies."""

    names: SecretNameSettings = SecretNameSettings()


class LimitSettings(Settings):
    """What the callers on the agent's socket may take.

    Root is spared limits per uid, but for that of tokens, and that of streams in all. With the section `kubernetes`
    each pod counts as a user of its own, whoever its users are, and root of a pod is spared nothing. The streams of a
    user times the bytes of a request is memory that this user can make the agent hold. The server signs so much for an
    agent and no more, so that one user, root too, could take tokens from the others.
    """

    max_connections: int = Field(default=8192, ge=1)
    max_connections_per_uid: int = Field(default=1024, ge=1)
    max_streams_per_connection: int = Field(default=128, ge=1)
    max_streams: int = Field(default=8192, ge=1)
    max_streams_per_uid: int = Field(default=1024, ge=1)
    max_names: int = Field(default=128, ge=1)
    jwt_svids_per_second_per_uid: float = Field(default=20.0, gt=0)
    max_request_bytes: int = Field(default=256 * 1024, ge=_LEAST_REQUEST_BYTES)
    handshake_timeout: Duration = Field(default=timedelta(seconds=20), ge=_LEAST_TIMEOUT)
    request_timeout: Duration = Field(default=timedelta(seconds=10), ge=_LEAST_TIMEOUT)


class AuthzSettings(Settings):
    """What is answered to proxies that ask whether a request is allowed. Without a file every request is refused."""

    policy_file: Path | None = None


class KubernetesSettings(Settings):
    """Pods as callers: which node this is, where its API server is, and how long a new pod is waited for.

    `node_name_env` names the environment variable that has the node's name, as the downward API gives it.
    """

    node_name_env: str = "NODE_NAME"
    api: ApiServerSettings = ApiServerSettings()
    wait: Duration = Field(default=timedelta(seconds=5), le=timedelta(seconds=30))


class AgentSettings(ProbesSettings):
    """All of `agent.yaml`. `servers` override the address that was learnt when joining."""

    trust_domain: TrustDomainName
    data_dir: DataDir
    socket: Path = Path("/run/citadel/agent.sock")
    admin_socket: Path = Path("/run/citadel/agent-admin.sock")
    servers: tuple[Address, ...] = ()
    join: JoinSettings = JoinSettings()
    reconnect: ReconnectSettings = ReconnectSettings()
    renewal: RenewalSettings = RenewalSettings()
    workload_key: Literal["ec-p256", "ec-p384", "rsa-2048"] = "ec-p256"
    probes: Address = HostPort("127.0.0.1", 8481)
    sds: SdsSettings = SdsSettings()
    authz: AuthzSettings = AuthzSettings()
    kubernetes: KubernetesSettings | None = None
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()

    @property
    def relay_dir(self) -> Path:
        """Where the sockets behind the relays lie: this process's alone, unlike a folder for temporary files."""
        return self.data_dir / "relay"
