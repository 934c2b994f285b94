"""Asks what is installed to run as a service account: its Deployments and DaemonSets, their secrets, its pods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from ca.kubernetes.check.facts import Maker, Pod, ServerAccount, seen
from citadel.errors import NotFound
from citadel.kubernetes.ports import KubeObject, KubernetesApi

_MAKERS: Final = ("deployments", "daemonsets")
_ENDED: Final = frozenset({"Succeeded", "Failed"})  # such as one that was evicted, which stays to be looked at
_ON_ITS_WAY: Final = frozenset({"ContainerCreating", "PodInitializing"})


async def server_account(api: KubernetesApi, account: str) -> ServerAccount:
    """The server's, and what runs as it."""
    namespace, _, name = account.partition("/")
    exists = await seen(exists_at(api, f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}"))
    if exists is False:
        return ServerAccount(exists=False)
    makers, pods = await seen(makers_of(api, [account])), await seen(pods_of(api, [account]))
    return ServerAccount(exists=exists, makers=makers, pods=pods)


async def exists_at(api: KubernetesApi, path: str) -> bool:
    """Whether there is such an object."""
    try:
        await api.get(path)
    except NotFound:
        return False
    return True


async def makers_of(api: KubernetesApi, accounts: Iterable[str]) -> tuple[Maker, ...]:
    """What makes pods with one of these accounts."""
    found: list[Maker] = []
    for account in accounts:
        namespace, _, name = account.partition("/")
        for resource in _MAKERS:
            listed = (await api.list(f"/apis/apps/v1/namespaces/{namespace}/{resource}")).items
            its = [each for each in listed if each["spec"]["template"]["spec"].get("serviceAccountName") == name]
            found += [await _maker(api, resource, each) for each in its]
    return tuple(found)


async def pods_of(api: KubernetesApi, accounts: Iterable[str]) -> tuple[Pod, ...]:
    """Those that have one of these accounts, and have not ended."""
    found: list[Pod] = []
    for namespace, _, name in (each.partition("/") for each in accounts):
        listed = await api.list(f"/api/v1/namespaces/{namespace}/pods", fields=f"spec.serviceAccountName={name}")
        found += [_pod(each) for each in listed.items if (each.get("status") or {}).get("phase") not in _ENDED]
    return tuple(found)


async def _maker(api: KubernetesApi, resource: str, its: KubeObject) -> Maker:
    meta, spec, status = its["metadata"], its["spec"], its.get("status") or {}
    failed = [each for each in status.get("conditions") or () if each.get("type") == "ReplicaFailure"]
    wanted = spec.get("replicas", 1) if resource == "deployments" else status.get("desiredNumberScheduled", 0)
    return Maker(
        kind=resource.removesuffix("s"),
        namespace=str(meta["namespace"]),
        name=str(meta["name"]),
        wanted=int(wanted),
        refused=next((str(each.get("message", "")) for each in failed if each.get("status") == "True"), ""),
        lacking=await seen(_lacking(api, str(meta["namespace"]), spec["template"]["spec"])),
    )


async def _lacking(api: KubernetesApi, namespace: str, pod: KubeObject) -> tuple[str, ...]:
    """What of secrets such a pod needs, and is not there. Of a secret only the names of its keys are kept."""
    needed: dict[str, set[str]] = {}
    for name, keys in _needed(pod):
        needed.setdefault(name, set()).update(keys)
    found: list[str] = []
    for name, wanted in needed.items():
        try:
            there = frozenset((await api.get(f"/api/v1/namespaces/{namespace}/secrets/{name}")).get("data") or ())
        except NotFound:
            found.append(f"the secret {name}")
            continue
        found += [f"the key {key} of the secret {name}" for key in sorted(wanted - there)]
    return tuple(found)


def _needed(pod: KubeObject) -> Iterator[tuple[str, frozenset[str]]]:
    """Names of secrets, each with the keys of it that are named."""
    for container in (*(pod.get("initContainers") or ()), *(pod.get("containers") or ())):
        for each in container.get("env") or ():
            if its := _mandatory((each.get("valueFrom") or {}).get("secretKeyRef")):
                yield str(its.get("name")), frozenset({str(its.get("key"))})
        for each in container.get("envFrom") or ():
            if its := _mandatory(each.get("secretRef")):
                yield str(its.get("name")), frozenset()
    for volume in pod.get("volumes") or ():
        sources = (volume.get("projected") or {}).get("sources") or ()
        for its in map(_mandatory, (volume.get("secret"), *(each.get("secret") for each in sources))):
            if its:
                keys = frozenset(str(each["key"]) for each in its.get("items") or ())
                yield str(its.get("secretName") or its.get("name")), keys


def _mandatory(its: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return its if its and not its.get("optional") else None


def _pod(pod: KubeObject) -> Pod:
    meta, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    sources = [
        source.get("serviceAccountToken") or {}
        for volume in spec.get("volumes") or ()
        for source in (volume.get("projected") or {}).get("sources") or ()
    ]
    return Pod(
        name=f"{meta['namespace']}/{meta['name']}",
        node=str(spec.get("nodeName") or ""),
        is_ready=any(
            each.get("type") == "Ready" and each.get("status") == "True" for each in status.get("conditions") or ()
        ),
        waits_for=_waits_for(status),
        audiences=frozenset(str(each["audience"]) for each in sources if each.get("audience")),
        sees_processes=bool(spec.get("hostPID")),
    )


def _waits_for(status: Mapping[str, Any]) -> str:
    """Why it does not run, in the words of the kubelet or the scheduler; empty where nothing keeps it."""
    containers = (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
    told = [(each.get("state") or {}).get("waiting") or {} for each in containers]
    told += [
        each
        for each in status.get("conditions") or ()
        if each.get("type") == "PodScheduled" and each.get("status") == "False"
    ]
    for each in told:
        if (reason := str(each.get("reason") or "")) and reason not in _ON_ITS_WAY:
            return f"{reason}: {each['message']}" if each.get("message") else reason
    return ""
