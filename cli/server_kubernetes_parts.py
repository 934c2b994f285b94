"""What the server does in clusters of Kubernetes, part by part, hung onto their clients before any work begins."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from ca.agents.roster import AgentRoster
from ca.api.sessions import SessionBook
from ca.authority.manager import AuthorityManager
from ca.entries.directory import EntryDirectory
from ca.entries.registry import EntryRegistry
from ca.issuance.issuer import Issuer
from ca.settings import ServerSettings
from ca.store.database import Database
from citadel.clock import Clock
from citadel.tally import Tally
from cli.server_kubernetes import KubernetesAffairs
from cli.server_kubernetes_bundles import hang_bundles
from cli.server_kubernetes_departures import hang_departures
from cli.server_kubernetes_gateways import hang_gateways
from cli.server_kubernetes_signers import SignerSurroundings, hang_signers
from cli.server_workloads import hang_workloads


@dataclass(frozen=True, kw_only=True)
class KubernetesSurroundings:
    """What of the server the parts are made of. Entries, agents and authorities are loaded already."""

    settings: ServerSettings
    database: Database
    authorities: AuthorityManager
    roster: AgentRoster
    directory: EntryDirectory
    registry: EntryRegistry
    issuer: Issuer
    sessions: SessionBook
    tally: Tally
    metrics: CollectorRegistry
    clock: Clock


def hang_into(kubernetes: KubernetesAffairs, around: KubernetesSurroundings) -> None:
    """Make every part that the settings ask for, and add what each does to the work in its cluster."""
    hang_workloads(
        kubernetes,
        trust_domain=around.settings.trust_domain,
        directory=around.directory,
        registry=around.registry,
        clock=around.clock,
    )
    hang_departures(kubernetes, roster=around.roster, clock=around.clock)
    hang_bundles(kubernetes, own=around.authorities, metrics=around.metrics, clock=around.clock)
    signers = SignerSurroundings(
        settings=around.settings,
        authorities=around.authorities,
        issuer=around.issuer,
        tally=around.tally,
        clock=around.clock,
    )
    hang_signers(kubernetes, signers, around.metrics)
    hang_gateways(kubernetes, clock=around.clock)
