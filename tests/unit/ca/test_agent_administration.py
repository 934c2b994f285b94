"""Ban, unban and evict: what they do to an agent, to what is in flight, and to the audit log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from ca.store.database import Database
from citadel.errors import CitadelError, InvalidArgument, NotFound, PermissionDenied, Reason, Unauthenticated
from tests.clock import FakeClock
from tests.csrs import csr, new_key
from tests.unit.ca.joiner import Joiner, pem
from tests.unit.ca.values import ADMINISTRATOR, NODE_1

Change = Callable[[Joiner], Awaitable[object]]


@pytest.fixture
def server(database: Database, clock: FakeClock) -> Joiner:
    return Joiner(database, clock)


def ban(server: Joiner) -> Awaitable[object]:
    return server.administration.ban("node-1", why="stolen", by=ADMINISTRATOR)


def evict(server: Joiner) -> Awaitable[object]:
    return server.administration.evict("node-1", why="gone", by=ADMINISTRATOR)


async def test_a_banned_agent_is_refused_until_it_is_unbanned_and_then_needs_no_new_token(server: Joiner) -> None:
    svid = await server.joining.join(await server.token(), csr())
    await ban(server)
    assert [(a.banned, a.ban_reason) for a in (await server.recorded()).values()] == [(True, "stolen")]
    with pytest.raises(PermissionDenied) as refused:
        await server.roster.authenticate(pem(svid))
    assert refused.value.reason is Reason.AGENT_BANNED
    await server.administration.unban("node-1", why="found", by=ADMINISTRATOR)
    assert [(a.banned, a.ban_reason) for a in (await server.recorded()).values()] == [(False, "")]
    await server.roster.authenticate(pem(svid))


async def test_a_ban_outlives_a_restart(database: Database, clock: FakeClock, server: Joiner) -> None:
    svid = await server.joining.join(await server.token(), csr())
    await ban(server)
    again = Joiner(database, clock)
    await again.roster.start()
    with pytest.raises(PermissionDenied):
        await again.roster.authenticate(pem(svid))


async def test_no_token_brings_a_banned_agent_back(server: Joiner) -> None:
    earlier, key = await server.token(), new_key()
    await server.joining.join(await server.token(), csr(key))
    await ban(server)
    for token in (earlier, await server.token()):
        with pytest.raises(PermissionDenied) as refused:
            await server.joining.join(token, csr(key))
        assert refused.value.reason is Reason.AGENT_BANNED


async def test_an_evicted_agent_is_unknown_and_joins_again_only_with_a_new_token(server: Joiner) -> None:
    token, key = await server.token(), new_key()
    svid = await server.joining.join(token, csr(key))
    await evict(server)
    assert await server.recorded() == {}
    with pytest.raises(PermissionDenied) as refused:
        await server.roster.authenticate(pem(svid))
    assert refused.value.reason is Reason.AGENT_UNKNOWN
    with pytest.raises(Unauthenticated) as used:  # though a token answers its own key again: decision 11
        await server.joining.join(token, csr(key))
    assert used.value.reason is Reason.TOKEN_USED
    await server.roster.authenticate(pem(await server.joining.join(await server.token(), csr())))
    with pytest.raises(PermissionDenied) as old_key:
        await server.roster.authenticate(pem(svid))
    assert old_key.value.reason is Reason.AGENT_KEY_MISMATCH


async def test_evicting_a_banned_agent_forgets_the_ban(server: Joiner) -> None:
    await server.joining.join(await server.token(), csr())
    await ban(server)
    await evict(server)
    await server.joining.join(await server.token(), csr())


@pytest.mark.parametrize(("change", "reason"), [(ban, Reason.AGENT_BANNED), (evict, Reason.AGENT_UNKNOWN)])
async def test_a_change_wakes_the_open_streams_of_the_agent(server: Joiner, change: Change, reason: Reason) -> None:
    _, svid = await server.roster.authenticate(pem(await server.joining.join(await server.token(), csr())))
    stream = asyncio.Event()
    server.roster.watch(stream, NODE_1)
    await change(server)
    assert stream.is_set()
    with pytest.raises(PermissionDenied) as refused:
        server.roster.check(svid)
    assert refused.value.reason is reason


async def joining(server: Joiner) -> None:
    await server.joining.join(await server.token(), csr())


async def renewing(server: Joiner) -> None:
    _, svid = await server.roster.authenticate(pem(await server.joining.join(await server.token(), csr())))
    server.ledger.committing.clear()
    server.ledger.may_commit.clear()
    await server.roster.renew(svid, csr(), issuer=server.issuer)


@pytest.mark.parametrize(("change", "reason"), [(ban, Reason.AGENT_BANNED), (evict, Reason.AGENT_UNKNOWN)])
@pytest.mark.parametrize("in_flight", [joining, renewing])
async def test_what_is_being_committed_when_the_change_comes_is_not_answered(
    server: Joiner, change: Change, reason: Reason, in_flight: Callable[[Joiner], Awaitable[None]]
) -> None:
    if in_flight is joining:
        server.ledger.may_commit.clear()
    asking = asyncio.ensure_future(in_flight(server))
    while server.ledger.may_commit.is_set():
        await asyncio.sleep(0)
    await server.ledger.committing.wait()
    changing = asyncio.ensure_future(change(server))
    async with asyncio.timeout(10):
        while not server.roster.is_shut_out(NODE_1):
            await asyncio.sleep(0)
    for _ in range(50):
        await asyncio.sleep(0)
    assert not changing.done()  # the row is to be in the ledger for whoever looks there after it
    server.ledger.may_commit.set()
    await changing
    with pytest.raises(PermissionDenied) as refused:
        await asking
    assert refused.value.reason is reason


@pytest.mark.invariant(10)
async def test_each_act_is_in_the_audit_log_with_who_and_why(server: Joiner) -> None:
    await server.joining.join(await server.token(), csr())
    await ban(server)
    await server.administration.unban("node-1", why="  found  ", by=ADMINISTRATOR)
    await evict(server)
    assert (await server.acts())[2:] == [
        ("uid:1000", "agent.ban", str(NODE_1), "stolen"),
        ("uid:1000", "agent.unban", str(NODE_1), "found"),
        ("uid:1000", "agent.evict", str(NODE_1), "gone"),
    ]


@pytest.mark.parametrize("name", ["node-1", str(NODE_1)])
async def test_an_agent_is_named_by_its_name_or_its_id(server: Joiner, name: str) -> None:
    await server.joining.join(await server.token(), csr())
    assert server.administration.find(name).spiffe_id == NODE_1


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("node-2", NotFound, Reason.AGENT_UNKNOWN),
        ("spiffe://b.test/citadel/agent/node-1", NotFound, Reason.AGENT_UNKNOWN),
        ("spiffe://a.test/citadel/server", NotFound, Reason.AGENT_UNKNOWN),
        ("x509pop/00", NotFound, Reason.AGENT_UNKNOWN),
        ("", InvalidArgument, Reason.ID_MALFORMED),
        ("a b", InvalidArgument, Reason.ID_MALFORMED),
        ("../server", InvalidArgument, Reason.ID_MALFORMED),
        ("spiffe://", InvalidArgument, Reason.TRUST_DOMAIN_MALFORMED),
    ],
)
async def test_who_is_no_agent_is_not_found(
    server: Joiner, name: str, error: type[CitadelError], reason: Reason
) -> None:
    await server.joining.join(await server.token(), csr())
    with pytest.raises(error) as refused:
        await server.administration.ban(name, why="stolen", by=ADMINISTRATOR)
    assert refused.value.reason is reason
    assert len(await server.acts()) == 2


@pytest.mark.parametrize("why", ["", "  "])
async def test_a_ban_without_a_reason_is_refused(server: Joiner, why: str) -> None:
    await server.joining.join(await server.token(), csr())
    with pytest.raises(InvalidArgument):
        await server.administration.ban("node-1", why=why, by=ADMINISTRATOR)
    assert not server.roster.is_banned(NODE_1)
