"""Which namespaces a section means where it says nothing, or only half of it: the cluster's own is never let in so."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ca.kubernetes.settings import ClusterSettings
from citadel.kubernetes.settings import NamespaceSettings


def namespaces(section: str, **given: list[str]) -> NamespaceSettings:
    needed = {"signer_name": "example.org/workload"} if section == "signers" else {}
    cluster = ClusterSettings.model_validate({"name": "main", section: {**needed, "namespaces": given}})
    found: NamespaceSettings = getattr(cluster, section).namespaces
    return found


@pytest.mark.parametrize("section", ["workloads", "signers", "gateways"])
@pytest.mark.parametrize("include", [["*"], ["kube-*", "shop"], ["kube-system", "shop"]])
def test_whoever_sets_include_alone_keeps_the_default_exclude(section: str, include: list[str]) -> None:
    meant = namespaces(section, include=include)
    assert meant.admits("shop")
    assert not meant.admits("kube-system")
    assert "kube-system" not in (meant.listed or ())


@pytest.mark.parametrize("section", ["workloads", "signers", "gateways"])
@pytest.mark.parametrize("exclude", [[], ["legacy"]])
def test_an_exclude_that_is_set_is_all_of_it(section: str, exclude: list[str]) -> None:
    meant = namespaces(section, exclude=exclude)
    assert meant.admits("kube-system")
    assert meant.admits("legacy") is (not exclude)


def test_pods_of_the_cluster_itself_get_no_identity_unless_that_is_said() -> None:
    meant = namespaces("workloads", include=["*"])
    assert not any(map(meant.admits, ("kube-system", "kube-public", "kube-node-lease")))


def test_a_default_is_no_way_round_what_a_namespace_looks_like() -> None:
    with pytest.raises(ValidationError, match="is not a namespace"):
        namespaces("gateways", exclude=["Kube_System"])
