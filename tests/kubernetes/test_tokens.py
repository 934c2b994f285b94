"""Tokens of service accounts, reviewed by the real API server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest

from ca.kubernetes.accounts import Named
from ca.kubernetes.tokens import TokenReviewer
from citadel.clock import SystemClock
from citadel.errors import Reason, Unauthenticated
from citadel.kubernetes.client import kubernetes_client
from citadel.kubernetes.settings import ApiServerSettings
from tests.kube_api import ISSUER, KubernetesServer


def signed_by(kubernetes: KubernetesServer, pod: dict[str, Any], account: dict[str, Any], **claims: Any) -> str:
    """A token that this API server could have made, by its own key: such as it makes none, but once made."""
    meta, now = pod["metadata"], datetime.now(UTC)
    said = {
        "iss": ISSUER,
        "aud": ["citadel"],
        "sub": f"system:serviceaccount:{meta['namespace']}:{account['metadata']['name']}",
        "iat": now - timedelta(hours=2),
        "nbf": now - timedelta(hours=2),
        "exp": now + timedelta(hours=1),
        "kubernetes.io": {
            "namespace": meta["namespace"],
            "serviceaccount": {"name": account["metadata"]["name"], "uid": account["metadata"]["uid"]},
            "pod": {"name": meta["name"], "uid": meta["uid"]},
        },
    }
    return jwt.encode(said | claims, (kubernetes.folder / "sa.key").read_bytes(), algorithm="RS256")


async def test_what_the_api_server_says_of_each_token(kubernetes: KubernetesServer, tmp_path: Path) -> None:
    kubernetes.namespace("reviews")
    kubernetes.account("reviews", "agent")
    node = kubernetes.node("reviews-1")
    pod = kubernetes.pod("reviews", "agent-x", account="agent", node="reviews-1")
    account = kubernetes.get("/api/v1/namespaces/reviews/serviceaccounts/agent")
    gone = kubernetes.pod("reviews", "gone", account="agent", node="reviews-1")
    of_gone = kubernetes.token("reviews", "agent", audience="citadel", pod=gone)
    kubernetes.delete("/api/v1/namespaces/reviews/pods/gone")
    good = kubernetes.token("reviews", "agent", audience="citadel", pod=pod)
    client = await kubernetes_client(ApiServerSettings(kubeconfig=kubernetes.kubeconfig(tmp_path / "kubeconfig")))
    reviewer = TokenReviewer(client, cluster="c1", audience="citadel", clock=SystemClock())
    try:
        found = await reviewer.account(good)
        assert (found.key, found.uid) == ("reviews/agent", account["metadata"]["uid"])
        assert found.pod == Named("agent-x", pod["metadata"]["uid"])
        assert found.node == Named("reviews-1", node["metadata"]["uid"])
        assert found.ends_at > datetime.now(UTC) + timedelta(minutes=50)
        unbound = await reviewer.account(kubernetes.token("reviews", "agent", audience="citadel"))
        assert (unbound.pod, unbound.node) == (None, None)
        # One that was signed so is good, so what is refused below is so for what is changed in it alone.
        assert (await reviewer.account(signed_by(kubernetes, pod, account))).pod == found.pod
        an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
        for bad, reason in {
            kubernetes.token("reviews", "agent", audience="other", pod=pod): Reason.K8S_TOKEN_AUDIENCE,
            signed_by(kubernetes, pod, account, exp=an_hour_ago): Reason.K8S_TOKEN_EXPIRED,
            signed_by(kubernetes, pod, account, iss="https://other.cluster"): Reason.K8S_TOKEN_REFUSED,
            good[:-8] + "AAAAAAAA": Reason.K8S_TOKEN_REFUSED,
            "garbage": Reason.K8S_TOKEN_REFUSED,
            of_gone: Reason.K8S_TOKEN_REFUSED,
            "administrator-of-the-test": Reason.K8S_TOKEN_REFUSED,
        }.items():
            with pytest.raises(Unauthenticated) as refused:
                await reviewer.account(bad)
            assert (refused.value.reason, bad[:40]) == (reason, bad[:40])
            assert bad not in str(refused.value)
    finally:
        await client.close()
