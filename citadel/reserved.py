"""Names that Citadel keeps for itself and never grants to a workload (invariant 13)."""

from __future__ import annotations

import re
from typing import Final

from citadel.spiffe import SpiffeId, TrustDomain

RESERVED_SEGMENT: Final = "citadel"
X509POP_SEGMENT: Final = "x509pop"
K8S_PSAT_SEGMENT: Final = "k8s_psat"
K8S_SEGMENT: Final = "k8s"
_CLUSTER: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NODE: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")

# gRPC's clients in Python check a DNS name, not a SPIFFE ID, so the server's certificate carries this one.
RESERVED_DNS_SUFFIX: Final = "citadel.internal"
SERVER_DNS_NAME: Final = f"server.{RESERVED_DNS_SUFFIX}"


def server_id(trust_domain: TrustDomain) -> SpiffeId:
    """The identity of the Citadel server, and the parent of node aliases."""
    return trust_domain.member(RESERVED_SEGMENT, "server")


def agent_id(trust_domain: TrustDomain, name: str) -> SpiffeId:
    """The identity of the agent called `name`."""
    return trust_domain.member(RESERVED_SEGMENT, "agent", name)


def x509pop_agent_id(trust_domain: TrustDomain, fingerprint: str) -> SpiffeId:
    """The identity of the agent that joined with a certificate; `fingerprint` is the certificate's SHA-256 in hex."""
    return trust_domain.member(RESERVED_SEGMENT, "agent", X509POP_SEGMENT, fingerprint)


def k8s_agent_id(trust_domain: TrustDomain, cluster: str, node: str) -> SpiffeId:
    """The identity of the agent on a node of a cluster of Kubernetes; both by name."""
    return trust_domain.member(RESERVED_SEGMENT, "agent", K8S_PSAT_SEGMENT, cluster, node)


def k8s_door_id(trust_domain: TrustDomain, cluster: str, *door: str) -> SpiffeId:
    """How the ledger names who proved an identity without an agent: a door of a cluster of Kubernetes.

    `door` is `istio`, say, or `ztunnel` and a node. Nobody has this ID.
    """
    return trust_domain.member(RESERVED_SEGMENT, K8S_SEGMENT, cluster, *door)


def is_k8s_door_id(spiffe_id: SpiffeId) -> bool:
    """Whether this is one of `k8s_door_id`."""
    return spiffe_id.path.split("/")[1:3] == [RESERVED_SEGMENT, K8S_SEGMENT]


def is_reserved_id(spiffe_id: SpiffeId) -> bool:
    """Whether the ID lies at or under `/citadel` of any trust domain."""
    return spiffe_id.path.split("/")[1:2] == [RESERVED_SEGMENT]


def is_agent_id(spiffe_id: SpiffeId) -> bool:
    """Whether the ID is that of an agent.

    `/citadel/agent/<name>`, `/citadel/agent/x509pop/<fingerprint>`, or `/citadel/agent/k8s_psat/<cluster>/<node>`.
    """
    match spiffe_id.path.split("/")[1:]:
        case [first, "agent", _] if first == RESERVED_SEGMENT:
            return True
        case [first, "agent", second, fingerprint] if (first, second) == (RESERVED_SEGMENT, X509POP_SEGMENT):
            return _FINGERPRINT.fullmatch(fingerprint) is not None
        case [first, "agent", second, cluster, node] if (first, second) == (RESERVED_SEGMENT, K8S_PSAT_SEGMENT):
            return _CLUSTER.fullmatch(cluster) is not None and _NODE.fullmatch(node) is not None
        case _:
            return False


def is_reserved_dns_name(name: str) -> bool:
    """Whether the DNS name is the reserved suffix or under it; capitals and a trailing dot change nothing."""
    plain = name.lower().rstrip(".")
    return plain == RESERVED_DNS_SUFFIX or plain.endswith("." + RESERVED_DNS_SUFFIX)
