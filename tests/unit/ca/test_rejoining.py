"""An agent whose own SVID has expired comes back with a recorded key, for a while, and with no other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.issuance.issuer import key_digest
from ca.issuance.press import IssuedSvid
from ca.store.agents import SqlAgentStore
from ca.store.database import Database
from citadel.errors import CitadelError, InvalidArgument, PermissionDenied, Reason, Unauthenticated, Unavailable
from tests.clock import FakeClock
from tests.csrs import csr, new_key
from tests.unit.ca.joiner import GRACE, Joiner, pem
from tests.unit.ca.values import ADMINISTRATOR, NODE_1, NODE_2

Key = ec.EllipticCurvePrivateKey
LIFE = timedelta(minutes=30)


@pytest.fixture
def server(database: Database, clock: FakeClock) -> Joiner:
    return Joiner(database, clock)


def spki(key: Key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def digest(key: Key) -> str:
    return key_digest(key.public_key())


async def rejoin(server: Joiner, recorded: Key, new: Key, *, as_agent: object = NODE_1) -> IssuedSvid:
    """Come back as an agent does that keeps to the rules."""
    claim = server.rejoining.claim(str(as_agent), spki(recorded), csr(new))
    return await claim.proven_by(claim.challenge.signed_by(recorded), origin="ipv4:10.0.0.7")


async def keys(server: Joiner) -> tuple[str, str | None]:
    agent = (await server.recorded())[NODE_1]
    return agent.key, agent.next_key


@pytest.mark.parametrize("away", [timedelta(), LIFE, LIFE + timedelta(days=1), LIFE + GRACE], ids=str)
async def test_the_recorded_key_brings_an_agent_back_until_the_grace_is_over(
    server: Joiner, clock: FakeClock, away: timedelta
) -> None:
    old, new = new_key(), new_key()
    await server.joining.join(await server.token("node-1", "node:rack:a"), csr(old))
    before = server.roster.all()[NODE_1]
    await clock.advance(away.total_seconds())
    svid = await rejoin(server, old, new)
    assert svid.spiffe_id == NODE_1
    assert await keys(server) == (digest(old), digest(new))
    who, _ = await server.roster.authenticate(pem(svid))
    assert (who.selectors, who.joined_at) == (before.selectors, before.joined_at)
    assert await keys(server) == (digest(new), None)


async def test_a_rejoin_is_audited_as_the_agent(server: Joiner) -> None:
    old = new_key()
    await server.joining.join(await server.token(), csr(old))
    await rejoin(server, old, new_key())
    assert [act[:3] for act in await server.acts()] == [
        ("uid:1000", "token.create", str(NODE_1)),
        (str(NODE_1), "agent.join", str(NODE_1)),
        (str(NODE_1), "agent.rejoin", str(NODE_1)),
    ]


@pytest.mark.invariant(12)
async def test_the_key_of_a_renewal_that_was_never_used_brings_it_back_too(server: Joiner, clock: FakeClock) -> None:
    first, second, third = new_key(), new_key(), new_key()
    svid = await server.joining.join(await server.token(), csr(first))
    _, who = await server.roster.authenticate(pem(svid))
    await server.roster.renew(who, csr(second), issuer=server.issuer)
    await clock.advance(timedelta(days=1).total_seconds())
    await rejoin(server, second, third)
    assert await keys(server) == (digest(second), digest(third))
    with pytest.raises(Unauthenticated):
        await rejoin(server, first, third)


@pytest.mark.invariant(12)
async def test_a_lost_answer_is_asked_for_again_in_the_same_way(server: Joiner, clock: FakeClock) -> None:
    old, new = new_key(), new_key()
    await server.joining.join(await server.token(), csr(old))
    await clock.advance(timedelta(days=1).total_seconds())
    server.ledger.fails = True
    with pytest.raises(Unavailable):
        await rejoin(server, old, new)
    server.ledger.fails = False
    for _ in range(2):
        svid = await rejoin(server, old, new)
        assert await keys(server) == (digest(old), digest(new))
    await server.roster.authenticate(pem(svid))
    assert await keys(server) == (digest(new), None)


@pytest.mark.invariant(12)
async def test_an_answer_that_was_taken_and_never_used_is_a_recorded_key(server: Joiner, clock: FakeClock) -> None:
    first, second, third = new_key(), new_key(), new_key()
    await server.joining.join(await server.token(), csr(first))
    for old, new in ((first, second), (second, third)):
        await clock.advance(timedelta(days=6).total_seconds())
        await rejoin(server, old, new)
        assert await keys(server) == (digest(old), digest(new))


@pytest.mark.invariant(12)
async def test_a_restarted_server_knows_both_keys(database: Database, clock: FakeClock, server: Joiner) -> None:
    old, new = new_key(), new_key()
    await server.joining.join(await server.token(), csr(old))
    await rejoin(server, old, new)
    again = Joiner(database, clock)
    await again.roster.start()
    again.ledger.rows = server.ledger.rows
    await rejoin(again, old, new)
    await rejoin(again, new, new_key())


async def test_keys_that_are_written_too_late_do_not_undo_a_join_in_between(server: Joiner, database: Database) -> None:
    old, new = new_key(), new_key()
    await server.joining.join(await server.token(), csr(old))
    await server.joining.join(await server.token(), csr(new))
    await SqlAgentStore(database=database).set_keys(NODE_1, key=digest(old), next_key=digest(new_key()))
    assert await keys(server) == (digest(new), None)


Ruin = Callable[[Joiner, FakeClock], Awaitable[None]]


async def grace_over(server: Joiner, clock: FakeClock) -> None:  # noqa: ARG001 - the form of the table
    await clock.advance((LIFE + GRACE).total_seconds() + 1)


async def banned(server: Joiner, clock: FakeClock) -> None:  # noqa: ARG001 - the form of the table
    await server.administration.ban("node-1", why="stolen", by=ADMINISTRATOR)


async def evicted(server: Joiner, clock: FakeClock) -> None:  # noqa: ARG001 - the form of the table
    await server.administration.evict("node-1", why="", by=ADMINISTRATOR)


async def evicted_and_joined_anew(server: Joiner, clock: FakeClock) -> None:
    await evicted(server, clock)
    await joined_anew(server, clock)


async def joined_anew(server: Joiner, clock: FakeClock) -> None:  # noqa: ARG001 - the form of the table
    await server.joining.join(await server.token(), csr())


async def rows_pruned(server: Joiner, clock: FakeClock) -> None:  # noqa: ARG001 - the form of the table
    server.ledger.rows.clear()


RUINS: list[tuple[Ruin, type[CitadelError], Reason]] = [
    (grace_over, Unauthenticated, Reason.REJOIN_REFUSED),
    (banned, PermissionDenied, Reason.AGENT_BANNED),
    (evicted, Unauthenticated, Reason.REJOIN_REFUSED),
    (evicted_and_joined_anew, Unauthenticated, Reason.REJOIN_REFUSED),
    (joined_anew, Unauthenticated, Reason.REJOIN_REFUSED),
    (rows_pruned, Unauthenticated, Reason.REJOIN_REFUSED),
]


@pytest.mark.parametrize(("ruin", "error", "reason"), RUINS)
async def test_an_agent_that_may_not_come_back_does_not(
    server: Joiner, clock: FakeClock, ruin: Ruin, error: type[CitadelError], reason: Reason
) -> None:
    old = new_key()
    await server.joining.join(await server.token(), csr(old))
    await ruin(server, clock)
    before, issued = await server.recorded(), len(server.ledger.rows)
    with pytest.raises(error) as refused:
        await rejoin(server, old, new_key())
    assert refused.value.reason is reason
    assert (await server.recorded(), len(server.ledger.rows)) == (before, issued)


async def test_who_holds_no_recorded_key_learns_nothing_of_the_agent(server: Joiner) -> None:
    await server.joining.join(await server.token(), csr())
    await server.joining.join(await server.token("node-2"), csr())
    await server.administration.ban("node-2", why="stolen", by=ADMINISTRATOR)
    told = set()
    for name in (NODE_1, NODE_2, "spiffe://a.test/citadel/agent/nobody", "spiffe://b.test/citadel/agent/node-1"):
        with pytest.raises(Unauthenticated) as refused:
            await rejoin(server, new_key(), new_key(), as_agent=name)
        assert refused.value.reason is Reason.REJOIN_REFUSED
        told.add(str(refused.value).replace(str(name), "NAME"))
    assert len(told) == 1


async def test_only_the_holder_of_the_key_comes_back(server: Joiner) -> None:
    old = new_key()
    await server.joining.join(await server.token(), csr(old))
    claim = server.rejoining.claim(str(NODE_1), spki(old), csr())
    other = server.rejoining.claim(str(NODE_1), spki(old), csr())
    for signature in (claim.challenge.signed_by(new_key()), other.challenge.signed_by(old), b""):
        with pytest.raises(Unauthenticated) as refused:
            await claim.proven_by(signature, origin="")
        assert refused.value.reason is Reason.REJOIN_REFUSED
    assert await keys(server) == (digest(old), None)


@pytest.mark.parametrize(
    "changes",
    [
        {"spiffe_id": "nonsense"},
        {"spiffe_id": ""},
        {"public_key": b"garbage"},
        {"public_key": b""},
        {"public_key": spki(new_key(ec.SECP521R1()))},
        {"csr": b"garbage"},
        {"csr": b"x" * (1 << 20)},
    ],
    ids=["no id", "an empty id", "no key", "an empty key", "a key of another kind", "no request", "a long request"],
)
async def test_a_malformed_claim_gets_no_nonce(server: Joiner, changes: dict[str, Any]) -> None:
    claim: dict[str, Any] = {"spiffe_id": str(NODE_1), "public_key": spki(new_key()), "csr": csr()}
    with pytest.raises(InvalidArgument):
        server.rejoining.claim(**(claim | changes))


async def test_a_ban_during_a_rejoin_wins(server: Joiner) -> None:
    old = new_key()
    await server.joining.join(await server.token(), csr(old))
    server.ledger.committing.clear()
    server.ledger.may_commit.clear()
    coming = asyncio.create_task(rejoin(server, old, new_key()))
    await server.ledger.committing.wait()
    banning = asyncio.create_task(server.administration.ban("node-1", why="stolen", by=ADMINISTRATOR))
    async with asyncio.timeout(10):
        while not server.roster.is_banned(NODE_1):
            await asyncio.sleep(0)
    server.ledger.may_commit.set()
    await banning
    with pytest.raises(PermissionDenied) as refused:
        await coming
    assert refused.value.reason is Reason.AGENT_BANNED
