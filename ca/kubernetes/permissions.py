"""Every call that is made of a cluster's API server, and which setting needs it (pure).

The chart's roles and `citadel-cli k8s check` are both held against this: who makes another call adds it here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ca.kubernetes.settings import BundleSettings, ClusterSettings, SignerSettings

_AUTHENTICATION: Final = "authentication.k8s.io"
_FOLLOW: Final = ("list", "watch")
REQUESTS: Final = "certificatesigningrequests"
_POD_REQUESTS: Final = "podcertificaterequests"
TRUST_BUNDLES: Final = "clustertrustbundles"
NEWER_KINDS: Final = (TRUST_BUNDLES, _POD_REQUESTS)  # not every API server has them


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """Verbs on a resource, as RBAC writes them.

    `resource` may have a subresource (`pods/status`). With `names` it is for these objects alone, with `namespaces`
    for these namespaces alone; otherwise for all of the cluster. `setting` is what needs it, and `lacking` says what
    people see where it is not granted.
    """

    group: str
    resource: str
    verbs: tuple[str, ...]
    setting: str
    lacking: str
    names: tuple[str, ...] = ()
    namespaces: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """One thing that is allowed. Without `name` or `namespace` it is so for all of them."""

    verb: str
    group: str
    resource: str
    name: str = ""
    namespace: str = ""

    def __str__(self) -> str:
        kind = f"{self.resource}.{self.group}" if self.group else self.resource
        name = f" {self.name}" if self.name else ""
        return f"{self.verb} {kind}{name}" + (f" in {self.namespace}" if self.namespace else "")


AGENT: Final = (
    # The agent asks for those of its own node alone, which RBAC cannot say.
    Permission(
        group="",
        resource="pods",
        verbs=_FOLLOW,
        setting="kubernetes",
        lacking="pods get no identity from this agent: their callers are answered pod_unseen",
    ),
)


def server_permissions(cluster: ClusterSettings) -> tuple[Permission, ...]:
    """Everything that a server with these settings needs of this cluster, and nothing else."""
    return tuple(_server(cluster))


def grants(permissions: Iterable[Permission]) -> dict[Grant, tuple[Permission, ...]]:
    """Each single thing that is needed, in order, with what needs it."""
    found: dict[Grant, list[Permission]] = defaultdict(list)
    for each in permissions:
        for verb in each.verbs:
            for name in each.names or ("",):
                for namespace in ("",) if each.namespaces is None else each.namespaces:
                    found[Grant(verb, each.group, each.resource, name, namespace)].append(each)
    return {grant: tuple(needed) for grant, needed in found.items()}


def lacking_without(cluster: ClusterSettings, verb: str, resource: str) -> str:
    """What stands still where this is not allowed or does not work, in words; empty where nothing needs it."""
    needed = (each for each in _server(cluster) if each.resource == resource and verb in each.verbs)
    return ", ".join(dict.fromkeys(each.lacking for each in needed))


def _server(cluster: ClusterSettings) -> Iterator[Permission]:
    if cluster.joining is not None:
        lacking = "no agent can join"
        yield _permission("tokenreviews", ("create",), "joining", lacking, group=_AUTHENTICATION)
        yield _permission("pods", ("get",), "joining", lacking)
        yield _permission("nodes", ("get",), "joining", lacking)
        yield _permission("pods", _FOLLOW, "joining", "agents of nodes that have left are not evicted")
    if cluster.workloads is not None:
        yield _permission("pods", _FOLLOW, "workloads", "new pods get no identity")
        if cluster.workloads.service_dns_names:
            lacking = "certificates lack the names of services"
            yield _permission("services", _FOLLOW, "workloads.service_dns_names", lacking)
    if (istio := cluster.istio) is not None:
        if istio.oidc is None:
            lacking = "Istio's proxies get no certificate"
            yield _permission("tokenreviews", ("create",), "istio", lacking, group=_AUTHENTICATION)
        if istio.follows_pods:
            lacking = "tokens of deleted pods stay good for longer, and ztunnel gets no certificates for its pods"
            yield _permission("pods", _FOLLOW, "istio", lacking)
            lacking = "proxies of pods that were not told of in time get no certificate"
            yield _permission("pods", ("get",), "istio", lacking)
    if cluster.bundles is not None:
        yield from _bundles(cluster.bundles)
    if cluster.signers is not None:
        yield from _signers(cluster.signers)
    if cluster.gateways is not None:
        yield from _gateways(cluster.gateways.namespaces.listed)


def _bundles(bundles: BundleSettings) -> Iterator[Permission]:
    if bundles.config_maps:
        setting, lacking = "bundles.config_maps", "the trust bundle is not kept in the namespaces"
        names = tuple(dict.fromkeys(each.name for each in bundles.config_maps))
        yield _permission("namespaces", _FOLLOW, setting, lacking)
        # RBAC cannot hold creating to a name, and lists and watches only where they ask for a single one by its name.
        yield _permission("configmaps", (*_FOLLOW, "patch"), setting, lacking, names=names)
        yield _permission("configmaps", ("create",), setting, lacking)
    if (kept := bundles.cluster_trust_bundle) is not None:
        setting, lacking = "bundles.cluster_trust_bundle", "the ClusterTrustBundle is not kept"
        yield _certificates(TRUST_BUNDLES, (*_FOLLOW, "patch"), setting, lacking, names=(kept.name,))
        yield _certificates(TRUST_BUNDLES, ("create",), setting, lacking)
        if kept.signer_name is not None:
            yield _certificates("signers", ("attest",), setting, lacking, names=(kept.signer_name,))


def _signers(signers: SignerSettings) -> Iterator[Permission]:
    ours = (signers.signer_name,)
    if signers.certificate_requests != "off":
        setting, lacking = "signers.certificate_requests", "CertificateSigningRequests are not answered"
        approves = signers.certificate_requests == "service-accounts"
        yield _certificates(REQUESTS, _FOLLOW, setting, lacking)
        yield _certificates(f"{REQUESTS}/status", ("update",), setting, lacking)
        if approves:
            yield _certificates(f"{REQUESTS}/approval", ("update",), setting, lacking)
        yield _certificates("signers", ("approve", "sign") if approves else ("sign",), setting, lacking, names=ours)
        yield _permission("pods", _FOLLOW, setting, lacking)
    if signers.pod_certificates:
        setting, lacking = "signers.pod_certificates", "PodCertificateRequests are not answered"
        yield _certificates(_POD_REQUESTS, _FOLLOW, setting, lacking)
        yield _certificates(f"{_POD_REQUESTS}/status", ("update",), setting, lacking)
        yield _certificates("signers", ("sign",), setting, lacking, names=ours)
    yield _permission("pods", _FOLLOW, "signers", "no certificate is signed for pods")
    lacking = "requests for pods that are gone, or were not told of in time, are not answered"
    yield _permission("pods", ("get",), "signers", lacking)


def _gateways(namespaces: tuple[str, ...] | None) -> Iterator[Permission]:
    """Secrets are read in the named namespaces alone, where no pattern stands for any number of them."""
    setting, lacking = "gateways", "gateways get no credentials"
    yield _permission("pods", _FOLLOW, setting, lacking)
    yield _permission("subjectaccessreviews", ("create",), setting, lacking, group="authorization.k8s.io")
    yield _permission("secrets", _FOLLOW, setting, lacking, namespaces=namespaces)
    lacking = "what is wrong with a secret is not said there"
    yield _permission("events", ("create", "patch"), setting, lacking, namespaces=namespaces)


def _certificates(
    resource: str, verbs: tuple[str, ...], setting: str, lacking: str, *, names: tuple[str, ...] = ()
) -> Permission:
    return _permission(resource, verbs, setting, lacking, group="certificates.k8s.io", names=names)


def _permission(
    resource: str,
    verbs: tuple[str, ...],
    setting: str,
    lacking: str,
    *,
    group: str = "",
    names: tuple[str, ...] = (),
    namespaces: tuple[str, ...] | None = None,
) -> Permission:
    return Permission(
        group=group,
        resource=resource,
        verbs=verbs,
        setting=setting,
        lacking=lacking,
        names=names,
        namespaces=namespaces,
    )
