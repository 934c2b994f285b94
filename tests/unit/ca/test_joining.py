"""Tokens work once and briefly; agents are known by their row and recorded key, not by a valid chain alone."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import select

from ca.issuance.issuer import key_digest
from ca.issuance.press import IssuedSvid
from ca.store.database import Database
from ca.store.schema import tokens
from citadel.errors import CitadelError, InvalidArgument, PermissionDenied, Reason, Unauthenticated, Unavailable
from citadel.spiffe import SpiffeId
from tests import certificates
from tests.clock import FakeClock
from tests.csrs import csr, new_key
from tests.unit.ca.joiner import ISSUING, MINUTE, Joiner, pem
from tests.unit.ca.values import A_TEST, ADMINISTRATOR, NODE_1, NODE_2, agent, selectors


@pytest.fixture
def server(database: Database, clock: FakeClock) -> Joiner:
    return Joiner(database, clock)


async def test_a_token_makes_an_agent_with_a_recorded_key(server: Joiner, clock: FakeClock) -> None:
    key = new_key()
    svid = await server.joining.join(await server.token("node-1", "node:rack:a"), csr(key))
    assert svid.spiffe_id == NODE_1
    assert await server.recorded() == {
        NODE_1: agent(
            NODE_1, "node:name:node-1", "node:rack:a", key=key_digest(key.public_key()), joined_at=clock.now()
        )
    }


async def test_without_a_name_every_token_is_for_another_agent(server: Joiner) -> None:
    names = {(await server.joining.join(await server.token(""), csr())).spiffe_id for _ in range(3)}
    assert len(names) == 3


async def used(server: Joiner, clock: FakeClock) -> str:  # noqa: ARG001 - the form of the table
    token = await server.token()
    await server.joining.join(token, csr())
    return token


async def expired(server: Joiner, clock: FakeClock) -> str:
    token = await server.token()
    await clock.advance(600)
    return token


async def used_and_expired(server: Joiner, clock: FakeClock) -> str:
    token = await used(server, clock)
    await clock.advance(600)
    return token


async def forgotten(server: Joiner, clock: FakeClock) -> str:
    token = await used(server, clock)
    await clock.advance(timedelta(days=8).total_seconds())
    return token


async def made_up(server: Joiner, clock: FakeClock) -> str:  # noqa: ARG001 - the form of the table
    return "A" * 43


async def empty(server: Joiner, clock: FakeClock) -> str:  # noqa: ARG001 - the form of the table
    return ""


async def not_ascii(server: Joiner, clock: FakeClock) -> str:  # noqa: ARG001 - the form of the table
    return "\ud7ff" * 43


async def the_digest(server: Joiner, clock: FakeClock) -> str:  # noqa: ARG001 - the form of the table
    await server.token()
    async with server.database.transaction() as connection:
        return str(await connection.scalar(select(tokens.c.digest)))


BAD_TOKENS = [
    (used, Reason.TOKEN_USED),
    (expired, Reason.TOKEN_EXPIRED),
    (used_and_expired, Reason.TOKEN_USED),
    (forgotten, Reason.TOKEN_UNKNOWN),
    (made_up, Reason.TOKEN_UNKNOWN),
    (empty, Reason.TOKEN_UNKNOWN),
    (not_ascii, Reason.TOKEN_UNKNOWN),
    (the_digest, Reason.TOKEN_UNKNOWN),
]


@pytest.mark.parametrize(("make", "reason"), BAD_TOKENS)
async def test_a_bad_token_is_refused_with_its_reason(
    server: Joiner, clock: FakeClock, make: object, reason: Reason
) -> None:
    token = await make(server, clock)  # type: ignore[operator] # one of the functions above
    before, issued = await server.recorded(), len(server.ledger.rows)
    with pytest.raises(Unauthenticated) as refused:
        await server.joining.join(token, csr())
    assert refused.value.reason is reason
    assert not token or token not in str(refused.value)
    assert await server.recorded() == before
    assert len(server.ledger.rows) == issued


async def test_of_two_that_bring_one_token_at_once_exactly_one_wins(server: Joiner) -> None:
    for number in range(10):
        token = await server.token(f"node-{number}")
        keys = [new_key(), new_key()]
        results = await asyncio.gather(*(server.joining.join(token, csr(key)) for key in keys), return_exceptions=True)
        (winner,) = (key for key, result in zip(keys, results, strict=True) if isinstance(result, IssuedSvid))
        (loser,) = (result for result in results if isinstance(result, CitadelError))
        assert loser.reason is Reason.TOKEN_USED
        recorded = await server.recorded()
        assert recorded[SpiffeId(A_TEST, f"/citadel/agent/node-{number}")].key == key_digest(winner.public_key())


async def test_a_bad_request_does_not_use_the_token_up(server: Joiner) -> None:
    token = await server.token()
    with pytest.raises(InvalidArgument):
        await server.joining.join(token, b"garbage")
    assert await server.recorded() == {}
    await server.joining.join(token, csr())


async def test_joining_again_replaces_key_and_facts(server: Joiner) -> None:
    first = await server.joining.join(await server.token("node-1", "node:rack:a"), csr())
    second = await server.joining.join(await server.token("node-1", "node:rack:b"), csr())
    assert (await server.recorded())[NODE_1].selectors == selectors("node:name:node-1", "node:rack:b")
    await server.roster.authenticate(pem(second))
    with pytest.raises(PermissionDenied) as refused:
        await server.roster.authenticate(pem(first))
    assert refused.value.reason is Reason.AGENT_KEY_MISMATCH


async def test_a_banned_agent_does_not_come_back_by_a_token_and_the_token_stays_good(server: Joiner) -> None:
    token = await server.token()
    server.roster.put(agent(banned=True))
    with pytest.raises(PermissionDenied) as refused:
        await server.joining.join(token, csr())
    assert refused.value.reason is Reason.AGENT_BANNED
    server.roster.put(agent(banned=False))
    await server.joining.join(token, csr())


@pytest.mark.invariant(10)
async def test_the_store_knows_only_the_digest_of_a_token(server: Joiner) -> None:
    made = await server.joining.create_token(agent_name="", lifetime=None, selectors=frozenset(), by=ADMINISTRATOR)
    async with server.database.transaction() as connection:
        row = (await connection.execute(select(tokens))).one()
    assert made.secret not in repr(tuple(row))
    assert made.secret not in repr(made)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"agent_name": "Node"}, Reason.TOKEN_BAD_OPTIONS),
        ({"agent_name": "a/b"}, Reason.TOKEN_BAD_OPTIONS),
        ({"agent_name": ".."}, Reason.TOKEN_BAD_OPTIONS),
        ({"agent_name": "a\n"}, Reason.TOKEN_BAD_OPTIONS),
        ({"agent_name": "a" * 64}, Reason.TOKEN_BAD_OPTIONS),
        ({"lifetime": timedelta(seconds=-1)}, Reason.TOKEN_BAD_OPTIONS),
        ({"lifetime": timedelta(days=1, seconds=1)}, Reason.TOKEN_BAD_OPTIONS),
        ({"selectors": selectors("unix:uid:0")}, Reason.ENTRY_BAD_SELECTOR),
    ],
)
async def test_a_token_that_must_not_be_is_not_made(server: Joiner, changes: dict[str, object], reason: Reason) -> None:
    wanted: dict[str, object] = {"agent_name": "node-1", "lifetime": None, "selectors": frozenset()}
    with pytest.raises(InvalidArgument) as refused:
        await server.joining.create_token(**(wanted | changes), by=ADMINISTRATOR)  # type: ignore[arg-type] # a table
    assert refused.value.reason is reason


async def test_ended_tokens_are_forgotten_after_a_while(server: Joiner, clock: FakeClock) -> None:
    await server.token("old")
    await clock.advance(timedelta(days=8).total_seconds())
    await server.joining.join(await server.token("new"), csr())
    async with server.database.transaction() as connection:
        assert list(await connection.scalars(select(tokens.c.agent_id))) == ["spiffe://a.test/citadel/agent/new"]


def presented(*uris: str, **changes: object) -> bytes:
    return certificates.leaf(ISSUING, *uris, **changes).pem


@pytest.mark.parametrize(
    ("leaf", "error", "reason"),
    [
        pytest.param(b"garbage", Unauthenticated, Reason.AGENT_SVID_REFUSED, id="no certificate"),
        pytest.param(ISSUING.pem, Unauthenticated, Reason.AGENT_SVID_REFUSED, id="a CA certificate"),
        pytest.param(
            presented(names=None), Unauthenticated, Reason.AGENT_SVID_REFUSED, id="a certificate without an ID"
        ),
        pytest.param(presented(), PermissionDenied, Reason.AGENT_SVID_REFUSED, id="a workload's"),
        pytest.param(
            presented("spiffe://a.test/citadel/server"), PermissionDenied, Reason.AGENT_SVID_REFUSED, id="the server's"
        ),
        pytest.param(
            presented("spiffe://b.test/citadel/agent/node-1"),
            PermissionDenied,
            Reason.AGENT_SVID_REFUSED,
            id="an agent's of another domain",
        ),
        pytest.param(presented(str(NODE_2)), PermissionDenied, Reason.AGENT_UNKNOWN, id="an agent's that never joined"),
        pytest.param(presented(str(NODE_1)), PermissionDenied, Reason.AGENT_KEY_MISMATCH, id="another key"),
    ],
)
async def test_who_is_no_agent_is_refused(
    server: Joiner, leaf: bytes, error: type[CitadelError], reason: Reason
) -> None:
    server.roster.put(agent(NODE_1))
    with pytest.raises(error) as refused:
        await server.roster.authenticate(leaf)
    assert refused.value.reason is reason


async def test_an_agent_whose_certificate_ended_is_refused(server: Joiner, clock: FakeClock) -> None:
    svid = await server.joining.join(await server.token(), csr())
    await clock.advance(timedelta(minutes=30).total_seconds() - 1)
    await server.roster.authenticate(pem(svid))
    await clock.advance(1)
    with pytest.raises(Unauthenticated) as refused:
        await server.roster.authenticate(pem(svid))
    assert refused.value.reason is Reason.AGENT_SVID_EXPIRED


async def test_a_banned_agent_is_refused(server: Joiner) -> None:
    svid = await server.joining.join(await server.token(), csr())
    server.roster.put(agent(banned=True, key=server.roster.all()[NODE_1].key))
    with pytest.raises(PermissionDenied) as refused:
        await server.roster.authenticate(pem(svid))
    assert refused.value.reason is Reason.AGENT_BANNED


@pytest.mark.invariant(12)
async def test_both_keys_are_good_until_the_new_one_is_used(server: Joiner, clock: FakeClock) -> None:
    old = await server.joining.join(await server.token(), csr())
    _, who = await server.roster.authenticate(pem(old))
    new = await server.roster.renew(who, csr(), issuer=server.issuer)
    await server.recorded()
    await server.roster.authenticate(pem(old))  # the answer may have been lost: the old key still opens the door
    await server.roster.authenticate(pem(new))
    assert (await server.recorded())[NODE_1].next_key is None
    await clock.advance(29)
    await server.roster.authenticate(pem(old))  # what the agent began under it may end in peace
    await clock.advance(1)
    with pytest.raises(PermissionDenied) as refused:
        await server.roster.authenticate(pem(old))
    assert refused.value.reason is Reason.AGENT_KEY_MISMATCH


async def test_a_re_join_gives_a_replaced_key_no_grace(server: Joiner) -> None:
    old = await server.joining.join(await server.token(), csr())
    _, who = await server.roster.authenticate(pem(old))
    await server.roster.authenticate(pem(await server.roster.renew(who, csr(), issuer=server.issuer)))
    await server.joining.join(await server.token(), csr())
    with pytest.raises(PermissionDenied) as refused:
        await server.roster.authenticate(pem(old))
    assert refused.value.reason is Reason.AGENT_KEY_MISMATCH


@pytest.mark.invariant(12)
async def test_a_join_whose_answer_was_lost_can_be_asked_again_with_the_same_key_only(
    server: Joiner, clock: FakeClock
) -> None:
    token, key = await server.token(lifetime=MINUTE), new_key()
    server.ledger.fails = True
    with pytest.raises(Unavailable):
        await server.joining.join(token, csr(key))
    server.ledger.fails = False
    with pytest.raises(Unauthenticated) as other_key:
        await server.joining.join(token, csr())
    assert other_key.value.reason is Reason.TOKEN_USED
    await server.roster.authenticate(pem(await server.joining.join(token, csr(key))))
    await clock.advance(60)
    with pytest.raises(Unauthenticated) as too_late:
        await server.joining.join(token, csr(key))
    assert too_late.value.reason is Reason.TOKEN_USED


@pytest.mark.invariant(12)
async def test_a_renewal_whose_answer_was_lost_can_be_asked_again(server: Joiner) -> None:
    old = await server.joining.join(await server.token(), csr())
    _, who = await server.roster.authenticate(pem(old))
    lost = await server.roster.renew(who, csr(), issuer=server.issuer)
    _, who = await server.roster.authenticate(pem(old))
    new = await server.roster.renew(who, csr(), issuer=server.issuer)
    with pytest.raises(PermissionDenied):
        await server.roster.authenticate(pem(lost))
    await server.roster.authenticate(pem(new))


@pytest.mark.invariant(2, 12)
async def test_the_new_key_is_recorded_before_the_certificate_leaves(server: Joiner) -> None:
    old = await server.joining.join(await server.token(), csr())
    _, who = await server.roster.authenticate(pem(old))
    server.ledger.fails = True
    with pytest.raises(Unavailable):
        await server.roster.renew(who, csr(key := new_key()), issuer=server.issuer)
    recorded = (await server.recorded())[NODE_1]
    assert recorded.next_key == key_digest(key.public_key())
    await server.roster.authenticate(pem(old))


async def test_a_renewal_with_the_same_key_changes_no_key(server: Joiner) -> None:
    key = new_key()
    old = await server.joining.join(await server.token(), csr(key))
    _, who = await server.roster.authenticate(pem(old))
    await server.roster.renew(who, csr(key), issuer=server.issuer)
    recorded = (await server.recorded())[NODE_1]
    assert (recorded.key, recorded.next_key) == (key_digest(key.public_key()), None)


async def test_a_renewal_that_began_before_a_re_join_changes_nothing(server: Joiner) -> None:
    old = await server.joining.join(await server.token(), csr())
    _, who = await server.roster.authenticate(pem(old))
    new = await server.joining.join(await server.token(), csr())
    with pytest.raises(PermissionDenied) as refused:
        await server.roster.renew(who, csr(), issuer=server.issuer)
    assert refused.value.reason is Reason.AGENT_KEY_MISMATCH
    assert (await server.recorded())[NODE_1].next_key is None
    await server.roster.authenticate(pem(new))


async def test_a_re_join_wakes_the_streams_of_that_agent_only(server: Joiner) -> None:
    mine, others = asyncio.Event(), asyncio.Event()
    server.roster.watch(mine, NODE_1)
    server.roster.watch(others, NODE_2)
    await server.joining.join(await server.token(), csr())
    assert (mine.is_set(), others.is_set()) == (True, False)


async def test_agents_are_there_after_a_restart(database: Database, clock: FakeClock, server: Joiner) -> None:
    svid = await server.joining.join(await server.token("node-1", "node:rack:a"), csr())
    again = Joiner(database, clock)
    await again.roster.start()
    who, _ = await again.roster.authenticate(pem(svid))
    assert who == server.roster.all()[NODE_1]
