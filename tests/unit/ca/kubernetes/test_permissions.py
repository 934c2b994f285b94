"""What a server needs of a cluster's API server, by its settings."""

from __future__ import annotations

from typing import Any

import pytest

from ca.kubernetes.permissions import AGENT, Grant, grants, server_permissions
from ca.kubernetes.settings import ClusterSettings

SIGNER = "citadel.example.org/workload"
CERTIFICATES = "certificates.k8s.io"
PODS = {"list pods", "watch pods"}
ASKED_PODS = {*PODS, "get pods"}  # for what a watch has not told of


def needed(**sections: Any) -> set[str]:
    return {str(each) for each in grants(server_permissions(ClusterSettings(name="main", **sections)))}


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({}, set()),
        (
            {"joining": {}},
            {"create tokenreviews.authentication.k8s.io", "get pods", "list pods", "watch pods", "get nodes"},
        ),
        ({"workloads": {}}, PODS),
        (
            {"workloads": {"service_dns_names": True}},
            {*PODS, "list services", "watch services"},
        ),
        ({"istio": {}}, {"create tokenreviews.authentication.k8s.io", *ASKED_PODS}),
        ({"istio": {"oidc": {"issuer": "https://issuer.example.org"}}}, set()),
        (
            {"istio": {"oidc": {"issuer": "https://issuer.example.org"}, "trusted_node_accounts": ["mesh/ztunnel"]}},
            ASKED_PODS,
        ),
        (
            {"bundles": {"config_maps": [{"name": "roots", "key": "roots.pem"}]}},
            {"list namespaces", "watch namespaces", "create configmaps"}
            | {f"{verb} configmaps roots" for verb in ("list", "watch", "patch")},
        ),
        (
            {
                "bundles": {
                    "config_maps": [],
                    "cluster_trust_bundle": {"name": "citadel.example.org:workload:b", "signer_name": SIGNER},
                }
            },
            {
                f"{verb} clustertrustbundles.{CERTIFICATES} citadel.example.org:workload:b"
                for verb in ("list", "watch", "patch")
            }
            | {f"create clustertrustbundles.{CERTIFICATES}", f"attest signers.{CERTIFICATES} {SIGNER}"},
        ),
        (
            {"signers": {"signer_name": SIGNER, "pod_certificates": False}},
            {f"{verb} certificatesigningrequests.{CERTIFICATES}" for verb in ("list", "watch")}
            | {f"update certificatesigningrequests/{part}.{CERTIFICATES}" for part in ("approval", "status")}
            | {f"{verb} signers.{CERTIFICATES} {SIGNER}" for verb in ("approve", "sign")}
            | ASKED_PODS,
        ),
        (
            {
                "signers": {
                    "signer_name": SIGNER,
                    "certificate_requests": "approved-by-others",
                    "pod_certificates": False,
                }
            },
            {f"{verb} certificatesigningrequests.{CERTIFICATES}" for verb in ("list", "watch")}
            | {f"update certificatesigningrequests/status.{CERTIFICATES}", f"sign signers.{CERTIFICATES} {SIGNER}"}
            | ASKED_PODS,
        ),
        (
            {"signers": {"signer_name": SIGNER, "certificate_requests": "off"}},
            {f"{verb} podcertificaterequests.{CERTIFICATES}" for verb in ("list", "watch")}
            | {f"update podcertificaterequests/status.{CERTIFICATES}", f"sign signers.{CERTIFICATES} {SIGNER}"}
            | ASKED_PODS,
        ),
        (
            {"gateways": {}},
            {"create subjectaccessreviews.authorization.k8s.io", "create events", "patch events"}
            | {f"{verb} secrets" for verb in ("list", "watch")}
            | PODS,
        ),
    ],
)
def test_a_section_needs_so_much_and_nothing_else(section: dict[str, Any], expected: set[str]) -> None:
    assert needed(**section) == expected


def test_where_namespaces_are_named_secrets_are_read_in_these_alone() -> None:
    named = needed(gateways={"namespaces": {"include": ["shop", "istio-system", "kube-system"], "exclude": ["kube-*"]}})
    assert {each for each in named if "secrets" in each} == {
        f"{verb} secrets in {namespace}" for verb in ("list", "watch") for namespace in ("shop", "istio-system")
    }
    alone = needed(gateways={"namespaces": {"include": ["kube-system", "shop"]}})
    assert {each for each in alone if "secrets" in each} == {"list secrets in shop", "watch secrets in shop"}
    assert needed(gateways={"namespaces": {"include": ["shop", "team-*"]}}) >= {"list secrets"}


def test_the_agent_only_follows_pods() -> None:
    assert set(grants(AGENT)) == {Grant("list", "", "pods"), Grant("watch", "", "pods")}


def test_what_two_settings_need_is_asked_for_once_and_names_both() -> None:
    found = grants(server_permissions(ClusterSettings.model_validate({"name": "main", "joining": {}, "workloads": {}})))
    assert [each.setting for each in found[Grant("watch", "", "pods")]] == ["joining", "workloads"]
