"""A server follows a folder: what is put there comes into force through a rotation, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from sqlalchemy import delete

from ca.authority.model import AuthorityKind
from ca.rotation.model import Phase, RotationKind
from ca.store.database import Database
from ca.store.schema import authorities, bundles, jwt_authorities, ledger, revocation_lists, rotations
from citadel.errors import FailedPrecondition, Reason, Unavailable
from citadel.probes import Health
from citadel.svid import X509Svid, verify_x509_svid
from citadel.wire import from_timestamp
from tests import certificates
from tests.certificates import Signed
from tests.clock import FakeClock
from tests.csrs import csr, new_key
from tests.folders import a_root, an_issuer, contents, put
from tests.stores import MigratedStores
from tests.unit.ca.following import FromFolder
from tests.unit.ca.rotating import DAY, HOUR, Crash, Disk, Fate, Server, nodes
from tests.unit.ca.values import A_TEST, ADMINISTRATOR

ROOT, ISSUER, SVID = RotationKind.ROOT, RotationKind.ISSUER, RotationKind.SVID
FIRST_ROOT, SECOND_ROOT, THIRD_ROOT = a_root("first"), a_root("second"), a_root("third")
FIRST = an_issuer(FIRST_ROOT, "first issuer")
SECOND = an_issuer(SECOND_ROOT, "second issuer")
THIRD = an_issuer(THIRD_ROOT, "third issuer")
NEXT = an_issuer(FIRST_ROOT, "next issuer")


@pytest.fixture
def store_url(tmp_path: Path, migrated_stores: MigratedStores) -> str:
    return migrated_stores.sqlite(tmp_path / "store.db")


@pytest.fixture
def upstream(tmp_path: Path) -> FromFolder:
    return FromFolder(put(tmp_path / "cacerts", contents(FIRST, FIRST_ROOT)))


@pytest.fixture
def disk(database: Database, tmp_path: Path, clock: FakeClock, upstream: FromFolder) -> Disk:
    return Disk(database, tmp_path / "keys", clock, parent=upstream)


@pytest.fixture
async def server(disk: Disk) -> AsyncIterator[Server]:
    async with disk.server() as server:
        for node in nodes():
            await server.join(node)
        await server.turn()
        yield server


async def holds(
    upstream: FromFolder, issuer: Signed, root: Signed, *, also: tuple[Signed, ...] = (), takes: bool = True
) -> None:
    """From now on this lies in the folder."""
    put(upstream.folder, contents(issuer, root, also=also))
    if takes:
        await upstream.look()


def roots(server: Server) -> set[x509.Certificate]:
    return set(server.authorities.bundle().x509_authorities)


def certificates_of(*signed: Signed) -> set[x509.Certificate]:
    return {each.certificate for each in signed}


def signs(server: Server) -> x509.Certificate:
    return server.authorities.issuing().authority.certificate


async def settled(server: Server, *, rotations: int = 1) -> None:
    """Until as many rotations have begun by themselves and ended."""
    for _ in range(rotations):
        await server.until(lambda: server.rotator.running is not None)
        rotation = await server.over()
        assert (rotation.phase, rotation.alarm) == (Phase.DONE, "")


def judged(server: Server, svid: X509Svid | None) -> X509Svid:
    assert svid is not None
    return verify_x509_svid(svid.chain_der, {A_TEST: server.authorities.bundle()}, server.clock.now())


async def test_the_authority_in_the_folder_signs_from_the_first_moment(server: Server) -> None:
    assert signs(server) == FIRST.certificate
    assert roots(server) == certificates_of(FIRST_ROOT)
    assert server.active(AuthorityKind.ROOT).certificate == FIRST_ROOT.certificate
    assert judged(server, server.nodes[0].svid).chain[1:] == (FIRST.certificate,)
    await server.turn(60)
    assert server.rotator.current is None  # nothing is due by time: its life is its owner's business


async def test_without_a_good_folder_a_new_server_does_not_start(disk: Disk, upstream: FromFolder) -> None:
    (upstream.folder / "ca-key.pem").unlink()
    with pytest.raises(FailedPrecondition) as refused:
        async with disk.server():
            pass
    assert refused.value.reason is Reason.UPSTREAM_INVALID
    await holds(upstream, SECOND, SECOND_ROOT, takes=False)
    async with disk.server() as server:
        assert signs(server) == SECOND.certificate


@pytest.mark.invariant(12)
async def test_a_server_that_is_started_again_goes_on_whatever_is_in_the_folder(
    disk: Disk, upstream: FromFolder
) -> None:
    async with disk.server() as server:
        await server.join(nodes()[0])
    for spoil in ("truncated", "empty", "gone"):
        put(upstream.folder, {"ca-cert.pem": b"-----BEGIN"} if spoil == "truncated" else {})
        if spoil == "gone":
            upstream.folder.rmdir()
        async with disk.server() as server:
            assert signs(server) == FIRST.certificate
            judged(server, (await server.join(nodes()[0])).svid)
            condition = upstream.keeper.condition()
            assert condition.status().reason == "upstream_invalid"
            assert from_timestamp(condition.status().lasts_until) == FIRST.certificate.not_valid_after_utc
            assert condition.check(server.clock.now()).health is Health.DEGRADED


@pytest.mark.invariant(3, 4, 5)
async def test_another_authority_under_the_same_root_comes_by_a_rotation(server: Server, upstream: FromFolder) -> None:
    server.nodes[0].is_silent = True
    before = server.authorities.sequences().x509
    await holds(upstream, NEXT, FIRST_ROOT)
    await server.until(lambda: server.rotator.running is not None)
    assert server.rotator.running is not None
    assert server.rotator.running.kind is ISSUER
    assert server.rotator.running.why.endswith("holds another issuing authority")
    await settled_at_once(server)
    assert signs(server) == NEXT.certificate
    assert server.authorities.issuers()[0].certificate == NEXT.certificate
    assert len(server.authorities.issuers()) == 1
    assert server.authorities.sequences().x509 == before  # the roots are the same, so nobody is sent anything
    assert all(judged(server, node.svid).chain[1:] == (NEXT.certificate,) for node in server.nodes)


async def settled_at_once(server: Server) -> None:
    server.nodes[0].is_silent = False
    rotation = await server.over()
    assert (rotation.phase, rotation.alarm) == (Phase.DONE, "")


@pytest.mark.invariant(3, 4, 5)
async def test_a_folder_under_another_root_comes_by_a_rotation_that_everybody_acknowledges(
    server: Server, upstream: FromFolder
) -> None:
    first, second = server.nodes
    first.is_silent = True
    await holds(upstream, SECOND, SECOND_ROOT)
    await server.phase(Phase.OBSERVE)
    for _ in range(100):
        await server.turn()
        assert signs(server) == FIRST.certificate  # the new root signs nothing yet
    assert roots(server) == certificates_of(FIRST_ROOT, SECOND_ROOT)
    assert any(name.startswith("node-1") for name in server.holders())
    first.is_silent = False
    await server.phase(Phase.RENEW)
    second.is_silent = True
    await server.phase(Phase.DRAIN)
    assert signs(server) == SECOND.certificate
    assert roots(server) == certificates_of(FIRST_ROOT, SECOND_ROOT)  # node 2 hangs on the old one
    second.is_silent = False
    await server.over()
    assert roots(server) == certificates_of(SECOND_ROOT)
    assert server.active(AuthorityKind.ROOT).certificate == SECOND_ROOT.certificate
    assert all(judged(server, node.svid).chain[1:] == (SECOND.certificate,) for node in server.nodes)


async def test_a_root_that_is_listed_is_trusted_at_once_and_one_that_is_not_goes_after_a_minute(
    server: Server, upstream: FromFolder
) -> None:
    await holds(upstream, FIRST, FIRST_ROOT, also=(SECOND_ROOT,))
    assert roots(server) == certificates_of(FIRST_ROOT, SECOND_ROOT)
    await holds(upstream, FIRST, FIRST_ROOT)
    await server.turn(50)
    await upstream.look()
    assert roots(server) == certificates_of(FIRST_ROOT, SECOND_ROOT)  # half a file may look like this
    await server.turn(11)
    await upstream.look()
    assert roots(server) == certificates_of(FIRST_ROOT)
    assert server.rotator.current is None
    acts = [act.split()[0] for act in await server.disk.acts() if act.startswith("upstream")]
    assert acts == ["upstream.root.add", "upstream.root.drop"]


async def test_a_root_that_was_left_out_for_a_moment_stays(server: Server, upstream: FromFolder) -> None:
    await holds(upstream, FIRST, FIRST_ROOT, also=(SECOND_ROOT,))
    for _ in range(3):
        await holds(upstream, FIRST, FIRST_ROOT)
        await server.turn(40)
        await upstream.look()
        assert roots(server) == certificates_of(FIRST_ROOT, SECOND_ROOT)
        await holds(upstream, FIRST, FIRST_ROOT, also=(SECOND_ROOT,))
        await server.turn(40)
        assert roots(server) == certificates_of(FIRST_ROOT, SECOND_ROOT)


async def test_the_old_root_stays_for_as_long_as_it_is_listed(server: Server, upstream: FromFolder) -> None:
    await holds(upstream, SECOND, SECOND_ROOT, also=(FIRST_ROOT,))
    await settled(server)
    assert signs(server) == SECOND.certificate
    assert roots(server) == certificates_of(FIRST_ROOT, SECOND_ROOT)  # other clusters are under it still
    await holds(upstream, SECOND, SECOND_ROOT)
    await server.turn(61)
    await upstream.look()
    assert roots(server) == certificates_of(SECOND_ROOT)


async def test_the_three_steps_of_many_clusters(server: Server, upstream: FromFolder) -> None:
    await holds(upstream, FIRST, FIRST_ROOT, also=(SECOND_ROOT,))  # every cluster trusts the new root
    await server.turn(61)
    assert (signs(server), server.rotator.current) == (FIRST.certificate, None)
    await holds(upstream, SECOND, SECOND_ROOT, also=(FIRST_ROOT,))  # each gets an authority under it
    await settled(server)
    assert roots(server) == certificates_of(FIRST_ROOT, SECOND_ROOT)
    await holds(upstream, SECOND, SECOND_ROOT)  # and when all have, the old one goes
    await server.turn(61)
    await upstream.look()
    assert roots(server) == certificates_of(SECOND_ROOT)
    assert len([each for each in server.authorities.authorities() if each.kind is AuthorityKind.ROOT]) == 1


BREAKING = {
    "its root is gone": contents(FIRST, SECOND_ROOT),
    "expired": contents(an_issuer(SECOND_ROOT, lifetime=timedelta(0)), SECOND_ROOT),
    "of another domain": contents(an_issuer(SECOND_ROOT, uri="spiffe://b.test"), SECOND_ROOT),
    "a root of a name that is in force": contents(an_issuer(twin := a_root("first")), twin),
    "the key of the authority in force, under another root": contents(
        an_issuer(SECOND_ROOT, key=FIRST.key), SECOND_ROOT
    ),
    "nothing": {},
}


@pytest.mark.parametrize("files", BREAKING.values(), ids=BREAKING)
async def test_whatever_is_wrong_with_the_folder_what_is_in_force_stays_and_it_is_said_once(
    server: Server, upstream: FromFolder, files: dict[str, bytes]
) -> None:
    put(upstream.folder, files)
    for _ in range(5):
        await upstream.look()
        await server.turn(30)
    assert (signs(server), roots(server)) == (FIRST.certificate, certificates_of(FIRST_ROOT))
    assert server.rotator.current is None
    status = upstream.keeper.condition().status()
    assert (status.good, status.kind, status.reason) == (False, "files", "upstream_invalid")
    assert from_timestamp(status.since) == server.clock.now() - timedelta(seconds=150)
    assert len([act for act in await server.disk.acts() if act.startswith("upstream.read")]) == 1
    await holds(upstream, FIRST, FIRST_ROOT)
    assert upstream.keeper.condition().status().good


@pytest.mark.parametrize("phase", [Phase.OBSERVE, Phase.DRAIN])
async def test_a_folder_that_changes_again_meanwhile_is_taken_after_what_runs(
    server: Server, upstream: FromFolder, phase: Phase
) -> None:
    await holds(upstream, SECOND, SECOND_ROOT)
    await held_in(server, phase)
    await holds(upstream, THIRD, THIRD_ROOT)
    await server.turn(5)
    server.nodes[1].is_silent = False
    await server.over()
    assert signs(server) == SECOND.certificate
    await settled(server)
    assert (signs(server), roots(server)) == (THIRD.certificate, certificates_of(THIRD_ROOT))
    assert all(judged(server, node.svid).chain[1:] == (THIRD.certificate,) for node in server.nodes)


async def held_in(server: Server, phase: Phase) -> None:
    """Until the rotation is in this phase, which the second node's proxy does not let it leave."""
    server.nodes[1].is_silent = phase is Phase.OBSERVE
    await server.phase(Phase.OBSERVE)
    if phase is not Phase.OBSERVE:
        await server.phase(Phase.RENEW)
        server.nodes[1].is_silent = True
        await server.phase(phase)


