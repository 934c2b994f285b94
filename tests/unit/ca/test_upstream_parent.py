"""A child of a parent: its issuing authorities, its roots, and what becomes of both when the parent goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from structlog.testing import capture_logs

from ca.authority.model import Authority, AuthorityKind
from ca.issuance.issuer import SvidRequest
from ca.issuance.press import IssuedSvid
from ca.rotation.model import Phase, RotationKind
from ca.store.parent_trust import SqlParentTrust
from ca.upstream.citadel.trust import root_id_of
from citadel._wire import clusters_pb2 as pb
from citadel.errors import FailedPrecondition, PermissionDenied, Reason, Unavailable
from citadel.svid import verify_x509_svid
from tests.certificates import Signed
from tests.clock import FakeClock
from tests.csrs import csr, new_key
from tests.folders import a_root, an_issuer, contents, put
from tests.unit.ca.cluster import Cluster
from tests.unit.ca.following import FromFolder
from tests.unit.ca.parent import FakeParent, Root
from tests.unit.ca.rotating import DAY, HOUR, Crash, Disk, Fate, Server, nodes
from tests.unit.ca.values import A_TEST, ADMINISTRATOR, NODE_1, agent


@pytest.fixture
def parent(disk: Disk, clock: FakeClock) -> FakeParent:
    disk.parent = parent = FakeParent(clock)
    disk.issuer_at = 0.5
    return parent


@asynccontextmanager
async def child(disk: Disk, parent: FakeParent, fate: Fate | None = None) -> AsyncIterator[Server]:
    """A process of the child that has heard its parent, where that is not away."""
    server = Server(disk, fate or Fate())
    try:
        await parent.say()
        await server.start()
        if not parent.is_away:
            await parent.hear(server)
        yield server
    finally:
        await server.stop()


async def issue(server: Server) -> IssuedSvid:
    request = SvidRequest(entry_id=server.entries[0].id, csr=csr())
    (issued,) = await server.issuer.issue(agent(NODE_1), [request])
    assert isinstance(issued, IssuedSvid), issued
    return issued


@asynccontextmanager
async def waiting(disk: Disk, parent: FakeParent) -> AsyncIterator[Server]:
    """A process that waits in its start for a parent that is away, until that comes after an hour."""
    server, clock = Server(disk, Fate()), disk.clock
    starting = asyncio.create_task(server.start())
    await clock.advance(0.1)
    clock.leap(3600)
    for _ in range(5):
        await clock.advance(0.1)
        await asyncio.sleep(0.01)
    assert not starting.done()
    parent.is_away = False
    await parent.say()
    while not starting.done():
        await clock.advance(0.1)
        await asyncio.sleep(0.01)
    await starting
    try:
        yield server
    finally:
        await server.stop()


def can_issue(server: Server) -> bool:
    try:
        server.authorities.issuing()
    except Unavailable:
        return False
    return True


async def test_its_authority_is_signed_by_the_parents_root_and_its_bundle_is_the_parents(
    disk: Disk, parent: FakeParent, clock: FakeClock
) -> None:
    async with child(disk, parent) as server:
        issued = await issue(server)
        bundle = server.authorities.bundle()
        assert bundle.x509_authorities == (parent.active.certificate,)
        verify_x509_svid(issued.chain_der, {A_TEST: bundle}, clock.now())
        assert server.active(AuthorityKind.ISSUER).parent_id == root_id_of(parent.active.certificate)


async def test_the_first_start_waits_for_the_parent_however_long_it_is_away(disk: Disk, parent: FakeParent) -> None:
    parent.is_away = True
    async with waiting(disk, parent) as server:
        await issue(server)


async def test_a_later_start_goes_on_with_what_is_recorded_while_the_parent_is_away(
    disk: Disk, parent: FakeParent
) -> None:
    async with child(disk, parent) as server:
        before = server.active(AuthorityKind.ISSUER), server.authorities.bundle(), server.lists.current.version
        assert before[2]
    parent.is_away = True
    async with child(disk, parent) as server:
        again = server.active(AuthorityKind.ISSUER), server.authorities.bundle(), server.lists.current.version
        assert again == before
        await issue(server)


async def test_a_parent_that_cannot_sign_authorities_is_refused_at_the_start(disk: Disk, parent: FakeParent) -> None:
    parent.refusal = FailedPrecondition(Reason.UPSTREAM_CANNOT_SIGN, "its own authority is pathlen:0")
    with pytest.raises(FailedPrecondition) as refused:
        async with child(disk, parent):
            pass
    assert refused.value.reason is Reason.UPSTREAM_CANNOT_SIGN


async def test_a_store_with_a_root_of_its_own_is_refused(disk: Disk, clock: FakeClock) -> None:
    async with disk.server():
        pass
    disk.parent = parent = FakeParent(clock)
    with pytest.raises(FailedPrecondition) as refused:
        async with child(disk, parent):
            pass
    assert refused.value.reason is Reason.DATA_DIR_FOREIGN


async def test_a_store_with_the_root_of_a_folder_is_refused(disk: Disk, tmp_path: Path) -> None:
    """Every proxy would lose that root at once, and with it everybody whom this server has served so far."""
    root = a_root("folder")
    disk.parent = FromFolder(put(tmp_path / "cacerts", contents(an_issuer(root, "issuer"), root)))
    async with disk.server():
        pass
    disk.parent = parent = FakeParent(disk.clock)
    with pytest.raises(FailedPrecondition) as refused:
        async with child(disk, parent):
            pass
    assert refused.value.reason is Reason.DATA_DIR_FOREIGN


async def test_a_child_that_was_moved_to_a_folder_of_the_same_root_and_back_goes_on(
    disk: Disk, parent: FakeParent, tmp_path: Path
) -> None:
    async with child(disk, parent):
        pass
    above = Signed(parent.active.certificate, parent.active.key)
    disk.parent = FromFolder(put(tmp_path / "cacerts", contents(an_issuer(above, "issuer"), above)))
    async with disk.server():
        pass
    disk.parent = parent
    async with child(disk, parent) as server:
        assert server.authorities.bundle().x509_authorities == (above.certificate,)


async def test_a_root_is_not_rotated_here(disk: Disk, parent: FakeParent) -> None:
    async with child(disk, parent) as server:
        with pytest.raises(FailedPrecondition) as refused:
            await server.begin(RotationKind.ROOT)
        assert refused.value.reason is Reason.UPSTREAM_DECIDES


@pytest.mark.invariant(6)
async def test_the_parent_away_past_half_of_a_life_and_past_its_end(
    disk: Disk, parent: FakeParent, clock: FakeClock
) -> None:
    disk.issuer_lifetime = DAY
    async with child(disk, parent) as server:
        end = server.active(AuthorityKind.ISSUER).not_after
        parent.is_away, asked = True, parent.asked
        clock.leap(18 * 3600)
        await server.turn(5)
        assert server.rotator.running is None  # nothing is begun that cannot go on
        assert parent.asked == asked
        clock.leap((end - clock.now() - timedelta(minutes=5)).total_seconds())
        await server.turn(5)
        issued = await issue(server)
        assert issued.not_after <= end
        clock.leap(600)
        await server.turn(5)
        with pytest.raises(Unavailable) as refused:
            await issue(server)
        assert refused.value.reason is Reason.ISSUER_UNAVAILABLE
        parent.is_away = False
        await parent.hear(server)
        await server.until(lambda: server.active(AuthorityKind.ISSUER).not_after > end)
        issued = await issue(server)
        assert issued.not_after > end


async def prepared(server: Server, parent: FakeParent) -> Authority:
    """The successor that a rotation of this child waits for the other clusters with."""
    for node in nodes():
        await server.join(node)
    await parent.hear(server)
    server.clock.leap(3600)
    parent.everybody_knows = False
    await server.begin(RotationKind.ISSUER)
    await server.phase(Phase.OBSERVE)
    await parent.hear(server)
    return server.authorities.issuers()[-1]


@pytest.mark.parametrize("is_paused", [False, True])
async def test_what_is_prepared_signs_when_the_parent_stays_away(
    disk: Disk, parent: FakeParent, clock: FakeClock, *, is_paused: bool
) -> None:
    disk.issuer_lifetime, disk.issuer_at = DAY, 0.99
    async with child(disk, parent) as server:
        old = server.authorities.issuing().authority
        successor = await prepared(server, parent)
        if is_paused:
            await server.steering.pause(why="wait", by=ADMINISTRATOR)
        parent.is_away = True
        clock.leap((old.not_after - clock.now() - timedelta(minutes=1)).total_seconds())
        await server.until(lambda: server.authorities.issuing().authority == replace(successor, state="active"))
        await issue(server)
        assert not is_paused or "rotation.resume" in await disk.acts()


async def test_what_is_prepared_signs_from_a_start_while_the_parent_is_away(
    disk: Disk, parent: FakeParent, clock: FakeClock
) -> None:
    disk.issuer_lifetime, disk.issuer_at = DAY, 0.99
    async with child(disk, parent) as server:
        old = server.authorities.issuing().authority
        successor = await prepared(server, parent)
    parent.is_away = True
    clock.leap((old.not_after - clock.now() + timedelta(minutes=1)).total_seconds())
    async with child(disk, parent) as server:
        assert server.authorities.issuing().authority.id == successor.id
        await issue(server)


async def test_an_emergency_that_is_paused_goes_on_and_one_that_hangs_keeps_no_rescue_away(
    disk: Disk, parent: FakeParent, clock: FakeClock
) -> None:
    disk.issuer_lifetime = DAY
    async with child(disk, parent) as server:
        old = server.authorities.issuing().authority
        parent.refusal = PermissionDenied(Reason.DOWNSTREAM_REFUSED, "not now")
        parent.set_state(0, "tainted")
        parent.roots.append(Root.made(clock, "active"))
        await parent.say()
        await server.until(lambda: server.rotator.running is not None)
        await server.steering.pause(why="wait", by=ADMINISTRATOR)
        await server.until(lambda: server.rotator.running is not None and not server.rotator.running.paused)
        clock.leap((old.not_after - clock.now() - timedelta(minutes=1)).total_seconds())
        for _ in range(5):
            await server.turn(1)
        assert "issuer.replace" in await disk.acts()
        parent.refusal = None
        clock.leap(60)
        await server.until(lambda: can_issue(server))


async def test_a_start_after_its_authority_has_ended_waits_for_the_parent(
    disk: Disk, parent: FakeParent, clock: FakeClock
) -> None:
    disk.issuer_lifetime = DAY
    async with child(disk, parent):
        pass
    clock.leap(2 * 24 * 3600)
    parent.is_away = True
    async with waiting(disk, parent) as server:
        await issue(server)


async def test_half_of_a_life_brings_a_new_authority_which_waits_for_the_proxies_of_other_clusters(
    disk: Disk, parent: FakeParent, clock: FakeClock
) -> None:
    async with child(disk, parent) as server:
        for node in nodes():
            await server.join(node)
        before = server.active(AuthorityKind.ISSUER)
        clock.leap(4 * 24 * 3600)
        await server.phase(Phase.OBSERVE)
        for _ in range(100):
            await server.turn()
        assert server.holders() == {"parent": "has not made known the revocation lists of here"}
        parent.everybody_knows = False
        await parent.hear(server)
        for _ in range(100):
            await server.turn()
        assert list(server.holders()) == ["parent"]
        assert server.active(AuthorityKind.ISSUER) == before
        parent.everybody_knows = True
        await parent.say()
        await server.over()
        assert server.active(AuthorityKind.ISSUER) != before


async def test_a_key_for_tokens_waits_for_the_other_clusters_too(disk: Disk, parent: FakeParent) -> None:
    async with child(disk, parent) as server:
        before = server.authorities.jwt.signing().authority.kid
        await server.begin(RotationKind.JWT)
        await server.phase(Phase.OBSERVE)
        for _ in range(100):
            await server.turn()
        assert server.holders() == {"parent": "has not made known the keys for tokens of here"}
        await parent.hear(server)
        await server.phase(Phase.ACTIVATE)
        await server.turn()
        assert server.authorities.jwt.signing().authority.kid != before


async def test_a_leaked_key_for_tokens_does_not_come_back_with_what_the_parent_said_before_it_went_away(
    disk: Disk, parent: FakeParent
) -> None:
    async with child(disk, parent) as server:
        for node in nodes():
            await server.join(node)
        (leaked,) = server.authorities.jwt.published()
        parent.is_away = True
        await server.begin(RotationKind.JWT, deadline=timedelta(seconds=1))
        await server.over()
        assert leaked not in server.authorities.jwt.published()
        assert leaked not in server.authorities.bundle().jwt_authorities
    async with child(disk, parent) as server:
        assert leaked not in server.authorities.bundle().jwt_authorities


async def test_nor_does_one_that_a_cluster_below_has_withdrawn(disk: Disk, parent: FakeParent) -> None:
    disk.is_parent, east = True, Cluster()
    east.keys = {"leaked": new_key().public_key(), "kept": new_key().public_key()}
    async with child(disk, parent) as server:
        await east.join(server)
        await server.until(lambda: "leaked" in server.records.jwt_keys())
        await parent.hear(server)
        parent.is_away = True
        del east.keys["leaked"]
        await server.until(lambda: "leaked" not in server.records.jwt_keys())
        await server.until(lambda: "leaked" not in server.authorities.bundle().jwt_authorities)
        assert "kept" in server.authorities.bundle().jwt_authorities
    async with child(disk, parent) as server:
        assert "leaked" not in server.authorities.bundle().jwt_authorities
        east.keys["leaked"] = new_key().public_key()
        await east.join(server)
        await server.until(lambda: "leaked" in server.authorities.bundle().jwt_authorities)


async def test_a_rotation_of_the_parents_root_is_followed_by_one_of_the_issuing_authority(
    disk: Disk, parent: FakeParent, clock: FakeClock
) -> None:
    async with child(disk, parent) as server:
        for node in nodes():
            await server.join(node)
        old, new = parent.active, Root.made(clock, "prepared")
        parent.roots.append(new)
        await parent.say()
        assert set(server.authorities.bundle().x509_authorities) == {old.certificate, new.certificate}
        await server.turn(2)
        assert server.rotator.running is None
        parent.set_state(0, "old")
        parent.set_state(1, "active")
        await parent.say()
        await server.until(lambda: server.rotator.running is not None)
        while server.rotator.running is not None:
            await server.turn()
            await parent.hear(server)
        assert server.rotator.current is not None
        assert (server.rotator.current.kind, server.rotator.current.is_emergency) == (RotationKind.ISSUER, False)
        assert {each.parent_id for each in server.authorities.issuers()} == {root_id_of(new.certificate)}
        del parent.roots[0]
        await parent.say()
        assert server.authorities.bundle().x509_authorities == (new.certificate,)
        await server.turn(2)
        assert server.rotator.running is None


async def test_a_tainted_root_is_left_at_once(disk: Disk, parent: FakeParent, clock: FakeClock) -> None:
    async with child(disk, parent) as server:
        for node in nodes():
            await server.join(node)
        parent.everybody_knows = False
        await server.begin(RotationKind.JWT)  # whatever runs
        await server.turn(1)
        parent.set_state(0, "tainted")
        parent.roots.append(Root.made(clock, "active"))
        await parent.say()
        await server.until(
            lambda: server.active(AuthorityKind.ISSUER).parent_id == root_id_of(parent.active.certificate)
        )
        assert server.rotator.current is not None
        assert (server.rotator.current.kind, server.rotator.current.is_emergency) == (RotationKind.ISSUER, True)
        acts = await disk.acts()
        assert "rotation.start issuer, emergency" in acts
        for node in server.nodes:
            assert node.svid is not None
        await server.over()
        assert {each.parent_id for each in server.authorities.issuers()} == {root_id_of(parent.active.certificate)}


async def test_nothing_is_signed_under_a_root_that_is_gone(disk: Disk, parent: FakeParent, clock: FakeClock) -> None:
    async with child(disk, parent) as server:
        parent.refusal = Unavailable(Reason.UPSTREAM_UNAVAILABLE, "not now")
        parent.roots[:] = [Root.made(clock, "active")]
        await parent.say()
        with pytest.raises(Unavailable) as refused:
            await issue(server)
        assert refused.value.reason is Reason.ISSUER_UNAVAILABLE
        known = {each.issuer for each in server.lists.current.lists}
        assert known == {parent.active.certificate}  # agents refuse a set with a list that no root vouches for
        parent.refusal = None
        await server.until(lambda: can_issue(server))
        verify_x509_svid((await issue(server)).chain_der, {A_TEST: server.authorities.bundle()}, clock.now())


async def test_a_child_that_was_away_while_its_root_went_waits_for_another_at_its_start(
    disk: Disk, parent: FakeParent, clock: FakeClock
) -> None:
    async with child(disk, parent):
        pass
    parent.roots[:] = [Root.made(clock, "active")]
    async with child(disk, parent) as server:
        assert server.authorities.bundle().x509_authorities == (parent.active.certificate,)
        verify_x509_svid((await issue(server)).chain_der, {A_TEST: server.authorities.bundle()}, clock.now())


async def test_a_start_with_an_authority_under_a_root_that_is_gone_waits_for_the_parent(
    disk: Disk, parent: FakeParent, clock: FakeClock
) -> None:
    async with child(disk, parent):
        parent.roots[:] = [Root.made(clock, "active")]
        parent.refusal = Unavailable(Reason.UPSTREAM_UNAVAILABLE, "not now")
        await parent.say()
    parent.is_away, parent.refusal = True, None
    async with waiting(disk, parent) as server:
        verify_x509_svid((await issue(server)).chain_der, {A_TEST: server.authorities.bundle()}, clock.now())


@pytest.mark.invariant(12)
@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
async def test_a_child_killed_at_each_step_of_a_rotation_above_it_goes_on(
    disk: Disk, parent: FakeParent, clock: FakeClock
) -> None:
    """Each rotation of the parent's root meets a child that dies two writes later than in the one before."""
    async with child(disk, parent):
        pass
    writes = 0
    while True:
        writes += 2
        parent.roots.append(Root.made(clock, "prepared"))
        try:
            async with child(disk, parent, Fate(crash_after=writes)) as server:
                await rotated(server, parent)
                break  # it wrote less than that
        except Crash:
            pass
        async with child(disk, parent) as server:
            await rotated(server, parent)
            verify_x509_svid((await issue(server)).chain_der, {A_TEST: server.authorities.bundle()}, clock.now())
    assert writes > 12


