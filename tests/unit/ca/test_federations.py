"""Federations: fetched when their owners ask for it, kept through failures, and ended at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from ca.audit.model import Act
from ca.federation.faults import unreachable, untrusted
from ca.federation.federations import Federations
from ca.federation.known import ForeignBundles, KnownBundle, Source
from ca.federation.metrics import FederationCollector
from ca.federation.model import Federation
from ca.federation.refreshing import Refreshing
from ca.federation.rules import MOST_JWT_AUTHORITIES, MOST_X509_AUTHORITIES, seconds_to_next
from ca.federation.standing import federation_check
from citadel.bundle import TrustBundle
from citadel.errors import CitadelError, Reason, Unavailable
from citadel.probes import Health
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.tally import Tally
from tests.certificates import A_TEST, B_TEST, bundle, root
from tests.clock import FakeClock
from tests.unit.ca.test_foreign_bundles import FEDERATION
from tests.unit.ca.values import ADMINISTRATOR, NOW

C_TEST = TrustDomain("c.test")
OWN = bundle(root())
ONE, TWO = root("one", "spiffe://b.test"), root("two", "spiffe://b.test")
MINUTE = timedelta(minutes=1)
OF_C = root("root c.test", "spiffe://c.test")
KEY = ec.generate_private_key(ec.SECP256R1()).public_key()


def of_b(sequence: int | None = 1, *roots: Any, hint: timedelta | None = MINUTE) -> TrustBundle:
    return bundle(*(roots or (ONE,)), trust_domain=B_TEST, sequence=sequence, refresh_hint=hint)


@dataclass
class World:
    """The disk and the endpoints: what is kept, what is answered, what was asked, by which bundle it was believed."""

    answer: TrustBundle | bytes | CitadelError | Callable[[], Any] = field(default_factory=of_b)
    asked: list[tuple[TrustDomain, TrustBundle | None]] = field(default_factory=list)
    federations: dict[TrustDomain, Federation] = field(default_factory=dict)
    bundles: dict[TrustDomain, KnownBundle] = field(default_factory=dict)
    acts: list[Act] = field(default_factory=list)
    down: bool = False

    async def fetch(self, federation: Federation, trust: TrustBundle | None) -> bytes:
        self.asked.append((federation.trust_domain, trust))
        answer = await self.answer() if callable(self.answer) else self.answer
        if isinstance(answer, CitadelError):
            raise answer
        return answer if isinstance(answer, bytes) else answer.to_json()

    async def load_bundles(self) -> Sequence[KnownBundle]:
        return list(self.bundles.values())

    def write(self, act: Act | None) -> None:
        if self.down:
            raise Unavailable(Reason.LEASE_LOST, "another server has it")
        if act is not None:
            self.acts.append(act)


@dataclass
class BundleStore:
    world: World

    async def load(self) -> Sequence[KnownBundle]:
        return list(self.world.bundles.values())

    async def put(self, known: KnownBundle, act: Act | None, *, at: datetime, federation: Federation | None) -> None:
        assert at.tzinfo
        self.world.write(act)
        self.world.bundles[known.bundle.trust_domain] = known
        if federation is not None:
            self.world.federations[federation.trust_domain] = federation

    async def remove(self, trust_domain: TrustDomain, act: Act | None, *, at: datetime) -> None:
        assert at.tzinfo
        self.world.write(act)
        self.world.bundles.pop(trust_domain, None)
        self.world.federations.pop(trust_domain, None)


@dataclass
class Store:
    world: World

    async def load(self) -> Sequence[Federation]:
        return list(self.world.federations.values())

    async def create(self, federation: Federation, act: Act) -> None:
        self.world.write(act)
        self.world.federations[federation.trust_domain] = federation

    async def note_refreshed(self, moments: Mapping[TrustDomain, datetime]) -> None:
        self.world.write(None)
        for trust_domain, at in moments.items():
            self.world.federations[trust_domain] = replace(self.world.federations[trust_domain], refreshed_at=at)


@dataclass
class Server:
    """One that runs, and what it says."""

    world: World
    clock: FakeClock
    tally: Tally
    bundles: ForeignBundles
    federations: Federations
    refreshing: Refreshing

    async def create(self, bootstrap: TrustBundle | None = None, **changes: Any) -> Any:
        wanted = replace(FEDERATION, created_at=self.clock.now(), **changes)
        return await self.federations.create(wanted, bootstrap, why="a test", by=ADMINISTRATOR)

    async def refresh(self, *, force: bool = False) -> Any:
        return await self.federations.refresh(B_TEST, force=force, why="a test", by=ADMINISTRATOR)

    async def until_asked(self, times: int) -> None:
        """Let seconds pass until endpoints were asked so many times, and what came of it is in force."""
        for _ in range(10_000):
            if len(self.world.asked) >= times:
                return
            await self.clock.advance(1)  # whoever wakes runs as far as it can
        pytest.fail("never asked")

    @property
    def in_force(self) -> TrustBundle | None:
        known = self.bundles.get(B_TEST)
        return known.bundle if known is not None else None

    @property
    def error(self) -> Reason | None:
        error = self.federations.get(B_TEST).error
        return error.reason if error is not None else None


async def serve(world: World, clock: FakeClock, *, draw: float = 0.0) -> tuple[Server, asyncio.Task[None]]:
    tally = Tally(clock=clock)
    bundles = ForeignBundles(trust_domain=A_TEST, store=BundleStore(world))
    refreshing = Refreshing(bundles=bundles, own_bundle=lambda: OWN, fetch=world.fetch, tally=tally, clock=clock)
    federations = Federations(
        store=Store(world),
        bundles=bundles,
        own=A_TEST,
        refreshing=refreshing,
        clock=clock,
        draw=lambda: draw,
    )
    await bundles.start()
    await federations.start()
    running = asyncio.create_task(federations.run())
    await clock.advance(0)
    return Server(world, clock, tally, bundles, federations, refreshing), running


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def server(world: World, clock: FakeClock) -> AsyncIterator[Server]:
    server, running = await serve(world, clock)
    yield server
    running.cancel()
    await asyncio.wait({running})
    await server.tally.close()


async def test_a_new_one_is_fetched_at_once(server: Server, world: World) -> None:
    made = await server.create(of_b(None, hint=None))
    assert (made.error, made.refreshed_at, server.in_force) == (None, NOW, of_b())
    assert made.next_refresh_at == NOW + MINUTE
    assert [act.what for act in world.acts] == ["federation.create"]
    assert (world.acts[0].why, world.acts[0].actor) == ("a test", ADMINISTRATOR)
    assert "x=1" not in world.acts[0].detail  # a query may be a secret


async def test_one_whose_maker_goes_away_is_followed_all_the_same(server: Server, world: World) -> None:
    making = asyncio.create_task(server.create(of_b(0)))
    while not world.federations:
        await asyncio.sleep(0)
    making.cancel()
    await asyncio.wait({making})
    await server.until_asked(1)
    assert (server.in_force, server.error) == (of_b(1), None)


async def test_an_endpoint_that_is_away_is_kept_and_asked_again(server: Server, world: World) -> None:
    world.answer = unreachable("nobody there")
    made = await server.create(of_b(0))
    assert made.error is not None
    assert (made.error.reason, made.refreshed_at, made.failures) == (Reason.ENDPOINT_UNREACHABLE, None, 1)
    assert server.in_force == of_b(0)
    world.answer = of_b(2)
    await server.until_asked(2)
    assert (server.in_force, server.error) == (of_b(2), None)


@pytest.mark.parametrize(
    ("change", "bootstrap", "reason"),
    [
        ({}, None, Reason.FEDERATION_MALFORMED),  # nobody could be believed
        ({"trust_domain": A_TEST}, None, Reason.FEDERATION_OWN_DOMAIN),
        ({"endpoint_url": "http://b.test"}, of_b(), Reason.FEDERATION_MALFORMED),
    ],
)
async def test_what_is_refused_leaves_nothing(
    server: Server, world: World, change: dict[str, Any], bootstrap: TrustBundle | None, reason: Reason
) -> None:
    with pytest.raises(CitadelError) as refused:
        await server.create(bootstrap, **change)
    assert refused.value.reason is reason
    assert (world.asked, world.acts, world.federations, server.federations.all()) == ([], [], {}, [])


async def test_the_same_trust_domain_is_not_federated_with_twice(server: Server) -> None:
    await server.create(of_b())
    with pytest.raises(CitadelError) as refused:
        await server.create(of_b())
    assert refused.value.reason is Reason.FEDERATION_EXISTS


@pytest.mark.spec("FED-27")
async def test_the_newest_bundle_is_what_the_endpoint_is_believed_by(server: Server, world: World) -> None:
    await server.create(of_b(0))
    world.answer = of_b(2, TWO)
    for times in (2, 3):
        await server.until_asked(times)
    assert [trust for _, trust in world.asked] == [of_b(0), of_b(1), of_b(2, TWO)]


@pytest.mark.spec("FED-28")
async def test_another_domains_endpoint_is_believed_by_that_domains_bundle(server: Server, world: World) -> None:
    of_c = bundle(OF_C, trust_domain=C_TEST)
    await server.bundles.put(of_c, Source.SET, NOW)
    await server.create(endpoint_id=SpiffeId(C_TEST, "/server"))
    assert world.asked == [(B_TEST, of_c)]
    await server.federations.delete(B_TEST, why="", by=ADMINISTRATOR)
    await server.create(endpoint_id=SpiffeId(A_TEST, "/server"))
    assert world.asked[1:] == [(B_TEST, OWN)]
    await server.federations.delete(B_TEST, why="", by=ADMINISTRATOR)
    await server.create(endpoint_id=SpiffeId(TrustDomain("d.test"), "/server"))
    assert world.asked[2:] == [(B_TEST, None)]


# --- when


@pytest.mark.spec("FED-29", "FED-30", "FED-31")
@pytest.mark.parametrize(
    ("hint", "failed", "seconds"),
    [
        (timedelta(seconds=60), False, 60),
        (timedelta(seconds=60), True, 60),
        (timedelta(hours=2), False, 7200),
        (timedelta(hours=2), True, 300),  # a failure of minutes is not to last for hours
        (timedelta(days=30), False, 86400),
        (timedelta(seconds=1), False, 5),
        (timedelta(seconds=1), True, 5),
        (timedelta(0), False, 300),
        (None, False, 300),
        (None, True, 300),
    ],
)
def test_how_long_it_is_from_one_fetch_to_the_next(hint: timedelta | None, failed: bool, seconds: float) -> None:
    found = of_b(hint=hint)
    assert seconds_to_next(found, failed=failed, least=timedelta(seconds=5), draw=0) == seconds
    assert seconds_to_next(found, failed=failed, least=timedelta(seconds=5), draw=1) == pytest.approx(seconds * 0.9)


def test_where_nothing_is_known_five_minutes() -> None:
    assert seconds_to_next(None, failed=True, least=timedelta(seconds=5), draw=0) == 300


@pytest.mark.spec("FED-29")
async def test_it_is_polled_as_its_bundle_says_and_follows_when_that_changes(server: Server, world: World) -> None:
    await server.create(of_b(0))
    world.answer = of_b(2, hint=timedelta(hours=1))
    await server.clock.advance(59)
    assert len(world.asked) == 1
    await server.clock.advance(1)
    assert len(world.asked) == 2
    await server.clock.advance(3599)
    assert len(world.asked) == 2
    await server.clock.advance(1)
    assert len(world.asked) == 3


@pytest.mark.spec("FED-31")
async def test_a_failure_waits_for_the_next_time_and_the_bundle_stays(server: Server, world: World) -> None:
    await server.create(of_b(0))
    world.answer = unreachable("nobody there")
    await server.clock.advance(600)
    assert len(world.asked) == 11
    assert (server.in_force, server.error) == (of_b(), Reason.ENDPOINT_UNREACHABLE)
    standing = server.federations.get(B_TEST)
    assert (standing.failures, standing.refreshed_at) == (10, NOW)


async def test_a_defect_of_ours_ends_no_polling(server: Server, world: World) -> None:
    await server.create(of_b(1))

    async def fails() -> TrustBundle:
        raise ZeroDivisionError

    world.answer = fails
    with capture_logs() as logs:
        await server.until_asked(3)
    assert (server.in_force, server.error) == (of_b(1), Reason.INTERNAL)
    with pytest.raises(CitadelError) as refused:
        await server.refresh(force=True)
    assert refused.value.reason is Reason.INTERNAL
    assert server.refreshing.failures == {Reason.INTERNAL: 3}
    assert sum("exc_info" in each for each in logs) == 1, "the same defect was told again"
    world.answer = of_b(2)
    await server.until_asked(5)
    assert (server.in_force, server.error) == (of_b(2), None)


async def test_many_do_not_begin_at_once(world: World, clock: FakeClock) -> None:
    world.federations[B_TEST] = FEDERATION
    server, running = await serve(world, clock, draw=0.5)
    await clock.advance(14)
    assert world.asked == []
    await clock.advance(1)
    assert [name for name, _ in world.asked] == [B_TEST]
    running.cancel()
    await asyncio.wait({running})
    await clock.advance(3600)
    assert len(world.asked) == 1
    await server.tally.close()


# --- what is taken


@pytest.mark.spec("BUNDLE-03")
async def test_an_empty_bundle_is_taken_and_trusts_nothing(server: Server, world: World) -> None:
    await server.create(of_b(1))
    world.answer = b'{"keys":[],"spiffe_sequence":2}'
    await server.until_asked(2)
    assert server.error is None
    assert server.in_force is not None
    assert (server.in_force.x509_authorities, server.in_force.sequence) == ((), 2)


@pytest.mark.spec("BUNDLE-12")
async def test_unknown_kinds_of_keys_are_passed_over(server: Server, world: World) -> None:
    await server.create(of_b(1))
    world.answer = of_b(2, TWO).to_json().replace(b'{"keys":[', b'{"keys":[{"kty":"XYZ","use":"x509-svid"},')
    await server.until_asked(2)
    assert (server.in_force, server.error) == (of_b(2, TWO), None)


@pytest.mark.parametrize("owner", ["a.test", "c.test"])
async def test_the_bundle_of_another_trust_domain_is_taken_from_nobody(
    server: Server, world: World, owner: str
) -> None:
    theirs = of_b(2, ONE, root("another", f"spiffe://{owner}"))
    with pytest.raises(CitadelError) as refused:
        await server.create(theirs)
    expected = Reason.FEDERATION_OWN_DOMAIN if owner == "a.test" else Reason.BUNDLE_MALFORMED
    assert (refused.value.reason, world.asked, world.federations) == (expected, [], {})
    await server.create(of_b(1))
    world.answer = theirs
    await server.until_asked(2)
    assert (server.in_force, server.error) == (of_b(1), Reason.ENDPOINT_BAD_ANSWER)
    error = server.federations.get(B_TEST).error
    assert error is not None
    assert f"of {owner}" in error.message


@pytest.mark.parametrize("document", [b"<html>", b"{}", b'{"keys":null}', b'{"keys":[],"keys":[]}', b"\xff", b""])
async def test_what_is_no_bundle_changes_nothing(server: Server, world: World, document: bytes) -> None:
    await server.create(of_b(1))
    world.answer = document
    await server.until_asked(2)
    assert (server.in_force, server.error) == (of_b(1), Reason.ENDPOINT_BAD_ANSWER)


@pytest.mark.spec("FED-33")
async def test_an_older_sequence_is_refused_until_it_is_forced(server: Server, world: World) -> None:
    world.answer = of_b(7, TWO)
    await server.create(of_b(1))
    world.answer = of_b(3)
    await server.until_asked(2)
    assert (server.in_force, server.error) == (of_b(7, TWO), Reason.BUNDLE_OLDER)
    with pytest.raises(CitadelError) as refused:
        await server.refresh()
    assert refused.value.reason is Reason.BUNDLE_OLDER
    await server.refresh(force=True)
    assert (server.in_force, server.error) == (of_b(3), None)
    assert (world.acts[-1].what, world.acts[-1].detail) == ("federation.refresh", "by force")
    await server.until_asked(5)
    assert server.error is None


@pytest.mark.spec("FED-34")
async def test_what_was_set_by_hand_lasts_until_the_next_fetch(server: Server) -> None:
    await server.create(of_b(1))
    await server.bundles.put(of_b(None, TWO), Source.SET, NOW)
    assert server.in_force == of_b(None, TWO)
    await server.until_asked(2)
    assert server.in_force == of_b(1)
    assert server.bundles.all()[B_TEST].source is Source.FEDERATION


async def test_the_same_document_is_neither_parsed_nor_written_again(server: Server, world: World) -> None:
    world.answer = of_b(1).to_json().replace(b'{"keys":[', b'{"keys":[{"kty":"XYZ","use":"x509-svid"},')
    with capture_logs() as logs:
        await server.create(of_b(0))
        world.down = True  # a write would fail
        await server.until_asked(4)
    assert [each["event"] for each in logs].count("bundle keys skipped") == 1
    assert server.error is None
    assert server.federations.get(B_TEST).refreshed_at == server.clock.now()


@pytest.mark.spec("FED-32")
async def test_a_restart_knows_all_and_what_was_not_durable_was_not_in_force(world: World, clock: FakeClock) -> None:
    server, running = await serve(world, clock)
    await server.create(of_b(1))
    world.down, world.answer = True, of_b(2)
    await server.until_asked(2)
    assert (server.in_force, server.error) == (of_b(1), Reason.LEASE_LOST)
    world.down = False
    await server.until_asked(3)
    await clock.advance(600)
    running.cancel()
    await asyncio.wait({running})
    await server.tally.close()
    again, running = await serve(world, clock)
    assert again.in_force == of_b(2)
    assert again.federations.get(B_TEST).refreshed_at is not None
    running.cancel()
    await asyncio.wait({running})


# --- the end


@pytest.mark.spec("FED-41")
async def test_an_ended_one_is_gone_and_asked_no_more(server: Server, world: World) -> None:
    await server.create(of_b(1))
    told: list[object] = []
    server.bundles.watch(lambda trust_domain: told.append((trust_domain, server.in_force)))
    await server.federations.delete(B_TEST, why="they moved", by=ADMINISTRATOR)
    assert told == [(B_TEST, None)]
    assert (world.federations, world.bundles, server.federations.all()) == ({}, {}, [])
    assert (world.acts[-1].what, world.acts[-1].why) == ("federation.delete", "they moved")
    await server.clock.advance(3600)
    assert len(world.asked) == 1
    for ask in (server.refresh(), server.federations.delete(B_TEST, why="", by=ADMINISTRATOR)):
        with pytest.raises(CitadelError) as refused:
            await ask
        assert refused.value.reason is Reason.FEDERATION_NOT_FOUND


@pytest.mark.spec("FED-41")
async def test_what_is_being_fetched_when_it_ends_is_not_taken(server: Server, world: World) -> None:
    await server.create(of_b(1))
    arrives = asyncio.Event()

    async def slow() -> TrustBundle:
        await arrives.wait()
        return of_b(2, TWO)

    world.answer = slow
    refreshing = asyncio.create_task(server.refresh())
    await server.clock.advance(0)
    await server.federations.delete(B_TEST, why="", by=ADMINISTRATOR)
    arrives.set()
    with pytest.raises(CitadelError) as refused:
        await refreshing
    assert refused.value.reason is Reason.FEDERATION_NOT_FOUND
    assert (server.in_force, world.bundles, dict(server.refreshing.failures)) == (None, {}, {})


async def test_one_that_the_store_does_not_let_go_stays(server: Server, world: World) -> None:
    await server.create(of_b(1))
    world.down = True
    with pytest.raises(Unavailable):
        await server.federations.delete(B_TEST, why="", by=ADMINISTRATOR)
    assert server.in_force == of_b(1)
    await server.until_asked(2)


async def test_an_endpoint_that_hangs_holds_up_nobody_else(server: Server, world: World) -> None:
    await server.create(of_b(1))

    async def hangs() -> TrustBundle:
        await asyncio.Event().wait()
        raise AssertionError

    world.answer = hangs
    await server.until_asked(2)
    of_c = bundle(OF_C, trust_domain=C_TEST, sequence=1, refresh_hint=MINUTE)
    world.answer = of_c
    await server.create(of_c, trust_domain=C_TEST, endpoint_id=SpiffeId(C_TEST, "/server"))
    await server.until_asked(6)
    assert {name for name, _ in world.asked[2:]} == {C_TEST}
    await server.federations.delete(B_TEST, why="", by=ADMINISTRATOR)


async def test_an_endpoint_that_changes_its_bundle_all_the_time_is_followed_every_few_seconds(
    server: Server, world: World
) -> None:
    """Each change costs every proxy that federates something. What is trusted no longer is never late."""
    second = timedelta(seconds=1)
    world.answer = of_b(0, ONE, TWO, hint=second)
    await server.create(of_b(0, ONE, TWO, hint=second))
    taken = set()
    with capture_logs() as logs:
        for sequence in range(1, 201):
            world.answer = of_b(sequence, ONE, TWO, hint=second)
            await server.clock.advance(1)
            assert server.in_force is not None
            taken.add(server.in_force.sequence)
    assert set(range(1, 20)) <= taken, "honest ones change some times in a row"
    assert 55 <= len(taken) <= 65
    assert [each["event"] for each in logs].count("foreign bundle changes too often") == 1
    assert server.error is None

    world.answer = of_b(300, TWO, hint=second)
    await server.clock.advance(1)
    assert server.in_force == world.answer
    world.answer = of_b(301, ONE, TWO, hint=second)
    await server.refresh()
    assert server.in_force == world.answer


async def test_a_bundle_of_too_many_authorities_is_not_taken(server: Server, world: World) -> None:
    """As many as a large mesh has are; each proxy that federates has them all."""
    jwt = {str(number): KEY for number in range(MOST_JWT_AUTHORITIES + 1)}
    most = dict(list(jwt.items())[1:])
    world.answer = replace(of_b(1), jwt_authorities=most)
    await server.create(of_b(0))
    assert (server.in_force, server.error) == (world.answer, None)
    world.answer = replace(of_b(2), jwt_authorities=jwt)
    with pytest.raises(CitadelError, match="1001 JWT authorities"):
        await server.refresh()
    assert (server.in_force, server.error) == (replace(of_b(1), jwt_authorities=most), Reason.ENDPOINT_BAD_ANSWER)
    with pytest.raises(CitadelError, match="1001 JWT authorities"):
        await server.bundles.put(world.answer, Source.SET, NOW)
    key = ec.generate_private_key(ec.SECP256R1())
    roots = of_b(2, *(root(f"{number}", key=key) for number in range(MOST_X509_AUTHORITIES + 1)))
    with pytest.raises(CitadelError, match=r"201 X\.509 authorities"):
        await server.bundles.put(roots, Source.SET, NOW)


# --- what is told


async def test_elements_that_cannot_be_used_are_told_in_one_line_and_not_with_every_document(
    server: Server, world: World
) -> None:
    def junk(sequence: int, count: int = 200) -> bytes:
        return json.dumps({"keys": [{"use": "x509-svid"}] * count, "spiffe_sequence": sequence}).encode()

    with capture_logs() as logs:
        world.answer = junk(1)
        await server.create(of_b(0))
        for sequence in (2, 3):
            world.answer = junk(sequence)
            await server.refresh()
        world.answer = junk(4, 201)
        with pytest.raises(CitadelError, match=r"201 X\.509"):
            await server.refresh()
    told = [each for each in logs if each["event"] == "bundle keys skipped"]
    assert [(each["count"], each["position"]) for each in told] == [(200, 0)]
    assert server.error is Reason.ENDPOINT_BAD_ANSWER


@pytest.mark.spec("FED-42")
async def test_a_failure_is_told_once_and_so_is_its_end(server: Server, world: World) -> None:
    with capture_logs() as logs:
        await server.create(of_b(0))
        world.answer = unreachable("nobody there")
        await server.clock.advance(600)
        world.answer = of_b(2)
        await server.clock.advance(600)
    said = [(each["event"], each.get("reason"), each.get("url")) for each in logs]
    url = "https://bundles.b.test:8443/bundle"
    assert said == [
        ("federation created", None, url),
        ("foreign bundle taken", None, url),
        ("foreign bundle not fetched", Reason.ENDPOINT_UNREACHABLE, None),
        ("foreign bundle taken", None, url),
        ("foreign bundle fetched again", None, None),
    ]


@pytest.mark.invariant(10)
async def test_what_an_endpoint_says_wrongly_is_a_refusal_that_is_summed(server: Server, world: World) -> None:
    await server.create(of_b(1))
    world.answer = untrusted("it is somebody else")
    await server.clock.advance(600)
    assert server.tally.refused == {Reason.ENDPOINT_UNTRUSTED: 10}
    assert server.refreshing.failures == {Reason.ENDPOINT_UNTRUSTED: 10}


async def test_ready_stays_good_and_says_what_is_wrong(server: Server, world: World) -> None:
    assert federation_check(server.federations.all()).text == "0 of 0 foreign bundles are fresh"
    await server.create(of_b(1))
    check = federation_check(server.federations.all())
    assert (check.health, check.text) == (Health.GOOD, "1 of 1 foreign bundles are fresh")
    world.answer = unreachable("nobody there")
    await server.until_asked(2)
    check = federation_check(server.federations.all())
    assert (check.health, check.text) == (Health.GOOD, "0 of 1 foreign bundles are fresh; b.test: nobody there")


async def test_what_is_measured(server: Server, world: World) -> None:
    await server.create(of_b(1))
    await server.bundles.put(bundle(OF_C, trust_domain=C_TEST), Source.SET, NOW)
    world.answer = unreachable("nobody there")
    await server.clock.advance(90)
    collector = FederationCollector(
        federations=server.federations,
        bundles=server.bundles,
        failures=server.refreshing.failures,
        clock=server.clock,
    )
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for metric in collector.collect()
        for sample in metric.samples
    }
    assert samples == {
        ("citadel_foreign_bundle_age_seconds", "b.test"): 90,
        ("citadel_foreign_bundle_age_seconds", "c.test"): 90,
        ("citadel_federation_failures_total", "endpoint_unreachable"): 1,
        ("citadel_federations_failing",): 1,
    }