@pytest.mark.parametrize("phase", [Phase.OBSERVE, Phase.DRAIN])
async def test_a_folder_that_breaks_meanwhile_holds_up_nothing(
    server: Server, upstream: FromFolder, phase: Phase
) -> None:
    await holds(upstream, SECOND, SECOND_ROOT)
    await held_in(server, phase)
    put(upstream.folder, {})
    await upstream.look()
    server.nodes[1].is_silent = False
    rotation = await server.over()
    assert (rotation.phase, signs(server)) == (Phase.DONE, SECOND.certificate)
    assert roots(server) == certificates_of(SECOND_ROOT)  # as the folder said when it was good


async def test_a_folder_that_is_put_back_meanwhile_brings_everybody_back(server: Server, upstream: FromFolder) -> None:
    server.nodes[0].is_silent = True
    await holds(upstream, SECOND, SECOND_ROOT)
    await server.phase(Phase.OBSERVE)
    await holds(upstream, FIRST, FIRST_ROOT)
    server.nodes[0].is_silent = False
    await server.over()
    await settled(server)
    assert (signs(server), roots(server)) == (FIRST.certificate, certificates_of(FIRST_ROOT))
    assert all(judged(server, node.svid) for node in server.nodes)


async def test_what_a_person_aborts_is_begun_again_after_a_minute_or_by_hand(
    server: Server, upstream: FromFolder
) -> None:
    server.nodes[0].is_silent = True
    await holds(upstream, NEXT, FIRST_ROOT)
    await server.phase(Phase.OBSERVE)
    await server.steering.abort(why="not now", by=ADMINISTRATOR)
    await server.over()
    await server.turn(50)
    assert (signs(server), server.rotator.running) == (FIRST.certificate, None)
    await server.begin(ISSUER)
    await server.phase(Phase.OBSERVE)
    await server.steering.abort(why="still not", by=ADMINISTRATOR)
    await server.over()
    server.nodes[0].is_silent = False
    await server.turn(60)
    await server.turn()
    await server.over()
    assert signs(server) == NEXT.certificate
    assert len(server.authorities.issuers()) == 1


