"""The section `kubernetes` of the server's settings: which clusters it knows, and what it does in each of them."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ca.dns_name import DnsName
from ca.kubernetes.workloads.labels import LabelSelector
from ca.kubernetes.workloads.template import check_template
from citadel.config.types import Duration, Settings, TrustDomainName
from citadel.kubernetes.settings import ApiServerSettings, ClusterName, NamespacePattern, NamespaceSettings

# RFC 1123, as Kubernetes names its objects.
_ACCOUNT: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_OBJECT: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_KEY: Final = re.compile(r"[A-Za-z0-9._-]{1,253}")
_SIGNER: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\.[a-z0-9-]+/[A-Za-z0-9._-]{1,300}")
_LEAST: Final = timedelta(seconds=1)


def _account(text: str) -> str:
    if _ACCOUNT.fullmatch(text) is None:
        raise ValueError(f"{text[:200]!r} is not a service account; write it like citadel-agents/citadel-agent")
    return text


def _object(text: str) -> str:
    if _OBJECT.fullmatch(text) is None:
        raise ValueError(f"{text[:200]!r} is not the name of an object in Kubernetes")
    return text


def _key(text: str) -> str:
    if _KEY.fullmatch(text) is None:
        raise ValueError(f"{text[:200]!r} is not a key of a ConfigMap")
    return text


def _signer(text: str) -> str:
    if _SIGNER.fullmatch(text) is None or text.startswith("kubernetes.io/") or ".kubernetes.io/" in text:
        raise ValueError(f"{text[:200]!r} is not the name of a signer of ours; write it like example.org/workload")
    return text


ServiceAccount = Annotated[str, AfterValidator(_account)]  # namespace/name
ObjectName = Annotated[str, AfterValidator(_object)]
DataKey = Annotated[str, AfterValidator(_key)]
SignerName = Annotated[str, AfterValidator(_signer)]


class NodeJoiningSettings(Settings):
    """k8s_psat: agents join with a projected token of one of `service_accounts`, made for `audience`."""

    audience: str = "citadel"
    service_accounts: tuple[ServiceAccount, ...] = Field(default=("citadel-agents/citadel-agent",), min_length=1)


def _template(text: str) -> str:
    check_template(text)
    return text


def _label_selector(text: str) -> str:
    LabelSelector.parse(text)
    return text


class PodNamespaces(NamespaceSettings):
    """Whose pods get an identity. A default of the field, not of its section: who sets `include` alone keeps it."""

    exclude: tuple[NamespacePattern, ...] = ("kube-system", "kube-public", "kube-node-lease")


class OutsideKubeSystem(NamespaceSettings):
    """Namespaces without that of the cluster itself, unless `exclude` says otherwise, whatever `include` says."""

    exclude: tuple[NamespacePattern, ...] = ("kube-system",)


class WorkloadSettings(Settings):
    """The identity that every admitted pod gets. `pod_labels` is a selector as kubectl takes it, empty for every pod.

    `template` knows {trust_domain}, {cluster}, {namespace}, {service_account} and {pod}. With `service_dns_names` a
    certificate also names the services that select the pod: name.namespace.svc, and that with `cluster_domain`.
    """

    template: Annotated[str, AfterValidator(_template)] = "spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"
    namespaces: PodNamespaces = PodNamespaces()
    pod_labels: Annotated[str, AfterValidator(_label_selector)] = ""
    service_dns_names: bool = False
    cluster_domain: DnsName = "cluster.local"
    federates_with: tuple[TrustDomainName, ...] = ()
    x509_svid_ttl: Duration | None = Field(default=None, ge=_LEAST)
    jwt_svid_ttl: Duration | None = Field(default=None, ge=_LEAST)


class OidcTokenSettings(Settings):
    """Tokens of service accounts checked by the cluster's own published keys, without its API server.

    A pod that was deleted is not noticed so, until its token ends. `ca_file` is for an issuer under an authority that
    is not public, `jwks_uri` for one whose discovery document names an address that is not reached from here.
    """

    issuer: str
    jwks_uri: str | None = None
    ca_file: Path | None = None


class IstioSettings(Settings):
    """Istio's proxies as clients: `istio.v1.auth.IstioCertificateService` on the bootstrap listener.

    `cluster_id` is what Istio calls the cluster, where that is not its name here: `Kubernetes` unless its values say
    otherwise. Tokens are for `audience`, and checked by TokenReview, whose answers are kept for `cache`, or by `oidc`.
    `trusted_node_accounts` are those of ztunnel, which may ask for the identities of pods on their own node.
    """

    cluster_id: str | None = None
    audience: str = "istio-ca"
    oidc: OidcTokenSettings | None = None
    cache: Duration = Field(default=timedelta(seconds=5), le=timedelta(minutes=1))
    namespaces: NamespaceSettings = NamespaceSettings()
    default_lifetime: Duration = Field(default=timedelta(hours=24), ge=_LEAST)
    max_lifetime: Duration = Field(default=timedelta(hours=24), ge=_LEAST)
    trusted_node_accounts: tuple[ServiceAccount, ...] = ()

    @property
    def follows_pods(self) -> bool:
        """Whether it matters which pods there are; with `oidc` alone the API server is not asked for anything."""
        return self.oidc is None or bool(self.trusted_node_accounts)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.default_lifetime > self.max_lifetime:
            raise ValueError("default_lifetime must be at most max_lifetime")
        return self


class ConfigMapSettings(Settings):
    """A ConfigMap with the trust bundle, in every namespace that is meant."""

    name: ObjectName
    key: DataKey
    format: Literal["pem", "spiffe"] = "pem"
    namespaces: NamespaceSettings = NamespaceSettings()


class ClusterTrustBundleSettings(Settings):
    """A ClusterTrustBundle with the trust bundle; with `signer_name` it is that signer's, and called after it."""

    name: str
    signer_name: SignerName | None = None

    @model_validator(mode="after")
    def _is_called_after_its_signer(self) -> Self:
        prefix = f"{self.signer_name.replace('/', ':')}:" if self.signer_name is not None else ""
        if not self.name.startswith(prefix) or _OBJECT.fullmatch(self.name.removeprefix(prefix)) is None:
            like = f"{prefix}bundle" if prefix else "bundle, without ':'"
            raise ValueError(f"{self.name[:200]!r} is not the name of such a ClusterTrustBundle; write it like {like}")
        return self


