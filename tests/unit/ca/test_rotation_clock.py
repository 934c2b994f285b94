"""The wall clock jumps an hour while a rotation runs: nothing is retired early, and nothing stands still."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from ca.authority.jwt_model import LEEWAY
from ca.authority.model import AuthorityKind
from ca.rotation.model import Phase, RotationKind
from citadel.errors import Reason, Unavailable
from tests.stores import MigratedStores
from tests.unit.ca.rotating import Disk, Server, nodes

pytestmark = pytest.mark.invariant(3, 4)

DAYS_AHEAD = timedelta(days=8)
JUMPS = [timedelta(hours=1), timedelta(hours=-1)]


@pytest.fixture
def store_url(tmp_path: Path, migrated_stores: MigratedStores) -> str:
    return migrated_stores.sqlite(tmp_path / "store.db")


@pytest.fixture
async def server(disk: Disk) -> AsyncIterator[Server]:
    """With a mesh of two nodes that has settled."""
    async with disk.server() as server:
        for node in nodes():
            await server.join(node)
        await server.turn()
        yield server


@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("phase", [Phase.PREPARE, Phase.OBSERVE, Phase.ACTIVATE, Phase.RENEW, Phase.DRAIN])
async def test_a_rotation_takes_as_long_as_ever(server: Server, phase: Phase, jump: timedelta) -> None:
    await server.begin(RotationKind.ROOT)
    await server.phase(phase)
    server.clock.jump(jump)
    begun = server.clock.monotonic()
    done = await server.over()
    assert (done.phase, done.alarm) == (Phase.DONE, "")
    assert server.clock.monotonic() - begun < 10
    assert len(server.authorities.bundle().x509_authorities) == 1


async def test_who_is_away_is_waited_for_until_its_certificates_have_really_ended(server: Server) -> None:
    first, _ = server.nodes
    assert first.svid is not None
    really = (first.svid.not_after - server.clock.now()).total_seconds()
    first.leave()
    await server.begin(RotationKind.ROOT)
    await server.until(lambda: "node-1" in server.holders())
    begun = server.clock.monotonic()
    server.clock.jump(timedelta(hours=2))
    for _ in range(100):
        await server.turn()
    assert server.rotator.running is not None
    assert server.rotator.running.phase is Phase.OBSERVE
    assert "node-1" in server.holders()
    server.clock.leap(really - (server.clock.monotonic() - begun) + 1)
    await server.over()


async def test_a_proxy_keeps_the_root_that_it_depends_on_until_its_certificate_has_really_ended(server: Server) -> None:
    first, _ = server.nodes
    assert first.svid is not None
    really = (first.svid.not_after - server.clock.now()).total_seconds()
    begun = server.clock.monotonic()
    await server.begin(RotationKind.ROOT)
    await server.phase(Phase.ACTIVATE)
    first.is_silent = True
    await server.until(lambda: "node-1/1" in server.holders())
    server.clock.jump(timedelta(hours=2))
    for _ in range(100):
        await server.turn()
    assert len(server.authorities.bundle().x509_authorities) == 2
    assert "node-1/1" in server.holders()
    server.clock.leap(really - (server.clock.monotonic() - begun) + 1)
    await server.over()
    assert len(server.authorities.bundle().x509_authorities) == 1


async def test_an_issuing_authority_that_looks_ended_signs_nothing_and_is_replaced(server: Server) -> None:
    before = server.authorities.issuing().authority
    server.clock.jump(before.not_after - server.clock.now())
    with pytest.raises(Unavailable) as refused:
        server.authorities.issuing()
    assert refused.value.reason is Reason.ISSUER_UNAVAILABLE
    await server.until(lambda: server.active(AuthorityKind.ISSUER).id != before.id)
    assert server.authorities.issuing().authority.not_after > server.clock.now()


async def test_a_machine_that_starts_with_a_clock_that_is_days_ahead_forgets_nothing_before_it_is_set_right(
    disk: Disk,
) -> None:
    async with disk.server() as server:
        key, issuer = server.tokens.signing().authority, server.authorities.issuing().authority
    disk.clock.jump(DAYS_AHEAD)
    async with disk.server() as server:
        assert key.id != server.tokens.signing().authority.id, "by this clock it has ended"
        for _ in range(30):
            await server.turn()
        disk.clock.jump(-DAYS_AHEAD)
        for _ in range(30):
            await server.turn()
            assert key.kid in server.authorities.bundle().jwt_authorities
            assert issuer.subject_key_id in {each.issuer_key_id for each in server.lists.current.lists}
        disk.clock.leap((key.not_after - disk.clock.now()).total_seconds())
        await server.until(lambda: issuer.id not in {each.id for each in server.authorities.issuers()})
        disk.clock.leap(LEEWAY.total_seconds())
        await server.until(lambda: key.kid not in server.authorities.bundle().jwt_authorities)
