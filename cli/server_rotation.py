"""Rotation, wired onto the server's parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from ca.api.listeners import ActorOf
from ca.api.rotations import RotationService
from ca.api.server_identity import ServerIdentity
from ca.api.sessions import SessionBook
from ca.authority.manager import AuthorityManager
from ca.insight.rotating import clock_check, rotation_check
from ca.revocation.lists import RevocationLists
from ca.rotation.asking import AskingClients
from ca.rotation.leaving import earliest_signing
from ca.rotation.mesh import Mesh
from ca.rotation.model import Longest
from ca.rotation.orders import OrderBoard
from ca.rotation.rotator import Rotator
from ca.rotation.steering import Steering
from ca.rotation.upkeep import Shares, Upkeep
from ca.settings import ServerSettings
from ca.store.asking import SqlPublishedRoots
from ca.store.audit import SqlAuditLog
from ca.store.database import Database
from ca.store.rotations import SqlIssuedEnds, SqlRotations
from citadel.clock import Clock
from citadel.probes import Check
from cli.server_agents import AgentAffairs


@dataclass(frozen=True, kw_only=True)
class RotationAffairs:
    """What drives rotations, and what people steer them by."""

    store: SqlRotations
    board: OrderBoard
    rotator: Rotator
    steering: Steering
    upkeep: Upkeep

    clock: Clock

    def clock_check(self) -> Check:
        """What `/ready` says of time."""
        return clock_check(self.rotator.time.jump)

    def rotation_check(self) -> Check:
        """What `/ready` says of the rotation that runs."""
        # The view is counted over all streams: not every second for nothing.
        holders = self.rotator.view().holders if self.rotator.running is not None else ()
        return rotation_check(self.rotator.running, holders, now=self.clock.now())


async def asking_clients(database: Database, authorities: AuthorityManager, clock: Clock) -> AskingClients:
    """Who has certificates and is told of a new root only when it asks; to be run."""
    asking = AskingClients(
        roots=lambda: authorities.bundle().x509_authorities,
        handed_out=SqlIssuedEnds(database=database),
        earliest=lambda: earliest_signing(authorities.issuers()),
        store=SqlPublishedRoots(database=database),
        clock=clock,
    )
    await asking.start()
    authorities.watch(asking.wake)
    return asking


def rotation_affairs(  # noqa: PLR0913 - where rotation is wired: each part is given, none is made in secret
    settings: ServerSettings,
    *,
    database: Database,
    authorities: AuthorityManager,
    identity: ServerIdentity,
    mesh: Mesh,
    sessions: SessionBook,
    lists: RevocationLists,
    is_lost: Callable[[str], bool],
    clock: Clock,
) -> RotationAffairs:
    """The parts, not yet started."""
    store, board = SqlRotations(database=database), OrderBoard(wake_agents=sessions.wake_all)
    authorities.watch(sessions.wake_all)
    lists.watch(sessions.wake_all)
    rotator = Rotator(
        store=store,
        authorities=authorities,
        identity=identity,
        mesh=mesh,
        board=board,
        lists=lists,
        longest=Longest(
            leaf=settings.longest_leaf,
            token=settings.svids.jwt_max_lifetime,
            between_looks=settings.federation.refresh_hint if settings.federation.listen is not None else None,
        ),
        clock=clock,
    )
    steering = Steering(
        rotator=rotator,
        authorities=authorities,
        window=settings.rotation.window,
        margin=settings.rotation.margin,
        jwt_margin=_jwt_margin(settings),
        clock=clock,
    )
    upkeep = Upkeep(
        rotator=rotator,
        steering=steering,
        authorities=authorities,
        acts=SqlAuditLog(database=database),
        margin=settings.rotation.margin,
        shares=Shares(root=settings.rotation.root_at, issuer=settings.rotation.issuer_at, jwt=settings.rotation.jwt_at),
        is_lost=is_lost,
        clock=clock,
    )
    return RotationAffairs(store=store, board=board, rotator=rotator, steering=steering, upkeep=upkeep, clock=clock)


def _jwt_margin(settings: ServerSettings) -> timedelta:
    """Who finds the keys by OIDC discovery acknowledges nothing: it has them when what it was answered has aged."""
    margin = settings.rotation.margin
    return margin if settings.oidc.issuer is None else max(margin, settings.oidc.max_age)


def rotation_service(
    rotation: RotationAffairs, agents: AgentAffairs, *, clock: Clock, actor_of: ActorOf
) -> RotationService:
    """`citadel.v1.Rotations`."""
    return RotationService(
        rotator=rotation.rotator,
        steering=rotation.steering,
        store=rotation.store,
        administration=agents.administration,
        clock=clock,
        actor_of=actor_of,
    )
