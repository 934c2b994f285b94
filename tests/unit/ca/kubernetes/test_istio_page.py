"""The values in deploy/istio fit together, and are settings of a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ca.kubernetes.settings import ClusterSettings

FOLDER = Path(__file__).parents[4] / "deploy" / "istio"


def values(name: str) -> Any:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def test_what_the_charts_are_given_fits_together() -> None:
    citadel, istiod, ztunnel = (values(f"{name}.values") for name in ("citadel", "istiod", "ztunnel"))
    cluster = ClusterSettings.model_validate(citadel["cluster"])
    assert cluster.istio is not None
    assert cluster.istio.cluster_id == "Kubernetes"  # Istio's own default
    assert cluster.istio.audience == "istio-ca"
    assert cluster.bundles is not None
    assert ("istio-ca-root-cert", "root-cert.pem") in [(each.name, each.key) for each in cluster.bundles.config_maps]
    assert citadel["trustDomain"] == istiod["meshConfig"]["trustDomain"]
    assert istiod["global"]["caAddress"] == ztunnel["caAddress"]
    assert istiod["pilot"]["env"]["ENABLE_CA_SERVER"] == "false"


def test_istiod_reads_what_its_sidecar_writes() -> None:
    spec = values("istiod.patch")["spec"]["template"]["spec"]
    istiod, sidecar = spec["containers"]
    (mounted,) = istiod["volumeMounts"]
    assert mounted["mountPath"] == sidecar["volumeMounts"][0]["mountPath"]
    files = [argument.partition("=")[2] for argument in values("istiod.values")["pilot"]["extraContainerArgs"]]
    assert files == [f"{mounted['mountPath']}/{name}.pem" for name in ("svid", "key", "bundle")]
    assert {each["name"] for each in spec["volumes"]} == {each["name"] for each in sidecar["volumeMounts"]}