async def test_what_is_not_this_servers_to_do_is_refused_with_what_to_do(server: Server) -> None:
    for kind in (ROOT, ISSUER):
        with pytest.raises(FailedPrecondition) as refused:
            await server.begin(kind)
        assert refused.value.reason is Reason.UPSTREAM_DECIDES
    with pytest.raises(FailedPrecondition) as refused:
        await server.authorities.sign_downstream(csr(), lifetime=DAY)
    assert refused.value.reason is Reason.UPSTREAM_CANNOT_SIGN
    assert "citadel-cli root sign" in refused.value.fix
    await server.begin(SVID)
    assert (await server.over()).phase is Phase.DONE


@pytest.mark.invariant(6)
async def test_towards_its_end_an_authority_signs_shorter_and_then_nothing_and_comes_back_by_itself(
    server: Server, upstream: FromFolder, caplog: pytest.LogCaptureFixture
) -> None:
    end = FIRST.certificate.not_valid_after_utc
    server.clock.leap((end - server.clock.now() - timedelta(minutes=30)).total_seconds())
    await upstream.look()
    condition = upstream.keeper.condition()
    assert "holds nothing newer than the issuing authority that ends 2027-01-01" in condition.check(end).text
    assert "in 30m" in condition.check(server.clock.now()).text
    for _ in range(20):
        await server.turn(1)
    acts = await server.disk.acts()
    assert [act for act in acts if act.startswith(("issuer", "rotation"))] == []
    assert caplog.text.count("nothing new") == 0
    assert (await server.join(nodes()[0])).svid.not_after == end  # type: ignore[union-attr] # it joined just now
    server.clock.leap(1800)
    with pytest.raises(Unavailable) as refused:
        server.authorities.issuing()
    assert refused.value.reason is Reason.ISSUER_UNAVAILABLE
    assert "nothing is issued now" in upstream.keeper.condition().check(server.clock.now()).text
    late = an_issuer(FIRST_ROOT, "late", not_after=end + DAY * 365)
    await holds(upstream, late, FIRST_ROOT)
    await server.until(lambda: signs_now(server) == late.certificate)