async def rotated(server: Server, parent: FakeParent) -> None:
    """The parent takes its newest root, step by step, as it does when all have acknowledged."""
    for node in nodes():
        await server.join(node)
    if len(parent.roots) > 1:
        parent.set_state(0, "old")
        parent.set_state(1, "active")
    for turn in range(2000):
        if turn % 8 == 0:
            await parent.hear(server)
        is_new = {each.parent_id for each in server.authorities.issuers()} == {root_id_of(parent.active.certificate)}
        if server.rotator.running is None and is_new:
            break
        await server.turn()
    del parent.roots[:-1]
    await parent.hear(server)
    assert server.authorities.bundle().x509_authorities == (parent.active.certificate,)


async def test_an_answer_with_another_key_changes_nothing_and_leaves_no_key_behind(
    disk: Disk, parent: FakeParent, clock: FakeClock
) -> None:
    async with child(disk, parent) as server:
        before, keys = server.active(AuthorityKind.ISSUER), set(disk.folder.iterdir())

        def wrong(_: pb.SignIssuerRequest, answer: pb.SignIssuerResponse) -> pb.SignIssuerResponse:
            issuer = parent.active.issuer(new_key().public_key(), clock, HOUR)
            return pb.SignIssuerResponse(chain=[issuer.public_bytes(Encoding.DER)], root=answer.root)

        parent.answers = wrong
        with pytest.raises(FailedPrecondition) as refused:
            await server.authorities.replace_issuer()
        assert refused.value.reason is Reason.UPSTREAM_INVALID
        assert server.active(AuthorityKind.ISSUER) == before
        assert set(disk.folder.iterdir()) == keys
        await issue(server)


