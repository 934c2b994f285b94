"""The identity that an agent finds on the disk of its node, and the pod and node that it is in now."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import structlog

from citadel.config.files import read_public_file
from citadel.errors import CitadelError
from citadel.kubernetes.token_claims import TokenClaims
from citadel.reserved import K8S_PSAT_SEGMENT
from citadel.spiffe import SpiffeId
from cli.agent_psat import psat_invitation
from sds.link.bootstrap import Bootstrap, Invitation
from sds.link.identity import AgentIdentity, IdentityFile
from sds.settings import AgentSettings, K8sPsatSettings

SHOWING: Final = 2.0  # seconds; who has an identity already serves nobody before, and waits no longer for this

_log = structlog.get_logger(__name__)


def is_of_here(spiffe_id: SpiffeId, settings: AgentSettings, environment: Mapping[str, str]) -> bool:
    """Whether an identity on disk is that of this node in this cluster, as far as the agent knows where it is.

    A node can come back under another name with its disk, be made from the image of another one's, or its cluster be
    called otherwise now: then the entries of its pods are not those of that identity. One of another way of joining
    names neither, and stays until somebody takes it away: entries hang on it.
    """
    if (psat := settings.join.k8s_psat) is None:
        return True
    node = environment.get(settings.kubernetes.node_name_env, "") if settings.kubernetes is not None else ""
    if (place := _place_of(spiffe_id)) is None:
        return True
    return place[0] == psat.cluster and node in {"", place[1]}


def is_by_token(spiffe_id: SpiffeId) -> bool:
    """Whether a pod's token is what its agent joins by."""
    return _place_of(spiffe_id) is not None


def pod_of(settings: AgentSettings) -> str:
    """The UID of the pod that the mounted token is of, by its own word; empty where there is none. Blocks."""
    if (psat := settings.join.k8s_psat) is None:
        return ""
    try:
        return TokenClaims.of(read_public_file(psat.token_file).decode("ascii")).pod_uid
    except (CitadelError, OSError, ValueError):
        return ""


async def shown_in(
    pod: str,
    kept: AgentIdentity,
    *,
    settings: AgentSettings,
    psat: K8sPsatSettings,
    bootstrap: Bootstrap,
    within: float = SHOWING,
) -> AgentIdentity | None:
    """What an agent is that finds `kept` of another pod, as after a rollout of its DaemonSet, and shows its own token.

    With the key that it has, so that nobody is evicted for it. None where that cannot be now, and the agent stays what
    it was: what the server knows of its pod is worth no outage. With another ID than `kept` nothing is on disk yet.
    """
    try:
        async with asyncio.timeout(within):
            invitation = await asyncio.to_thread(_invitation, kept, settings, psat)
            shown = replace(await bootstrap.join(invitation, key=kept.key), pod=pod)
        if shown.svid.spiffe_id == kept.svid.spiffe_id:
            await asyncio.to_thread(IdentityFile(settings.data_dir).save, shown)
    except (CitadelError, TimeoutError) as error:
        what = "the server does not know in which pod this agent is now; the next start tries again"
        _log.warning(what, error=str(error) or f"no answer within {within:g} s")
        return None
    return shown


def _place_of(spiffe_id: SpiffeId) -> tuple[str, str] | None:
    """The cluster and the node that it names, if any."""
    match spiffe_id.path.split("/")[-3:]:
        case [segment, cluster, node] if segment == K8S_PSAT_SEGMENT:
            return cluster, node
        case _:
            return None


def _invitation(kept: AgentIdentity, settings: AgentSettings, psat: K8sPsatSettings) -> Invitation:
    """By the token of this pod. The server is known by what the agent has known it by until now."""
    given = psat_invitation(settings, psat)
    return replace(given, known_bundle=kept.bundle, insecure=False, own_chain=kept.svid.chain)
