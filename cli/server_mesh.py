"""What looks after the whole mesh, wired: clusters below, Kubernetes, rotation, and other trust domains."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from ca.clusters.knowing import Knowing
from ca.rotation.asking import AskingClients
from ca.rotation.mesh import Mesh
from ca.settings import ServerSettings
from ca.store.rotations import SqlIssuedEnds
from cli.server_authorities import AuthorityAffairs
from cli.server_clusters import ClusterAffairs, Surroundings, cluster_affairs, knowing_of
from cli.server_federation import FederationAffairs, federation_affairs
from cli.server_foundation import Foundation
from cli.server_issuing import Issuing
from cli.server_kubernetes_parts import KubernetesSurroundings, hang_into
from cli.server_registers import Registers
from cli.server_rotation import RotationAffairs, asking_clients, rotation_affairs


@dataclass(frozen=True, kw_only=True)
class MeshAffairs:
    """All of it knows what the store knows, and waits to be run."""

    clusters: ClusterAffairs
    knowing: Knowing
    asking: AskingClients
    rotation: RotationAffairs
    federation: FederationAffairs


async def mesh_affairs(
    settings: ServerSettings, base: Foundation, trust: AuthorityAffairs, registers: Registers, issuing: Issuing
) -> MeshAffairs:
    """The parts; those in Kubernetes are hung onto its clients."""
    clusters = _clusters(base, trust, registers)
    hang_into(base.kubernetes, _around_kubernetes(settings, base, trust, registers, issuing))
    asking = await asking_clients(base.database, trust.authorities, base.clock)
    rotation, knowing = _rotation(settings, base, trust, registers, issuing, clusters, asking)
    await rotation.rotator.start()
    federation = await federation_affairs(
        settings,
        database=base.database,
        own_bundle=trust.authorities.own_roots,
        on_change=issuing.sessions.wake_partners_of,
        tally=base.tally,
        metrics=base.metrics,
        clock=base.clock,
    )
    return MeshAffairs(clusters=clusters, knowing=knowing, asking=asking, rotation=rotation, federation=federation)


def _clusters(base: Foundation, trust: AuthorityAffairs, registers: Registers) -> ClusterAffairs:
    return cluster_affairs(
        trust.children,
        Surroundings(
            database=base.database,
            authorities=trust.authorities,
            directory=registers.directory,
            roster=registers.roster,
            revocation=trust.revocation,
            tally=base.tally,
            clock=base.clock,
        ),
    )


def _around_kubernetes(
    settings: ServerSettings, base: Foundation, trust: AuthorityAffairs, registers: Registers, issuing: Issuing
) -> KubernetesSurroundings:
    return KubernetesSurroundings(
        settings=settings,
        database=base.database,
        authorities=trust.authorities,
        roster=registers.roster,
        directory=registers.directory,
        registry=registers.registry,
        issuer=issuing.issuer,
        sessions=issuing.sessions,
        tally=base.tally,
        metrics=base.metrics,
        clock=base.clock,
    )


def _rotation(
    settings: ServerSettings,
    base: Foundation,
    trust: AuthorityAffairs,
    registers: Registers,
    issuing: Issuing,
    clusters: ClusterAffairs,
    asking: AskingClients,
) -> tuple[RotationAffairs, Knowing]:
    within = (clusters.children, *base.kubernetes.beyond)
    above = trust.upstream.beyond(trust.authorities, trust.revocation.lists, clusters.records)
    mesh = partial(
        Mesh,
        trust_domain=settings.trust_domain,
        roster=registers.roster,
        sessions=issuing.sessions,
        ends=SqlIssuedEnds(database=base.database),
        asking=asking,
        clock=base.clock,
    )
    rotation = rotation_affairs(
        settings,
        database=base.database,
        authorities=trust.authorities,
        identity=issuing.identity,
        mesh=mesh(beyond=(*within, *above)),
        sessions=issuing.sessions,
        lists=trust.revocation.lists,
        is_lost=base.keys.manager.is_lost,
        clock=base.clock,
    )
    # What is above waits for what is here and below, and not the other way round.
    knowing = knowing_of(clusters, mesh=partial(mesh, beyond=within), skipped=rotation.rotator.skipped)
    return rotation, knowing
