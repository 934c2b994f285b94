"""A cluster in memory: what its API server says of tokens, pods and nodes."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from ca.kubernetes.pods import Pods
from ca.kubernetes.tokens import REVIEWS
from citadel.kubernetes.ports import KubeObject
from tests.clock import FakeClock
from tests.kube_fake import FakeKubernetes

HOUR = timedelta(hours=1)
EXTRA = "authentication.kubernetes.io/"


def token(ends_at: datetime, *, audience: str = "citadel", **claims: Any) -> str:
    """As an API server writes one, but for the signature, which only it can check."""
    payload = json.dumps({"aud": [audience], "exp": int(ends_at.timestamp()), **claims}).encode()
    return f"e30.{base64.urlsafe_b64encode(payload).rstrip(b'=').decode()}.c2ln"


def good(**changes: Any) -> dict[str, Any]:
    """The status of a review, as API servers from 1.30 answer it."""
    user = {
        "username": "system:serviceaccount:mesh:agent",
        "uid": "sa-1",
        "groups": ["system:serviceaccounts", "system:serviceaccounts:mesh", "system:authenticated"],
        "extra": {
            f"{EXTRA}pod-name": ["agent-x"],
            f"{EXTRA}pod-uid": ["pod-1"],
            f"{EXTRA}node-name": ["n1"],
            f"{EXTRA}node-uid": ["node-1"],
        },
    }
    changed = {**user, **changes.pop("user", {})}
    return {"authenticated": True, "audiences": ["citadel"], "user": changed, **changes}


def refusing(error: str) -> dict[str, Any]:
    return {"user": {}, "error": error}


class Reviews:
    """Answers every review with `status`, and keeps what was asked."""

    def __init__(self) -> None:
        self.status: Mapping[str, Any] = good()
        self.asked: list[KubeObject] = []

    def __call__(self, body: KubeObject) -> KubeObject:
        self.asked.append(body)
        return {**body, "status": self.status}


class FakeCluster:
    """Has a node `n1` with the pod `agent-x` of an agent."""

    def __init__(self, reviews: Reviews, clock: FakeClock) -> None:
        self.api = FakeKubernetes(answers={REVIEWS: reviews})
        self.pods = Pods(self.api, clock=clock)
        self.node("n1", uid="node-1")
        self.pod("agent-x", uid="pod-1")

    def node(self, name: str, *, uid: str) -> None:
        self.api.put(f"/api/v1/nodes/{name}", {"metadata": {"name": name, "uid": uid}})

    def pod(
        self,
        name: str,
        *,
        uid: str,
        node: str = "n1",
        account: str = "agent",
        phase: str = "Running",
        created: str = "2026-01-01T00:00:00Z",
    ) -> None:
        meta = {"namespace": "mesh", "name": name, "uid": uid, "creationTimestamp": created}
        spec = {"nodeName": node, "serviceAccountName": account}
        body = {"metadata": meta, "spec": spec, "status": {"phase": phase}}
        self.api.put(f"/api/v1/namespaces/mesh/pods/{name}", body)

    def drop(self, name: str) -> None:
        self.api.drop(f"/api/v1/namespaces/mesh/pods/{name}")

    async def follow(self) -> None:
        """Let what was written arrive."""
        for _ in range(50):
            await asyncio.sleep(0)