def signs_now(server: Server) -> x509.Certificate | None:
    try:
        return signs(server)
    except Unavailable:
        return None


async def test_a_successor_is_taken_at_the_last_moment_whoever_has_not_heard_of_it(
    server: Server, upstream: FromFolder
) -> None:
    server.nodes[0].is_silent = True
    late = an_issuer(FIRST_ROOT, "late", lifetime=DAY * 900)
    server.clock.leap((FIRST.certificate.not_valid_after_utc - server.clock.now() - 6 * HOUR).total_seconds())
    await holds(upstream, late, FIRST_ROOT)
    await server.until(lambda: signs_now(server) == late.certificate)


@pytest.mark.parametrize("is_paused", [True, False])
async def test_what_is_in_the_way_of_the_last_successor_makes_way(
    server: Server, upstream: FromFolder, *, is_paused: bool
) -> None:
    late_root = a_root("late root", lifetime=DAY * 3650)
    late, end = an_issuer(late_root, "late", lifetime=DAY * 900), FIRST.certificate.not_valid_after_utc
    server.nodes[0].hangs = True
    if is_paused:
        await holds(upstream, late, late_root)
        await server.phase(Phase.OBSERVE)
        await server.steering.pause(why="wait", by=ADMINISTRATOR)
    else:
        await server.begin(SVID)
        await holds(upstream, late, late_root)
    await server.turn()
    server.clock.leap((end - server.clock.now() - 20 * HOUR).total_seconds())
    await server.until(lambda: signs_now(server) == late.certificate)