async def test_trust_that_cannot_be_leaves_what_was_in_force(disk: Disk, parent: FakeParent) -> None:
    async with child(disk, parent) as server:
        before = server.authorities.bundle()
        assert parent.current is not None
        with pytest.raises(FailedPrecondition):
            await parent.current.authority.take(pb.ClusterUpdate(trust=pb.ClusterTrust()))
        assert server.authorities.bundle() == before
    parent.is_away = True
    async with child(disk, parent) as server:
        assert server.authorities.bundle() == before


async def test_a_rotation_that_the_parent_leaves_half_way_is_said_once_a_minute(disk: Disk, parent: FakeParent) -> None:
    async with child(disk, parent) as server:
        parent.refusal = Unavailable(Reason.UPSTREAM_UNAVAILABLE, "not now")
        await server.begin(RotationKind.ISSUER)
        with capture_logs() as logs:
            for _ in range(150):
                await server.turn(1)
        said = [each for each in logs if each["log_level"] == "error"]
        assert 2 <= len(said) <= 4
        parent.refusal = None
        await server.phase(Phase.OBSERVE)


async def test_what_a_child_has_issued_of_its_own_is_checked_against_the_lists_of_all_or_of_none(
    disk: Disk, parent: FakeParent
) -> None:
    async with child(disk, parent) as server:
        own = {each.issuer for each in server.lists.own}
        assert {each.issuer for each in server.lists.current.lists} == own | {parent.active.certificate}
        parent.are_whole = False
        await parent.say()
        assert server.lists.current.lists == ()
        assert {each.issuer for each in server.lists.own} == own
        await server.begin(RotationKind.ISSUER)
        await server.phase(Phase.ACTIVATE)  # nobody checks any: only who has not acknowledged the rest holds it up


