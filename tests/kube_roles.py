"""Permissions as roles in a real API server, bound to a service account."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from ca.kubernetes.permissions import Permission, server_permissions
from ca.kubernetes.settings import ClusterSettings
from tests.kube_api import ISSUER, KubernetesServer

RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
_GROUP: Final = "rbac.authorization.k8s.io"


def rule(permission: Permission) -> dict[str, Any]:
    """As a role has it."""
    named = {"resourceNames": list(permission.names)} if permission.names else {}
    return {
        "apiGroups": [permission.group],
        "resources": [permission.resource],
        "verbs": list(permission.verbs),
        **named,
    }


def grant(server: KubernetesServer, account: str, permissions: Iterable[Permission], name: str) -> None:
    """Let `account` (namespace/name) do this, by a ClusterRole `name`, and roles of that name in single namespaces."""
    permissions = tuple(permissions)
    wide = [rule(each) for each in permissions if each.namespaces is None]
    server.create(f"{RBAC}/clusterroles", {"metadata": {"name": name}, "rules": wide})
    server.create(f"{RBAC}/clusterrolebindings", _binding(account, "ClusterRole", name))
    for namespace in dict.fromkeys(each for permission in permissions for each in permission.namespaces or ()):
        rules = [rule(each) for each in permissions if namespace in (each.namespaces or ())]
        server.create(f"{RBAC}/namespaces/{namespace}/roles", {"metadata": {"name": name}, "rules": rules})
        server.create(f"{RBAC}/namespaces/{namespace}/rolebindings", _binding(account, "Role", name))


def restricted(server: KubernetesServer, cluster: Mapping[str, Any], path: Path) -> Path:
    """A kubeconfig at `path` for a new account that may do what a server with these settings of a cluster needs."""
    name = f"citadel-{uuid4().hex[:12]}"
    server.namespace(name)
    server.account(name, "citadel")
    grant(server, f"{name}/citadel", server_permissions(ClusterSettings.model_validate(cluster)), name)
    return server.kubeconfig(path, server.token(name, "citadel", audience=ISSUER))


def _binding(account: str, kind: str, name: str) -> Mapping[str, Any]:
    namespace, _, of = account.partition("/")
    return {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": _GROUP, "kind": kind, "name": name},
        "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": of}],
    }