async def test_a_new_certificate_for_the_same_key_makes_nobody_renew(server: Server, upstream: FromFolder) -> None:
    held = [node.svid for node in server.nodes]
    renewed = an_issuer(FIRST_ROOT, "first issuer", key=FIRST.key, lifetime=DAY * 700)
    await holds(upstream, renewed, FIRST_ROOT)
    await settled(server)
    assert signs(server) == renewed.certificate
    assert [node.orders for node in server.nodes] == [[], []]
    assert [judged(server, node.svid) for node in server.nodes] == held
    # The next one, with a key of its own, goes the whole way.
    await holds(upstream, NEXT, FIRST_ROOT)
    await settled(server)
    assert all(judged(server, node.svid).chain[1:] == (NEXT.certificate,) for node in server.nodes)


async def test_where_lists_are_pushed_a_key_is_never_used_again(disk: Disk, upstream: FromFolder) -> None:
    upstream.alone = True
    async with disk.server() as server:
        assert [each.issuer for each in server.lists.current.of_leaf_issuers()] == [FIRST.certificate]
        assert not server.lists.trouble
        await holds(upstream, an_issuer(FIRST_ROOT, "again", key=FIRST.key, lifetime=DAY * 700), FIRST_ROOT)
        assert (
            "holds an authority with the key of one that is in force"
            in upstream.keeper.condition().check(server.clock.now()).text
        )


async def test_where_other_clusters_may_be_no_lists_are_pushed(server: Server) -> None:
    assert not server.lists.current.lists
    assert server.lists.trouble


@pytest.mark.invariant(12)
@pytest.mark.parametrize("is_changed_again", [False, True])
async def test_killed_after_any_write_a_server_takes_what_the_folder_holds_by_then(
    database: Database, tmp_path: Path, upstream: FromFolder, *, is_changed_again: bool
) -> None:
    crash_after, has_died = 0, True
    while has_died:
        # What is prepared and not minted yet is what another folder could spoil; later it makes no difference.
        crash_after += 1 if crash_after < _MINTED_BY else 5
        await _emptied(database)
        await holds(upstream, FIRST, FIRST_ROOT, takes=False)
        disk = Disk(database, tmp_path / f"keys-{crash_after}", FakeClock(), parent=upstream)
        async with disk.server():
            pass  # this is not about the first start
        has_died = await _killed(disk, upstream, crash_after=crash_after)
        issuer, root = (THIRD, THIRD_ROOT) if is_changed_again else (SECOND, SECOND_ROOT)
        await holds(upstream, issuer, root, takes=False)
        async with disk.server() as server:
            await server.join(nodes()[0])
            while signs(server) != issuer.certificate:
                await settled(server)
            await server.over()
            assert roots(server) == certificates_of(root)
            assert len(server.authorities.authorities()) == 2
    assert crash_after > 2 * _MINTED_BY