async def test_a_parent_that_refuses_is_asked_once_a_minute(disk: Disk, parent: FakeParent) -> None:
    async with child(disk, parent) as server:
        refusal = PermissionDenied(Reason.DOWNSTREAM_REFUSED, "a life of 7d is asked for")
        parent.refusal, parent.asked = refusal, 0
        await server.begin(RotationKind.ISSUER)
        for _ in range(150):
            await server.turn(1)
        assert 2 <= parent.asked <= 4
        assert parent.current is not None
        assert parent.current.authority.requests.refusal == refusal
        parent.refusal = None
        await server.phase(Phase.OBSERVE)
        assert parent.current.authority.requests.refusal is None


async def test_a_first_start_with_a_clock_that_is_behind_waits_until_what_it_was_given_has_begun(
    disk: Disk, parent: FakeParent, clock: FakeClock
) -> None:
    parent.ahead = timedelta(seconds=100)
    server = Server(disk, Fate())
    with capture_logs() as logs:
        starting = asyncio.create_task(server.start())
        for _ in range(5000):
            await parent.say()
            is_waiting = any("clocks differ" in each["event"] for each in logs)
            await clock.advance(1 if is_waiting else 0.05)  # a busy machine must not see the time go by before it looks
            await asyncio.sleep(0.005)
            if starting.done():
                break
        await starting
    assert is_waiting
    issuer = server.authorities.issuing().authority
    assert issuer.not_before <= clock.now()
    assert parent.asked == 1
    await server.stop()


