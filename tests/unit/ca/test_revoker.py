"""Revoking: what is meant, what it takes back, what gets nothing new, and that a crash changes nothing of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.x509 import ReasonFlags

from ca.revocation.bars import Bars
from ca.revocation.model import Revocation, RevocationKind
from ca.store.database import Database
from ca.store.rotations import SqlIssuedEnds
from citadel.errors import (
    CitadelError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Reason,
    Unavailable,
)
from citadel.spiffe import SpiffeId
from tests.clock import FakeClock
from tests.unit.ca.revoking import HOUR, Crash, FailingRevocations, Office
from tests.unit.ca.values import A_TEST, ADMINISTRATOR, NODE_1, NODE_2, NOW, SERVER

WEB = SpiffeId(A_TEST, "/web")
NewOffice = Callable[..., Office]


@pytest.fixture
def new_office(database: Database, tmp_path: Path, clock: FakeClock) -> NewOffice:
    """Another run of the server, on the same disk."""
    return lambda **more: Office(database, tmp_path / "keys", clock, **more)


@pytest.fixture
async def office(new_office: NewOffice) -> AsyncIterator[Office]:
    async with new_office().open() as opened:
        yield opened


def refused(office: Office, spiffe_id: SpiffeId, *, entry_id: str = "entry-1", agent: SpiffeId = NODE_1) -> bool:
    try:
        office.bars.refuse(spiffe_id, entry_id=entry_id, requested_by=agent)
    except PermissionDenied as error:
        return error.reason is Reason.IDENTITY_REVOKED
    return False


async def test_a_certificate_is_taken_back_and_its_entry_gets_no_other_at_that_agent(office: Office) -> None:
    issued, other = await office.issue(), await office.issue("/other", entry_id="entry-2")
    outcome = await office.revoke(issued.serial)
    assert not outcome.was_revoked
    assert (outcome.revocation.kind, outcome.revocation.certificates) == (RevocationKind.CERTIFICATE, 1)
    assert (office.is_listed(issued), office.is_listed(other)) == (True, False)
    assert refused(office, WEB)
    assert not refused(office, WEB, agent=NODE_2), "another node's is not concerned"
    assert not refused(office, SpiffeId(A_TEST, "/other"), entry_id="entry-2")


async def test_a_serial_is_taken_as_other_tools_print_it(office: Office) -> None:
    issued = await office.issue()
    pairs = [issued.serial[at : at + 2].upper() for at in range(0, len(issued.serial), 2)]
    assert (await office.revoke(":".join(pairs))).revocation.target == issued.serial


@pytest.mark.invariant(5)
async def test_a_certificate_that_was_replaced_already_bars_nothing(office: Office) -> None:
    old, new = await office.issue(), await office.issue()
    outcome = await office.revoke(old.serial)
    assert (office.is_listed(old), office.is_listed(new)) == (True, False)
    assert not outcome.revocation.bars_anything
    assert not refused(office, WEB)


async def test_an_identity_is_taken_back_wherever_it_was_issued(office: Office) -> None:
    here, there = await office.issue(), await office.issue(requested_by=NODE_2, entry_id="entry-9")
    other = await office.issue("/other")
    outcome = await office.revoke(WEB)
    assert (outcome.revocation.kind, outcome.revocation.certificates) == (RevocationKind.IDENTITY, 2)
    assert [office.is_listed(each) for each in (here, there, other)] == [True, True, False]
    assert refused(office, WEB, entry_id="entry-of-tomorrow", agent=NODE_2)


async def test_agents_are_told_which_identities_are_revoked_as_a_whole_until_that_is_lifted(
    office: Office, new_office: NewOffice
) -> None:
    told: list[list[str]] = []
    office.bars.watch(lambda: told.append([name for each in office.bars.messages for name in each.spiffe_ids]))
    for path in ("/web", "/shop", "/other"):
        issued = await office.issue(path)
    await office.revoke(WEB)
    await office.revoke(SpiffeId(A_TEST, "/shop"))
    await office.revoke(issued.serial)
    await office.revoke("node-1")
    assert told == [[str(WEB)], [f"{A_TEST.id}/shop", str(WEB)]], "a certificate's or an agent's are in the lists"
    async with new_office().open() as after:
        assert after.bars.messages == office.bars.messages, "a restart changes nothing"
    await office.revoker.lift(str(WEB), reason="a test", by=ADMINISTRATOR)
    assert told[2:] == [[f"{A_TEST.id}/shop"]]


def test_very_many_revoked_identities_stand_in_messages_that_an_agent_can_take() -> None:
    longest = "p" * (2048 - len(f"{A_TEST.id}/") - 5)
    names = [f"{A_TEST.id}/{number:05}{longest}" for number in range(1001)]
    bars = Bars()
    bars.replace(
        Revocation(
            id=str(number),
            kind=RevocationKind.IDENTITY,
            target=name,
            reason="a test",
            code=ReasonFlags.unspecified,
            revoked_at=NOW,
            revoked_by="a test",
        )
        for number, name in enumerate(names)
    )
    assert [name for each in bars.messages for name in each.spiffe_ids] == names
    assert max(each.ByteSize() for each in bars.messages) < 1.1 * 1024 * 1024


@pytest.mark.parametrize("name", ["node-1", str(NODE_1)])
async def test_an_agent_is_banned_and_all_that_was_issued_through_it_taken_back(office: Office, name: str) -> None:
    own = await office.issue(spiffe_id=NODE_1, entry_id="")
    web, elsewhere = await office.issue(), await office.issue(requested_by=NODE_2)
    outcome = await office.revoke(name)
    assert (outcome.revocation.kind, outcome.revocation.certificates) == (RevocationKind.AGENT, 2)
    assert [office.is_listed(each) for each in (own, web, elsewhere)] == [True, True, False]
    assert office.agents.banned == {NODE_1}


async def test_of_an_agent_that_was_evicted_what_is_left_is_taken_back(office: Office) -> None:
    left = await office.issue(requested_by=NODE_2)
    await office.revoke("node-2")
    assert office.is_listed(left)


NOTHING = [
    pytest.param("00ff", NotFound, Reason.NOTHING_TO_REVOKE, id="a serial that nobody has"),
    pytest.param(WEB, NotFound, Reason.NOTHING_TO_REVOKE, id="an identity whose certificates have all ended"),
    pytest.param(SpiffeId(A_TEST, "/no"), NotFound, Reason.NOTHING_TO_REVOKE, id="an identity that never had one"),
    pytest.param("spiffe://b.test/web", NotFound, Reason.NOTHING_TO_REVOKE, id="another trust domain"),
    pytest.param(SERVER, FailedPrecondition, Reason.NOTHING_TO_REVOKE, id="the server itself"),
    pytest.param("nobody", NotFound, Reason.NOTHING_TO_REVOKE, id="an agent that never joined"),
    pytest.param("spiffe://a.test/../x", InvalidArgument, Reason.ID_MALFORMED, id="no SPIFFE ID"),
    pytest.param("", InvalidArgument, Reason.ID_MALFORMED, id="nothing"),
]


@pytest.mark.parametrize(("target", "kind", "reason"), NOTHING)
async def test_what_is_unknown_or_has_ended_is_told_and_nothing_changes(
    office: Office, target: object, kind: type[CitadelError], reason: Reason
) -> None:
    await office.issue(not_after=NOW - HOUR)
    before = office.lists.current.version
    with pytest.raises(kind) as told:
        await office.revoke(target)
    assert told.value.reason is reason
    assert office.lists.current.version == before
    assert list(await office.store.newest(10)) == []


async def test_a_certificate_that_has_ended_is_told_when(office: Office) -> None:
    ended = await office.issue(not_after=NOW - HOUR)
    with pytest.raises(FailedPrecondition, match=r"ended at 2025-12-31T23:00:00Z") as told:
        await office.revoke(ended.serial)
    assert told.value.reason is Reason.NOTHING_TO_REVOKE


async def test_the_certificate_of_an_agent_is_not_taken_back_alone(office: Office) -> None:
    own = await office.issue(spiffe_id=NODE_1, entry_id="")
    with pytest.raises(FailedPrecondition) as told:
        await office.revoke(own.serial)
    assert f"citadel-cli revoke {NODE_1}" in told.value.fix


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "x" * 501])
async def test_a_revocation_says_why(office: Office, reason: str) -> None:
    issued = await office.issue()
    with pytest.raises(InvalidArgument):
        await office.revoke(issued.serial, reason=reason)


@pytest.mark.invariant(10)
async def test_it_is_audited_once_and_a_second_time_changes_nothing(office: Office) -> None:
    await office.issue()
    first = await office.revoke(WEB)
    version = office.lists.current.version
    second = await office.revoke(WEB)
    assert second.was_revoked
    assert second.revocation == first.revocation
    assert office.lists.current.version == version
    assert len(await office.store.newest(10)) == 1


async def test_lifted_it_is_issued_again_and_what_was_taken_back_stays_so(office: Office) -> None:
    issued = await office.issue()
    outcome = await office.revoke(WEB)
    lifted = await office.revoker.lift(str(WEB), reason="it was a test", by=ADMINISTRATOR)
    assert (lifted.id, lifted.bars_anything) == (outcome.revocation.id, False)
    assert not refused(office, WEB)
    assert office.is_listed(issued)
    with pytest.raises(NotFound):
        await office.revoker.lift(str(WEB), reason="again", by=ADMINISTRATOR)


async def test_lifting_that_of_an_agent_lets_it_in_again(office: Office) -> None:
    outcome = await office.revoke("node-1")
    await office.revoker.lift(outcome.revocation.id, reason="found", by=ADMINISTRATOR)
    assert office.agents.banned == set()


@pytest.mark.invariant(2)
async def test_what_is_signed_while_it_is_revoked_is_refused_or_taken_back(office: Office) -> None:
    """Whichever comes first: a row that passed is in the list, and one that did not was never handed out."""
    await office.issue()
    revoking = asyncio.create_task(office.revoke(WEB))
    outcomes = await asyncio.gather(*(office.issue() for _ in range(200)), return_exceptions=True)
    await revoking
    came_through = [each for each in outcomes if not isinstance(each, BaseException)]
    assert all(office.is_listed(each) for each in came_through)
    stopped = [each for each in outcomes if isinstance(each, BaseException)]
    assert {each.reason for each in stopped if isinstance(each, CitadelError)} <= {Reason.IDENTITY_REVOKED}
    with pytest.raises(CitadelError):
        await office.issue()


@pytest.mark.invariant(12)
@pytest.mark.parametrize("target", [str(WEB), "node-1"])
async def test_a_crash_at_any_write_is_gone_on_from(new_office: NewOffice, target: str) -> None:
    async with new_office().open() as before:
        issued = await before.issue()
    # The first two writes would be lists of authorities, which are there already.
    for crash_after in (1, 2, 3):
        async with new_office(crash_after=crash_after).open() as dying:
            with pytest.raises(Crash):
                await dying.revoke(target)
        async with new_office().open() as after:
            assert after.is_listed(issued)
            assert (await after.revoke(target)).was_revoked
            if target == "node-1":
                assert after.agents.banned == {NODE_1} or dying.agents.banned == {NODE_1}
            else:
                assert refused(after, WEB)
            for revocation in await after.store.unlifted():
                assert revocation.completed_at is not None
                await after.revoker.lift(revocation.id, reason="once more", by=ADMINISTRATOR)
            issued = await after.issue()


@pytest.mark.invariant(12)
@pytest.mark.parametrize("failing", ["complete", "put_list"])
async def test_a_store_that_fails_half_way_never_makes_it_look_done(office: Office, failing: str) -> None:
    assert isinstance(office.store, FailingRevocations)
    issued = await office.issue()
    office.store.fails = failing
    for _ in range(2):
        with pytest.raises(Unavailable):
            await office.revoke(WEB)
    assert refused(office, WEB), "meanwhile nothing new is issued"
    office.store.fails = ""
    assert (await office.revoke(WEB)).was_revoked
    assert office.is_listed(issued)
    assert len(await office.store.newest(10)) == 1


@pytest.mark.invariant(12)
async def test_what_failed_half_way_is_done_as_soon_as_it_can_be(office: Office) -> None:
    assert isinstance(office.store, FailingRevocations)
    issued = await office.issue()
    office.store.fails = "put_list"
    with pytest.raises(Unavailable):
        await office.revoke(WEB)
    running = asyncio.create_task(office.revoker.run())
    await office.clock.advance(3)
    assert not office.is_listed(issued)
    office.store.fails = ""
    async with asyncio.timeout(10):
        while not office.is_listed(issued):
            await office.clock.advance(1)
            await asyncio.sleep(0.01)  # SQL goes on in threads that the fake clock does not wait for
    running.cancel()


async def test_a_clock_that_jumps_ahead_takes_nothing_out_of_the_lists(office: Office) -> None:
    first, second = await office.issue(), await office.issue("/other", entry_id="entry-2")
    await office.revoke(first.serial)
    office.clock.jump(2 * HOUR)
    await office.revoke(second.serial)
    assert office.is_listed(first)
    assert office.is_listed(second), "valid for everybody whose clock is right"


async def test_an_agent_that_was_unbanned_meanwhile_is_banned_again(office: Office) -> None:
    await office.issue()
    await office.revoke("node-1")
    office.agents.banned.clear()
    assert (await office.revoke("node-1")).was_revoked
    assert office.agents.banned == {NODE_1}


async def test_what_is_revoked_holds_nobody_up_who_is_waited_for(office: Office) -> None:
    await office.issue()
    ends = SqlIssuedEnds(database=office.database)
    assert await ends.last_ends(now=NOW, issued_after=NOW, without=()) == {str(NODE_1): NOW + HOUR}
    await office.revoke(WEB)
    assert await ends.last_ends(now=NOW, issued_after=NOW, without=()) == {}


async def test_a_revoked_certificate_is_forgotten_once_it_has_ended(office: Office) -> None:
    await office.issue()
    await office.revoke(WEB)
    assert len(await office.store.revoked(NOW)) == 1
    assert list(await office.store.revoked(NOW + HOUR + timedelta(seconds=1))) == []