_MINTED_BY = 10  # writes


async def _killed(disk: Disk, upstream: FromFolder, *, crash_after: int) -> bool:
    """Whether the server died in the rotation that takes the second authority."""
    fate = Fate()
    try:
        async with disk.server(fate) as server:
            await server.join(nodes()[0])
            await holds(upstream, SECOND, SECOND_ROOT, takes=False)
            fate.writes, fate.crash_after = 0, crash_after
            await upstream.look()
            await settled(server)
    except Crash:
        return True
    return False


async def _emptied(database: Database) -> None:
    async with database.transaction() as connection:
        for table in (authorities, bundles, jwt_authorities, rotations, revocation_lists, ledger):
            await connection.execute(delete(table))


async def test_from_a_root_of_its_own_to_a_folder_and_back(
    database: Database, tmp_path: Path, clock: FakeClock, upstream: FromFolder
) -> None:
    disk = Disk(database, tmp_path / "keys", clock)
    async with disk.server() as server:
        own = server.active(AuthorityKind.ROOT)
    disk.parent = upstream
    async with disk.server() as server:
        for node in nodes():
            await server.join(node)
        assert server.active(AuthorityKind.ROOT).id == own.id
        await settled(server)
        assert (signs(server), roots(server)) == (FIRST.certificate, certificates_of(FIRST_ROOT))
        (said,) = server.authorities.successions()  # who was away comes back by this
        assert said.heirs == (FIRST_ROOT.certificate,)
    disk.parent = None
    async with disk.server() as server:
        for node in nodes():
            await server.join(node)
        assert signs(server) == FIRST.certificate
        await server.begin(ROOT)
        await server.over()
        assert server.active(AuthorityKind.ROOT).key_id
        assert len(roots(server)) == 1
        assert all(judged(server, node.svid) for node in server.nodes)


@pytest.mark.parametrize("is_running", [False, True])
async def test_in_an_emergency_the_old_root_goes_for_good_whatever_is_listed(
    disk: Disk, server: Server, upstream: FromFolder, *, is_running: bool
) -> None:
    server.nodes[0].is_silent = True
    await holds(upstream, SECOND, SECOND_ROOT, also=(FIRST_ROOT,))
    if is_running:  # the one that the folder has begun waits for the first node
        await server.phase(Phase.OBSERVE)
    await server.begin(ROOT, deadline=timedelta(0), why="it leaked")
    await server.over()
    assert signs(server) == SECOND.certificate
    assert roots(server) == certificates_of(SECOND_ROOT)
    async with disk.server() as again:
        await holds(upstream, SECOND, SECOND_ROOT, also=(FIRST_ROOT, THIRD_ROOT))
        assert roots(again) == certificates_of(SECOND_ROOT, THIRD_ROOT)
        assert "a tainted root" in upstream.keeper.condition().check(again.clock.now()).text
        await holds(upstream, FIRST, FIRST_ROOT, also=(SECOND_ROOT, THIRD_ROOT))
        await again.turn(60)
        assert again.rotator.running is None
        assert again.authorities.prospects.pending() is None
        assert (signs(again), roots(again)) == (SECOND.certificate, certificates_of(SECOND_ROOT, THIRD_ROOT))
        await holds(upstream, SECOND, SECOND_ROOT)
        assert upstream.keeper.condition().status().good


@pytest.mark.parametrize("key", [certificates.rsa_key(4096), new_key(certificates.ec.SECP384R1())], ids=["rsa", "p384"])
async def test_authorities_of_other_keys_issue_good_svids(
    server: Server, upstream: FromFolder, key: certificates.PrivateKey
) -> None:
    root = a_root("another", key=key)
    issuer = an_issuer(root, "with another key", key=key if key.key_size < 2048 else certificates.rsa_key(2048))
    await holds(upstream, issuer, root)
    await settled(server)
    assert all(judged(server, node.svid).chain[1:] == (issuer.certificate,) for node in server.nodes)