async def test_a_parent_whose_clock_differs_too_much_is_not_asked_again_and_again(
    disk: Disk, parent: FakeParent
) -> None:
    async with child(disk, parent) as server:
        parent.ahead, parent.asked = timedelta(minutes=1), 0
        disk.issuer_lifetime = DAY
        await server.begin(RotationKind.ISSUER)
        await server.phase(Phase.OBSERVE)
        assert parent.asked == 1
        await server.steering.abort(why="", by=ADMINISTRATOR)
        await server.over()
        parent.ahead, parent.asked = timedelta(minutes=6), 0
        await server.begin(RotationKind.ISSUER)
        for _ in range(30):
            await server.turn(1)
        assert parent.asked == 1
        assert parent.current is not None
        assert "the clocks differ" in str(parent.current.authority.requests.refusal)


async def test_a_root_that_is_not_known_here_has_no_authority_made_every_second(disk: Disk, parent: FakeParent) -> None:
    async with child(disk, parent) as server:
        parent.roots[:] = [Root.made(disk.clock)]  # of which it does not say a word
        parent.asked = 0
        await server.begin(RotationKind.ISSUER)
        for _ in range(30):
            await server.turn(1)
        assert 2 <= parent.asked <= 7


async def test_kept_trust_that_cannot_be_read_is_waited_for_anew(disk: Disk, parent: FakeParent) -> None:
    async with child(disk, parent):
        pass
    await SqlParentTrust(database=disk.database, trust_domain=A_TEST).keep(b"garbage", at=disk.clock.now())
    parent.is_away = True
    async with waiting(disk, parent) as server:
        await issue(server)
