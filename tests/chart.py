"""The chart as the real helm renders it, and values that cover what it can do."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[1]
CHART: Final = ROOT / "deploy" / "helm" / "citadel"
EKS: Final = ROOT / "deploy" / "eks"
MANIFESTS: Final = ROOT / "deploy" / "kubernetes"
_GET: Final = Path(__file__).parent / "kube_tools" / "get.sh"

_MANAGED: Final = "app.kubernetes.io/managed-by: Helm"

Values = Mapping[str, Any]
Document = dict[str, Any]

LEAST: Final[Values] = {"trustDomain": "example.org", "image": {"repository": "registry.example.org/citadel"}}
_SIGNER: Final = "citadel.example.org/workload"
# Values beside the least, by what they are about.
CASES: Final[Mapping[str, Values]] = {
    "defaults": {},
    "minimal": {
        "agent": {"enabled": False},
        "cluster": {"joining": None, "workloads": None, "bundles": None},
        "networkPolicy": {"enabled": False},
        "server": {"podDisruptionBudget": False},
    },
    "sqlite": {"server": {"store": {"kind": "sqlite", "sqlite": {"storageClassName": "gp3"}}}},
    "standby": {"server": {"replicas": 2}},
    "maintenance": {"server": {"replicas": 2, "maintenance": True}},
    "csi": {"csi": {"enabled": True}},
    "istio": {
        "cluster": {
            "istio": {"trusted_node_accounts": ["istio-system/ztunnel"]},
            "bundles": {
                "config_maps": [
                    {"name": "citadel-bundle", "key": "bundle.pem"},
                    {"name": "istio-ca-root-cert", "key": "root-cert.pem"},
                ],
                "cluster_trust_bundle": {"name": "citadel.example.org:workload:bundle", "signer_name": _SIGNER},
            },
        }
    },
    "istio by oidc": {
        "cluster": {
            "joining": None,
            "workloads": None,
            "bundles": None,
            "istio": {"oidc": {"issuer": "https://issuer.example.org"}, "cluster_id": "Kubernetes"},
        },
        "agent": {"enabled": False},
    },
    "ztunnel by oidc": {
        "cluster": {
            "workloads": None,
            "istio": {
                "oidc": {"issuer": "https://issuer.example.org"},
                "trusted_node_accounts": ["istio-system/ztunnel"],
            },
        }
    },
    "signers": {"cluster": {"signers": {"signer_name": _SIGNER}, "workloads": {"service_dns_names": True}}},
    "signers of others' approval": {
        "cluster": {
            "workloads": None,
            "joining": None,
            "bundles": None,
            "signers": {
                "signer_name": _SIGNER,
                "certificate_requests": "approved-by-others",
                "pod_certificates": False,
            },
        },
        "agent": {"enabled": False},
    },
    "pod certificates": {"cluster": {"signers": {"signer_name": _SIGNER, "certificate_requests": "off"}}},
    "gateways": {"cluster": {"gateways": {}}},
    "gateways of two namespaces": {
        "cluster": {"gateways": {"namespaces": {"include": ["gateways", "kube-system", "istio-ingress"]}}}
    },
    "gateways of the cluster's own namespace": {
        "cluster": {"gateways": {"namespaces": {"include": ["kube-system", "kube-public"], "exclude": ["kube-public"]}}}
    },
    "metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
    "vault": {
        "server": {
            "kek": {"secretName": None},
            "secrets": [{"name": "vault", "secretName": "citadel-vault"}],
            "settings": {
                "keys": {"vault_seal": {"mount": "transit", "key": "citadel-seal"}},
                "vault": {
                    "address": "https://vault.example.org:8200",
                    "ca_file": "/etc/citadel/secrets/vault/ca.pem",
                    "login": {"token": {"token_file": "/etc/citadel/secrets/vault/token"}},
                },
            },
        }
    },
    "second cluster": {
        "server": {"enabled": False},
        "remoteServer": True,
        "cluster": {"name": "west"},
        "agent": {
            "servers": {"bootstrap": ["citadel.example.org:8443"], "agents": ["citadel.example.org:8444"]},
        },
    },
    "eks on a volume": yaml.safe_load((EKS / "sqlite.values.yaml").read_text()),
    "eks": {
        **yaml.safe_load((EKS / "values.yaml").read_text()),
        "networkPolicy": yaml.safe_load((EKS / "load-balancer.yaml").read_text())["networkPolicy"],
        "server": {
            **yaml.safe_load((EKS / "values.yaml").read_text())["server"],
            **yaml.safe_load((EKS / "load-balancer.yaml").read_text())["server"],
        },
    },
    "everything": {
        "imagePullSecrets": [{"name": "registry"}],
        "listenHost": "[::]",
        "namespaces": {"server": True},
        "server": {
            "replicas": 3,
            "dnsNames": ["citadel.example.org"],
            "advertise": {"bootstrap": "citadel.example.org:8443", "agents": "citadel.example.org:8444"},
            "extraPorts": [{"name": "federation", "port": 8446}],
            "settings": {"federation": {"listen": "0.0.0.0:8446"}, "svids": {"default_lifetime": "30m"}},
            "external": {"annotations": {"a/b": "c"}, "loadBalancerSourceRanges": ["10.0.0.0/8"]},
            "annotations": {"a/b": "c"},
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "podLabels": {"team": "mesh"},
            "serviceAccountAnnotations": {"a/b": "c"},
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
            "extraVolumes": [
                {"name": "parent", "csi": {"driver": "parent.csi.example.org", "readOnly": True}},
                {
                    "name": "vault-token",
                    "projected": {"sources": [{"serviceAccountToken": {"audience": "vault", "path": "token"}}]},
                },
            ],
            "extraVolumeMounts": [
                {"name": "parent", "mountPath": "/run/citadel-parent", "readOnly": True},
                {"name": "vault-token", "mountPath": "/var/run/secrets/vault", "readOnly": True},
            ],
        },
        "cluster": {
            "istio": {},
            "signers": {"signer_name": _SIGNER},
            "gateways": {},
            "workloads": {"service_dns_names": True},
        },
        "remoteClusters": [
            {"name": "west", "kubeconfigSecret": "citadel-west", "joining": {}, "workloads": {}, "bundles": {}},
            {
                "name": "east",
                "kubeconfigSecret": "citadel-east",
                "joining": {"service_accounts": ["mesh/agent"]},
                "istio": {},
            },
        ],
        "agent": {
            "namespace": "node-agents",
            "authzPolicies": "policies:\n  - name: reviews\n    selectors: [k8s:sa:reviews]\n    default: DENY\n",
            "settings": {"kubernetes": {"wait": "10s"}, "renewal": {"at": 0.4}},
            "nodeSelector": {"kubernetes.io/arch": "amd64"},
            "podLabels": {"team": "mesh"},
            "serviceAccountAnnotations": {"a/b": "c"},
            "seLinuxOptions": {"type": "spc_t"},
            "maxUnavailable": "10%",
        },
        "csi": {"enabled": True},
        "networkPolicy": {"clients": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "metrics": []},
        "serviceMonitor": {"enabled": True},
    },
}


class HelmRefusal(Exception):
    """What helm says of values that it does not take."""


def kube_tools() -> Path:
    """The folder with helm and kubectl; `make test-kubernetes` brings them."""
    found = subprocess.run([_GET, "--find"], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        raise RuntimeError("no helm in the cache: `make test-kubernetes` brings it")
    return Path(found.stdout.strip())


def namespace_of(case: str) -> str:
    """A namespace that no other case has."""
    return f"chart-{hashlib.sha256(case.encode()).hexdigest()[:8]}"


def template(values: Values, *, release: str = "citadel", namespace: str = "citadel") -> str:
    """What helm renders. Raises `HelmRefusal`."""
    return _helm("template", values, release, str(CHART), "--namespace", namespace)


def render(values: Values, *, release: str = "citadel", namespace: str = "citadel") -> list[Document]:
    """The objects that the chart makes of the least values and these. Raises `HelmRefusal`."""
    return list(_rendered(json.dumps(merged(LEAST, values)), release, namespace))


@cache
def _rendered(values: str, release: str, namespace: str) -> tuple[Document, ...]:
    text = template(json.loads(values), release=release, namespace=namespace)
    return tuple(document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document)


def notes(values: Values) -> str:
    """What an install with the least values and these says at its end. Raises `HelmRefusal`."""
    command = ("citadel", str(CHART), "--dry-run=client", "--namespace", "citadel")
    return _helm("install", merged(LEAST, values), *command).partition("\nNOTES:\n")[2]


def lint(values: Values) -> None:
    """Raises `HelmRefusal` for what helm thinks is wrong with the chart."""
    _helm("lint", values, "--strict", str(CHART))


def merged(base: Values, more: Values) -> dict[str, Any]:
    """As helm merges values."""
    both = dict(base)
    for name, value in more.items():
        old = both.get(name)
        both[name] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return both


def one(documents: Iterable[Document], kind: str, name: str) -> Document:
    """The object of this kind and name."""
    (found,) = (each for each in documents if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def _helm(command: str, values: Values, *arguments: str) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(dict(values), file)
        file.flush()
        ran = subprocess.run(
            [kube_tools() / "helm", command, *arguments, "--values", file.name],
            capture_output=True,
            text=True,
            check=False,
        )
    if ran.returncode != 0:
        raise HelmRefusal(ran.stdout + ran.stderr)
    return ran.stdout


def manifest(name: str) -> str:
    """The plain manifests `name` of deploy/kubernetes, rendered from the values beside them."""
    text = template(yaml.safe_load((MANIFESTS / f"{name}.values.yaml").read_text()))
    text = "".join(line for line in text.splitlines(keepends=True) if line.strip() != _MANAGED)
    said = "without the label that says that Helm manages it"
    return f"# helm template citadel ../helm/citadel --namespace citadel --values {name}.values.yaml, {said}\n{text}"


if __name__ == "__main__":
    for path in MANIFESTS.glob("*.values.yaml"):
        kind = path.name.removesuffix(".values.yaml")
        (MANIFESTS / f"{kind}.yaml").write_text(manifest(kind))