class BundleSettings(Settings):
    """Where the trust bundle is kept for everybody. `writes_per_second` is what is asked of the API server at most."""

    config_maps: tuple[ConfigMapSettings, ...] = (
        ConfigMapSettings(name="citadel-bundle", key="bundle.pem"),
        ConfigMapSettings(name="istio-ca-root-cert", key="root-cert.pem"),
    )
    cluster_trust_bundle: ClusterTrustBundleSettings | None = None
    writes_per_second: float = Field(default=100.0, gt=0)

    @model_validator(mode="after")
    def _keys_differ(self) -> Self:
        keys = [(each.name, each.key) for each in self.config_maps]
        if len(set(keys)) < len(keys):
            raise ValueError("a key of a ConfigMap can be listed once")
        return self


class SignerSettings(Settings):
    """Requests that are made as objects in Kubernetes.

    `signer_name` is what they name. `certificate_requests` says which CertificateSigningRequests are approved by us:
    none of them (others approve, we sign), or those that a service account makes for itself. `pod_certificates`
    answers PodCertificateRequests where the API has them.
    """

    signer_name: SignerName
    certificate_requests: Literal["off", "approved-by-others", "service-accounts"] = "service-accounts"
    pod_certificates: bool = True
    namespaces: OutsideKubeSystem = OutsideKubeSystem()
    default_lifetime: Duration = Field(default=timedelta(hours=24), ge=_LEAST)
    max_lifetime: Duration = Field(default=timedelta(hours=24), ge=_LEAST)


class GatewaySettings(Settings):
    """Credentials of gateways, read from secrets in these namespaces."""

    namespaces: OutsideKubeSystem = OutsideKubeSystem()


class ClusterSettings(Settings):
    """One cluster. Everything is off that is not set."""

    name: ClusterName
    api: ApiServerSettings = ApiServerSettings()
    joining: NodeJoiningSettings | None = None
    workloads: WorkloadSettings | None = None
    istio: IstioSettings | None = None
    bundles: BundleSettings | None = None
    signers: SignerSettings | None = None
    gateways: GatewaySettings | None = None

    @property
    def signs_without_roots(self) -> bool:
        """Whether certificates are signed for its clients, and no roots are kept there for them."""
        keeps = self.bundles is not None and (self.bundles.config_maps or self.bundles.cluster_trust_bundle)
        return self.signers is not None and not keeps


class KubernetesSettings(Settings):
    """All clusters that this server knows, each by a name of its own."""

    clusters: tuple[ClusterSettings, ...] = Field(min_length=1)

    @property
    def longest_lifetime(self) -> timedelta:
        """How long a certificate can live that is handed out to clients of Kubernetes."""
        parts = [part for each in self.clusters for part in (each.istio, each.signers) if part is not None]
        return max((part.max_lifetime for part in parts), default=timedelta(0))

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [cluster.name for cluster in self.clusters]
        if len(set(names)) < len(names):
            raise ValueError("every cluster needs a name of its own")
        called = [
            name for each in self.clusters if each.istio for name in {each.name, each.istio.cluster_id or each.name}
        ]
        if len(set(called)) < len(called):
            raise ValueError("istio.cluster_id must not be what another cluster is called")
        return self
