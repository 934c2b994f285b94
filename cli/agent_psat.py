"""Joining by Kubernetes (k8s_psat), as the agent does it: with files that kubelet mounts and renews in place."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from citadel.bundle import TrustBundle
from citadel.config.files import read_public_file
from citadel.errors import CitadelError, Reason, ResourceExhausted, Unavailable
from sds.link.bootstrap import Invitation, parse_bundle_file
from sds.link.credentials import ProjectedToken
from sds.link.returning import Anew
from sds.settings import AgentSettings, K8sPsatSettings

# What kubelet, the API server or an administrator of the cluster mends while the agent waits: it would only be started
# again, later and later.
_MENDED: Final = frozenset(
    {
        Reason.BUNDLE_MALFORMED,
        Reason.BUNDLE_MISMATCH,
        Reason.K8S_ACCOUNT_NOT_ALLOWED,
        Reason.K8S_CLUSTER_UNKNOWN,
        Reason.K8S_NODE_TAKEN,
        Reason.K8S_POD_UNKNOWN,
        Reason.K8S_TOKEN_AUDIENCE,
        Reason.K8S_TOKEN_EXPIRED,
        Reason.K8S_TOKEN_REFUSED,
    }
)


def psat_invitation(settings: AgentSettings, psat: K8sPsatSettings) -> Invitation:
    """What this agent joins with. Blocks on the disk; read it anew for each try.

    Raises `Unavailable` (`file_missing`) where a file is not mounted yet, `InvalidArgument` for one that is no good.
    """
    token = _mounted(psat.token_file, "join.k8s_psat.token_file").decode("ascii", errors="replace")
    return Invitation(
        trust_domain=settings.trust_domain,
        servers=settings.join.servers,
        credential=ProjectedToken(cluster=psat.cluster, secret=token),
        known_bundle=_bundle(settings),
        insecure=settings.join.insecure_bootstrap,
    )


def psat_anew(settings: AgentSettings, psat: K8sPsatSettings) -> Anew:
    """The way back in for an agent whose key is not taken any more, or which knows its server no more."""
    return Anew(
        invitation=lambda _: psat_invitation(settings, psat),
        reasons=frozenset({Reason.REJOIN_REFUSED, Reason.BUNDLE_MISMATCH}),
        at_once=True,
    )


def may_pass(error: BaseException) -> bool:
    """Whether joining so is worth another try."""
    if isinstance(error, Unavailable | ResourceExhausted):
        return True
    return isinstance(error, CitadelError) and error.reason in _MENDED


def _bundle(settings: AgentSettings) -> TrustBundle | None:
    path = settings.join.bundle_file
    return parse_bundle_file(settings.trust_domain, _mounted(path, "join.bundle_file")) if path is not None else None


def _mounted(path: Path, setting: str) -> bytes:
    content = read_public_file(path).strip() if path.exists() else b""
    if not content:
        raise Unavailable(
            Reason.FILE_MISSING,
            f"{setting} {path} is not there yet",
            fix="compare it with the volumes of this pod; a ConfigMap is there once a server keeps it",
        )
    return content
