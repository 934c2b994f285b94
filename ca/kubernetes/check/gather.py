"""Asks an API server for everything that the rules look at, and changes nothing there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from ca.kubernetes.bundles.rivals import writers_of
from ca.kubernetes.check.facts import EVERYTHING, Account, Allowed, Caller, ClusterFacts, Kept, Version, seen
from ca.kubernetes.check.installed import exists_at, makers_of, pods_of, server_account
from ca.kubernetes.discovery import served_at
from ca.kubernetes.permissions import AGENT, NEWER_KINDS, Grant, grants, server_permissions
from ca.kubernetes.settings import ClusterSettings, NodeJoiningSettings
from citadel.clock import Clock
from citadel.errors import CitadelError, Reason, Unauthenticated, Unavailable
from citadel.kubernetes.ports import KubernetesApi

_REVIEWS: Final = "/apis/authorization.k8s.io/v1"
_ENFORCED: Final = "pod-security.kubernetes.io/enforce"
_SYSTEM: Final = "kubernetes.io/os"
_SHORTEST: Final = 600  # seconds that a token lives at least


async def gather(
    cluster: ClusterSettings, api: KubernetesApi, *, clock: Clock, account: str | None = None
) -> ClusterFacts:
    """All facts about what these settings use. With `account` (namespace/name) about that one."""
    version = await seen(_version(api))
    if isinstance(version, CitadelError):
        return ClusterFacts(version=version)
    caller = await seen(_caller(api, clock))
    if isinstance(caller, CitadelError) and caller.reason is Reason.KUBERNETES_LOGIN_REFUSED:
        return ClusterFacts(version=version, caller=caller)
    server = await server_account(api, account) if account is not None else None
    needed = [*grants(server_permissions(cluster)), EVERYTHING]
    joining, bundles = cluster.joining, cluster.bundles
    accounts = joining.service_accounts if joining is not None else ()
    maps = dict.fromkeys(each.name for each in bundles.config_maps) if bundles is not None else {}
    return ClusterFacts(
        version=version,
        caller=caller,
        issuer_keys=await seen(_issuer_keys(api)),
        kinds=await seen(_kinds(api)),
        server=server,
        allowed=await seen(_allowed(api, needed, account)) if server is None or server.exists is not False else {},
        namespaces=await seen(_namespaces(api)),
        accounts={each: await _account(api, each, joining) for each in accounts if joining is not None},
        nodes=await seen(_nodes(api)) if accounts else None,
        agents=await seen(pods_of(api, accounts)) if accounts else None,
        agent_makers=await seen(makers_of(api, accounts)),
        maps={name: await seen(_kept(api, name)) for name in maps},
    )


async def gather_for_agent(api: KubernetesApi, *, clock: Clock) -> ClusterFacts:
    """What an agent needs of the API server, asked as the agent asks."""
    version = await seen(_version(api))
    if isinstance(version, CitadelError):
        return ClusterFacts(version=version)
    caller = await seen(_caller(api, clock))
    return ClusterFacts(version=version, caller=caller, allowed=await seen(_allowed(api, grants(AGENT), None)))


async def _version(api: KubernetesApi) -> Version:
    said = await api.get("/version")
    try:
        major, minor = (int(str(said[part]).rstrip("+")) for part in ("major", "minor"))  # some clouds write 30+
    except (KeyError, ValueError):
        raise Unavailable(Reason.KUBERNETES_REFUSED, "what answers is not an API server of Kubernetes") from None
    return Version(major, minor)


async def _caller(api: KubernetesApi, clock: Clock) -> Caller:
    kind = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    begun = clock.now()
    said = await api.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", kind)
    asked_at = begun + (clock.now() - begun) / 2
    made = (said.get("metadata") or {}).get("creationTimestamp")
    return Caller(
        name=str(((said.get("status") or {}).get("userInfo") or {}).get("username", "")),
        time=datetime.fromisoformat(made) if made else None,
        asked_at=asked_at,
    )


async def _issuer_keys(api: KubernetesApi) -> frozenset[str]:
    # Every service account may read them.
    return frozenset(str(each.get("kid")) for each in (await api.get("/openid/v1/jwks")).get("keys") or ())


async def _kinds(api: KubernetesApi) -> Mapping[str, str]:
    found = {resource: await served_at(api, resource) for resource in NEWER_KINDS}
    return {resource: path.rpartition("/")[2] for resource, path in found.items() if path is not None}


async def _allowed(api: KubernetesApi, needed: Iterable[Grant], account: str | None) -> Allowed:
    """What this caller may, or what `account` may as far as this caller is told."""
    needed = tuple(needed)
    answers = await asyncio.gather(*(_may(api, each, account) for each in needed))
    return dict(zip(needed, answers, strict=True))


async def _may(api: KubernetesApi, grant: Grant, account: str | None) -> bool:
    resource, _, part = grant.resource.partition("/")
    attributes = {"verb": grant.verb, "group": grant.group, "resource": resource, "subresource": part}
    attributes |= {"name": grant.name, "namespace": grant.namespace}
    spec: dict[str, Any] = {"resourceAttributes": attributes}
    if account is not None:
        namespace, _, name = account.partition("/")
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
        spec |= {"user": f"system:serviceaccount:{namespace}:{name}", "groups": groups}
    kind = "SubjectAccessReview" if account is not None else "SelfSubjectAccessReview"
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
    said = await api.create(f"{_REVIEWS}/{kind.lower()}s", body)
    return bool((said.get("status") or {}).get("allowed"))


async def _namespaces(api: KubernetesApi) -> Mapping[str, str]:
    listed = await api.list("/api/v1/namespaces", each=lambda found: found["metadata"])
    return {str(each["name"]): str((each.get("labels") or {}).get(_ENFORCED, "")) for each in listed.items}


async def _nodes(api: KubernetesApi) -> frozenset[str]:
    """Those where an agent can run."""
    listed = await api.list("/api/v1/nodes", each=lambda found: found["metadata"])
    return frozenset(
        str(each["name"]) for each in listed.items if (each.get("labels") or {}).get(_SYSTEM, "linux") == "linux"
    )


async def _account(api: KubernetesApi, account: str, joining: NodeJoiningSettings) -> Account:
    namespace, _, name = account.partition("/")
    exists = await seen(exists_at(api, f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}"))
    trial = await seen(_trial(api, namespace, name, joining.audience)) if exists is True else None
    return Account(exists=exists, allowed=await seen(_allowed(api, grants(AGENT), account)), trial=trial)


async def _trial(api: KubernetesApi, namespace: str, name: str, audience: str) -> None:
    """A short token of that account, bound to no pod, so that nobody can join with it: whether it is good."""
    asked = {"spec": {"audiences": [audience], "expirationSeconds": _SHORTEST}}
    made = await api.create(f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", asked)
    spec = {"token": str(made["status"]["token"]), "audiences": [audience]}
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
    status = (await api.create("/apis/authentication.k8s.io/v1/tokenreviews", body)).get("status") or {}
    if not status.get("authenticated"):
        raise Unauthenticated(Reason.K8S_TOKEN_REFUSED, str(status.get("error") or "it is not authenticated"))


async def _kept(api: KubernetesApi, name: str) -> Mapping[str, Kept]:
    # As one answer: `list` leaves out who writes.
    listed = await api.get(f"/api/v1/configmaps?fieldSelector=metadata.name%3D{name}")
    return {
        str(each["metadata"]["namespace"]): Kept(data=each.get("data") or {}, writers=tuple(sorted(writers_of(each))))
        for each in listed.get("items") or ()
    }
