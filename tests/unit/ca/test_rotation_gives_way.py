"""A rotation of the root that comes to nothing does not keep the authority that signs from being renewed in time."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ca.authority.model import AuthorityKind
from ca.authority.ports import Pending
from ca.authority.self_signed import SelfSignedUpstream
from ca.authority.vouching import Vouching
from ca.rotation.model import Phase, RotationKind
from ca.store.database import Database
from ca.store.rotations import SqlRotations
from ca.store.successions import SqlSuccessions
from ca.upstream.neighbours import StrangersUnderTheRoot
from citadel.errors import Reason, Unavailable
from tests.certificates import A_TEST
from tests.clock import FakeClock
from tests.stores import MigratedStores
from tests.unit.ca.following import Nobody
from tests.unit.ca.rotating import DAY, HOUR, Disk, Fate, Server, nodes

pytestmark = pytest.mark.invariant(3)

ROOT, ISSUER = RotationKind.ROOT, RotationKind.ISSUER


class Refusing(SelfSignedUpstream):
    """Makes its first root, and is then refused every other one."""

    is_up = False  # whether another root is up

    async def prepare(self, authority_id: str) -> None:  # noqa: ARG002 - refused, whatever it is called
        raise Unavailable(Reason.VAULT_DENIED, "the policy says no")

    def pending(self) -> Pending | None:
        return Pending(is_root=True, why="another root signs there") if self.is_up else None


@dataclass
class Refused:
    """What the harness asks of an upstream."""

    is_up: bool
    neighbour: StrangersUnderTheRoot = field(default_factory=lambda: StrangersUnderTheRoot(alone=True))
    beyond: Nobody = field(default_factory=Nobody)

    def above(self, disk: Disk, fate: Fate, *, keys: Any, store: Any) -> Refused:  # noqa: ARG002 - it comes with these
        self.authority = Refusing(
            trust_domain=A_TEST,
            keys=keys,
            store=store,
            vouching=Vouching(
                trust_domain=A_TEST,
                keys=keys,
                store=SqlSuccessions(database=disk.database, trust_domain=A_TEST),
                clock=disk.clock,
                lasts=7 * DAY,
            ),
            clock=disk.clock,
            root_lifetime=disk.root_lifetime,
            backdate=timedelta(seconds=10),
        )
        self.authority.is_up = self.is_up
        return self

    async def started(self, server: Server) -> None:
        """There is nothing that keeps an eye on it."""


@pytest.fixture
def store_url(tmp_path: Path, migrated_stores: MigratedStores) -> str:
    return migrated_stores.sqlite(tmp_path / "store.db")


async def passes(server: Server, time: timedelta) -> None:
    """Time, in which agents renew what they hold."""
    server.clock.leap(time.total_seconds())
    for node in server.nodes:
        await node.join(server)
    for _ in range(25):
        await server.turn()


@pytest.mark.parametrize("why", ["its time has come", "another one is up"])
async def test_a_root_that_does_not_come_makes_way_for_the_authority_that_is_due(
    database: Database, tmp_path: Path, clock: FakeClock, why: str
) -> None:
    upstream = Refused(is_up=why == "another one is up")
    root_at = None if upstream.is_up else 1e-9
    disk = Disk(database, tmp_path / "keys", clock, parent=upstream, issuer_at=0.5, root_at=root_at)
    async with disk.server() as server:
        for node in nodes():
            await server.join(node)
        first = server.active(AuthorityKind.ISSUER)
        await server.until(lambda: server.rotator.running is not None)
        hangs = server.rotator.running
        assert hangs is not None
        assert (hangs.kind, hangs.started_by) == (ROOT, "server")
        await passes(server, 3 * DAY)  # nothing is due yet
        assert server.rotator.running == hangs
        await passes(server, 13 * HOUR)
        await server.until(lambda: server.active(AuthorityKind.ISSUER) != first)
        renewed = await server.over()
        assert (renewed.kind, renewed.started_by, renewed.phase) == (ISSUER, "server", Phase.DONE)
        ended = next(each for each in await SqlRotations(database=database).newest(9) if each.id == hangs.id)
        assert ended.phase is Phase.ABORTED
        assert not [act for act in await disk.acts() if act.startswith("issuer.replace")]  # everybody was waited for
        await passes(server, HOUR)
        assert server.rotator.running is None  # it rests
        await passes(server, DAY)
        await server.until(lambda: server.rotator.running is not None)
        assert server.rotator.running is not None
        assert server.rotator.running.kind is ROOT
