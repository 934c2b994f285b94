"""Pods as the API server writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tests.kube_cgroups import CONTAINER, POD

IMAGE: Final = "example.org/web:1"
IMAGE_ID: Final = f"example.org/web@sha256:{'ab' * 32}"


def pod(
    name: str = "web-0",
    *,
    uid: str = POD,
    node: str = "node-a",
    account: str = "web",
    containers: Mapping[str, str] | None = None,
    **metadata: Any,
) -> dict[str, Any]:
    """A pod of the namespace `shop`; `containers` are the IDs of those that run, by their names."""
    ids = {"main": CONTAINER} if containers is None else containers
    return {
        "metadata": {"namespace": "shop", "name": name, "uid": uid, **metadata},
        "spec": {
            "nodeName": node,
            "serviceAccountName": account,
            "containers": [{"name": "main", "image": IMAGE}],
            "initContainers": [{"name": "setup", "image": "example.org/setup:1"}],
            "ephemeralContainers": [{"name": "debug", "image": "example.org/debug:1"}],
        },
        "status": status(ids),
    }


def status(ids: Mapping[str, str]) -> dict[str, Any]:
    """As kubelet tells it once containers run."""

    def of(*names: str) -> list[dict[str, Any]]:
        return [
            {"name": name, "containerID": f"containerd://{ids[name]}" if ids.get(name) else "", "imageID": IMAGE_ID}
            for name in names
            if name in ids
        ]

    return {
        "containerStatuses": of("main"),
        "initContainerStatuses": of("setup"),
        "ephemeralContainerStatuses": of("debug"),
    }


def at(name: str = "web-0") -> str:
    return f"/api/v1/namespaces/shop/pods/{name}"
