from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from citadel.entry import Entry
from citadel.errors import CitadelError, InvalidArgument, PermissionDenied, Reason
from citadel.selector import Selector
from sds.holdings import HoldingsFeed
from sds.keep.keeper import Keeper
from sds.keep.keys import new_key
from sds.keep.orders import RenewOrder
from sds.settings import ReconnectSettings
from tests import certificates
from tests.clock import FakeClock
from tests.revocations import revocation_set
from tests.unit.sds.fake_authority import A_TEST, FakeAuthority, FakeSigner, entry
from tests.unit.sds.test_schedule import FixedRandom

SECOND = timedelta(seconds=1)


def order(*, window: timedelta) -> RenewOrder:
    return RenewOrder(
        id="1",
        own=False,
        svids=True,
        issuer_key_ids=frozenset(),
        not_before_until=None,
        spiffe_id=None,
        window=window,
    )


class Bench:
    """A keeper with everything around it."""

    def __init__(self, *, maximum: timedelta = 5 * SECOND, drawn: float = 0.5, **options: object) -> None:
        self.clock = FakeClock()
        self.authority = FakeAuthority(self.clock.now())
        self.signer = FakeSigner(self.authority, self.clock)
        self.feed = HoldingsFeed()
        self.feed.publish(replace(self.feed.current, bundles={A_TEST: self.authority.bundle}))
        self.random = FixedRandom(drawn)
        self.keeper = Keeper(
            trust_domain=A_TEST,
            key_kind=options.pop("key_kind", "ec-p256"),
            feed=self.feed,
            signer=self.signer,
            reconnect=ReconnectSettings(initial=timedelta(milliseconds=200), maximum=maximum),
            clock=self.clock,
            random=self.random,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Bench]:
        task = asyncio.create_task(self.keeper.run())
        try:
            yield self
        finally:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    def set_entries(self, *entries: Entry) -> None:
        """As the link does: entries replaced, SVIDs of those that went away dropped."""
        known = {each.id: each for each in entries}
        self.signer.entries.update(known)
        svids = {key: held for key, held in self.feed.current.svids.items() if key in known}
        self.feed.publish(replace(self.feed.current, entries=known, svids=svids))

    def serial(self, name: str) -> str | None:
        held = self.feed.current.svids.get(name)
        return held.svid.serial if held else None

    async def until(self, condition: Callable[[], bool]) -> None:
        """Keys are made in a real thread, so this waits for it; the time of the test stands still."""
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)

    async def holds(self, *names: str) -> None:
        await self.until(lambda: self.feed.current.svids.keys() == set(names))

    async def quiet(self) -> None:
        """Time enough for a wrong renewal to show."""
        await self.clock.advance(0)
        await asyncio.sleep(0.03)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with Bench().running() as running:
        yield running


@pytest.mark.invariant(1)
@pytest.mark.parametrize("kind", ["ec-p256", "ec-p384", "rsa-2048"])
async def test_every_entry_gets_an_svid_whose_key_was_made_here_and_never_sent(kind: str) -> None:
    async with Bench(key_kind=kind).running() as bench:
        bench.set_entries(entry("web"), entry("api"))
        await bench.holds("web", "api")
        sent = [request.csr for call in bench.signer.calls for request in call]
        keys = []
        for name, held in bench.feed.current.svids.items():
            key = load_der_private_key(held.private_key, password=None)
            assert held.svid.spiffe_id == A_TEST.member(name)
            assert held.svid.leaf.public_key() == key.public_key()
            numbers = key.private_numbers()
            secret = getattr(numbers, "private_value", None) or numbers.d
            assert not any(secret.to_bytes((secret.bit_length() + 7) // 8) in csr for csr in sent)
            keys.append(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        assert len(set(keys)) == 2
        assert all(list(x509.load_der_x509_csr(csr).subject) == [] for csr in sent)


@pytest.mark.invariant(5)
async def test_renewed_at_half_life_with_a_new_key_and_the_old_one_stays_until_then(bench: Bench) -> None:
    bench.set_entries(entry("web"))
    await bench.holds("web")
    old = bench.feed.current.svids["web"]
    await bench.clock.advance(44.9)
    await bench.quiet()
    assert len(bench.signer.calls) == 1
    bench.signer.gate.clear()
    await bench.clock.advance(0.1)
    await bench.until(lambda: len(bench.signer.calls) == 2)
    assert bench.feed.current.svids["web"] is old
    bench.signer.gate.set()
    await bench.until(lambda: bench.feed.current.svids["web"] is not old)
    assert bench.feed.current.svids["web"].private_key != old.private_key


async def test_jitter_is_drawn_once_however_often_the_keeper_looks(bench: Bench) -> None:
    bench.set_entries(entry("web"))
    await bench.holds("web")
    for uid in range(20):  # each wakes the keeper, none changes the certificate
        bench.set_entries(entry("web", selectors=frozenset({Selector("unix", f"uid:{uid}")})))
        await bench.clock.advance(1)
    assert bench.random.draws == 1
    assert len(bench.signer.calls) == 1


@pytest.mark.invariant(5)
async def test_while_the_server_is_away_what_is_held_stays_and_is_renewed_as_soon_as_it_is_back(bench: Bench) -> None:
    bench.set_entries(entry("web"))
    await bench.holds("web")
    old = bench.serial("web")
    bench.signer.away = True
    with structlog.testing.capture_logs() as logs:
        for _ in range(40):
            await bench.clock.advance(2)
            await bench.quiet()
        assert bench.serial("web") == old
        assert len(bench.signer.calls) > 3
        bench.signer.away = False
        await bench.quiet()
        assert bench.serial("web") == old
        bench.keeper.server_is_back()  # no time passes
        await bench.until(lambda: bench.serial("web") != old)
    assert [log["reason"] for log in logs if log["log_level"] == "warning"] == [Reason.SERVER_UNREACHABLE]


@pytest.mark.invariant(5)
async def test_leaves_of_seconds_are_renewed_in_time_though_nobody_says_that_the_server_is_back() -> None:
    async with Bench(maximum=60 * SECOND, drawn=0.999).running() as bench:
        bench.signer.lifetime = 4 * SECOND
        bench.set_entries(entry("web"))
        await bench.holds("web")
        old = bench.feed.current.svids["web"].svid
        bench.signer.away = True
        while bench.clock.now() < old.not_after - SECOND:
            await bench.clock.advance(0.05)
            await bench.quiet()
        bench.signer.away = False
        while bench.clock.now() < old.not_after - 0.5 * SECOND:
            await bench.clock.advance(0.05)
            await bench.quiet()
        assert bench.serial("web") not in (None, old.serial)


@pytest.mark.invariant(5)
async def test_a_clock_that_is_set_back_makes_no_pause_longer(bench: Bench) -> None:
    bench.signer.away = True
    bench.set_entries(entry("web"))
    await bench.until(lambda: bool(bench.signer.calls))
    await bench.quiet()
    bench.clock._start -= timedelta(hours=1)
    bench.signer.authority = FakeAuthority(bench.clock.now(), "then")
    bench.feed.publish(replace(bench.feed.current, bundles={A_TEST: bench.signer.authority.bundle}))
    bench.signer.away = False
    await bench.clock.advance(5)
    await bench.holds("web")


@pytest.mark.invariant(5)
async def test_a_server_that_hangs_may_eat_a_third_of_what_is_left_of_any_svid(bench: Bench) -> None:
    bench.signer.lifetime = 12 * SECOND
    bench.set_entries(entry("web"))
    await bench.holds("web")
    bench.set_entries(entry("web"), entry("new"))
    await bench.holds("web", "new")
    assert bench.signer.timeouts == [15 * SECOND, 4 * SECOND]


async def test_an_svid_that_ended_is_dropped_and_comes_again_with_the_server(bench: Bench) -> None:
    bench.set_entries(entry("web"))
    await bench.holds("web")
    bench.signer.away = True
    await bench.clock.advance(99)
    await bench.holds("web")
    await bench.until(lambda: bench.clock.is_awaited)
    await bench.clock.advance(1)
    await bench.holds()
    bench.signer.away = False
    bench.keeper.server_is_back()
    await bench.holds("web")


async def test_one_refused_entry_takes_nothing_from_the_others_and_is_tried_again(bench: Bench) -> None:
    bench.signer.refusals["bad"] = PermissionDenied(Reason.ENTRY_NOT_AUTHORIZED, "not yours")
    with structlog.testing.capture_logs() as logs:
        bench.set_entries(entry("good"), entry("bad"), entry("fine"))
        await bench.holds("good", "fine")
        for _ in range(5):
            await bench.clock.advance(5)
            await bench.quiet()
    assert [(log["entry_id"], log["reason"]) for log in logs if log["log_level"] == "warning"] == [
        ("bad", Reason.ENTRY_NOT_AUTHORIZED)
    ]
    assert all([request.entry_id for request in call] == ["bad"] for call in bench.signer.calls[1:])
    del bench.signer.refusals["bad"]
    await bench.clock.advance(5)
    await bench.holds("good", "fine", "bad")


def wrong_answer(bench: Bench, fault: str, asked: Entry, csr: object) -> list[bytes]:
    now, authority, chain = bench.clock.now(), bench.authority, []
    match fault:
        case "another id":
            chain = authority.issue("spiffe://a.test/other", csr, now, SECOND)
        case "another key":
            chain = authority.issue(asked.spiffe_id, new_key("ec-p256"), now, SECOND)
        case "ended":
            chain = authority.issue(asked.spiffe_id, csr, now - 60 * SECOND, SECOND)
        case "not yet valid":
            chain = authority.issue(asked.spiffe_id, csr, now + 60 * SECOND, SECOND)
        case "foreign root":
            chain = FakeAuthority(now, name="foreign").issue(asked.spiffe_id, csr, now, SECOND)
        case "no intermediate":
            chain = authority.issue(asked.spiffe_id, csr, now, SECOND)[:1]
        case "garbage":
            chain = [b"garbage"]
    return chain


@pytest.mark.invariant(9)
@pytest.mark.parametrize(
    "fault",
    ["another id", "another key", "ended", "not yet valid", "foreign root", "no intermediate", "garbage", "empty"],
)
async def test_a_wrong_answer_is_never_published(bench: Bench, fault: str) -> None:
    bench.signer.tamper["web"] = lambda asked, csr: wrong_answer(bench, fault, asked, csr)
    bench.set_entries(entry("web"), entry("good"))
    await bench.holds("good")
    await bench.quiet()
    await bench.holds("good")
    del bench.signer.tamper["web"]
    await bench.clock.advance(5)
    await bench.holds("good", "web")


async def test_a_changed_entry_is_issued_again_at_once_and_the_old_svid_stays_until_then(bench: Bench) -> None:
    bench.set_entries(entry("web", revision=1))
    await bench.holds("web")
    old = bench.serial("web")
    bench.signer.gate.clear()
    bench.set_entries(entry("web", revision=2, dns_names=("web.local",)))
    await bench.until(lambda: len(bench.signer.calls) == 2)
    assert bench.serial("web") == old
    bench.signer.gate.set()
    await bench.until(lambda: bench.serial("web") != old)
    names = bench.feed.current.svids["web"].svid.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["web.local"]


async def test_an_entry_that_is_removed_while_it_is_being_signed_gets_nothing(bench: Bench) -> None:
    bench.signer.gate.clear()
    bench.set_entries(entry("web"), entry("api"))
    await bench.until(lambda: len(bench.signer.calls) == 1)
    bench.set_entries(entry("api"))
    bench.signer.gate.set()
    await bench.holds("api")
    await bench.quiet()
    assert bench.feed.current.svids.keys() == {"api"}


async def test_an_order_is_obeyed_within_its_window_and_what_it_covers_goes_together(bench: Bench) -> None:
    names = [f"w{number}" for number in range(150)]
    bench.set_entries(*(entry(name) for name in names))
    await bench.holds(*names)
    draws, old = bench.random.draws, bench.serial("w0")
    bench.keeper.obey(order(window=20 * SECOND))
    assert bench.random.draws - draws == 2
    await bench.clock.advance(9.9)
    await bench.quiet()
    assert len(bench.signer.calls) == 1
    await bench.clock.advance(0.2)
    await bench.until(lambda: bench.serial("w0") != old)
    assert [len(call) for call in bench.signer.calls] == [150, 150]


async def test_a_batch_that_is_too_large_is_halved(bench: Bench) -> None:
    bench.signer.largest = 3
    names = [f"w{number}" for number in range(10)]
    bench.set_entries(*(entry(name) for name in names))
    await bench.holds(*names)
    assert [len(call) for call in bench.signer.calls][:4] == [10, 5, 2, 4]


@pytest.mark.parametrize(
    "error", [InvalidArgument(Reason.REQUEST_MALFORMED, "bad"), CitadelError(Reason.INTERNAL, "internal error")]
)
async def test_an_entry_that_fails_the_whole_call_does_not_keep_the_others_waiting(
    bench: Bench, error: CitadelError
) -> None:
    bench.signer.poison["w3"] = error
    names = {f"w{number}" for number in range(10)}
    bench.set_entries(*(entry(name) for name in names))
    await bench.holds(*(names - {"w3"}))


async def test_an_answer_is_checked_against_the_bundle_as_it_is_when_it_arrives(bench: Bench) -> None:
    new = FakeAuthority(bench.clock.now(), name="new")
    bench.signer.authority = new
    bench.signer.gate.clear()
    bench.set_entries(entry("web"))
    await bench.until(lambda: len(bench.signer.calls) == 1)
    bench.feed.publish(replace(bench.feed.current, bundles={A_TEST: new.bundle}))
    bench.signer.gate.set()
    await bench.holds("web")


@pytest.mark.invariant(4)
async def test_what_hangs_on_a_root_that_went_meanwhile_is_renewed_at_once(bench: Bench) -> None:
    bench.set_entries(entry("web"), entry("api"))
    await bench.holds("web", "api")
    before = {name: bench.serial(name) for name in ("web", "api")}
    old = bench.authority.bundle
    bench.authority = bench.signer.authority = FakeAuthority(bench.clock.now(), "two", sequence=2)
    both = replace(old, x509_authorities=(*old.x509_authorities, *bench.authority.bundle.x509_authorities), sequence=2)
    bench.feed.publish(replace(bench.feed.current, bundles={A_TEST: both}))
    await bench.quiet()
    assert {name: bench.serial(name) for name in before} == before, "a root that comes takes nothing away"
    bench.feed.publish(replace(bench.feed.current, bundles={A_TEST: bench.authority.bundle}))
    await bench.until(lambda: all(bench.serial(name) not in (None, serial) for name, serial in before.items()))


async def test_without_the_own_bundle_nothing_is_asked_for(bench: Bench) -> None:
    bench.feed.publish(replace(bench.feed.current, bundles={}))
    bench.set_entries(entry("web"))
    await bench.quiet()
    assert bench.signer.calls == []
    bench.feed.publish(replace(bench.feed.current, bundles={A_TEST: bench.authority.bundle}))
    await bench.holds("web")


class TestRevocation:
    def revoke(self, bench: Bench, *serials: int) -> None:
        """As the link does: the set taken, SVIDs that it revokes dropped."""
        authority, current = bench.authority, bench.feed.current
        revocations = revocation_set(authority.root, authority.issuer, revoked=serials)
        svids = {key: held for key, held in current.svids.items() if not revocations.holds(held.svid)}
        bench.feed.publish(replace(current, svids=svids, revocations=revocations))

    async def test_another_svid_is_asked_for_at_once_where_one_was_revoked(self, bench: Bench) -> None:
        bench.set_entries(entry("web"), entry("api"))
        await bench.holds("web", "api")
        before = {name: bench.serial(name) for name in ("web", "api")}
        self.revoke(bench, bench.feed.current.svids["web"].svid.leaf.serial_number)
        await bench.holds("web", "api")
        assert bench.serial("web") != before["web"]
        assert bench.serial("api") == before["api"]
        assert [[each.entry_id for each in call] for call in bench.signer.calls[1:]] == [["web"]]

    async def test_a_barred_identity_is_tried_again_ever_more_slowly_said_once_and_disturbs_nobody(
        self, bench: Bench
    ) -> None:
        bench.set_entries(entry("web"), entry("api"))
        await bench.holds("web", "api")
        bench.signer.refusals["web"] = PermissionDenied(Reason.IDENTITY_REVOKED, "barred: key compromise")
        with structlog.testing.capture_logs() as logs:
            self.revoke(bench, bench.feed.current.svids["web"].svid.leaf.serial_number)
            await bench.until(lambda: len(bench.signer.calls) == 2)
            for _ in range(20):
                await bench.clock.advance(1)
                await bench.quiet()
        assert 4 < len(bench.signer.calls) < 20
        assert [log["reason"] for log in logs if log["log_level"] == "warning"] == [Reason.IDENTITY_REVOKED]
        assert bench.feed.current.svids.keys() == {"api"}
        outlook = bench.keeper.outlook("web")
        assert outlook is not None
        assert (outlook.refusal, outlook.words) == (Reason.IDENTITY_REVOKED, "barred: key compromise")
        del bench.signer.refusals["web"]
        await bench.clock.advance(5)
        await bench.holds("web", "api")

    @pytest.mark.invariant(9)
    async def test_an_answer_that_is_revoked_already_is_never_published_nor_asked_for_in_a_loop(
        self, bench: Bench
    ) -> None:
        def of_one_serial(asked: Entry, csr: object) -> list[bytes]:
            leaf = certificates.leaf(
                bench.authority.issuer,
                str(asked.spiffe_id),
                key=csr,
                serial=7,
                not_before=bench.clock.now() - SECOND,
                not_after=bench.clock.now() + 100 * SECOND,
            )
            return [leaf.der, bench.authority.issuer.der]

        bench.signer.tamper["web"] = of_one_serial
        bench.signer.gate.clear()
        bench.set_entries(entry("web"), entry("api"))
        await bench.until(lambda: len(bench.signer.calls) == 1)
        self.revoke(bench, 7)  # while it is being signed
        bench.signer.gate.set()
        await bench.holds("api")
        await bench.quiet()
        assert len(bench.signer.calls) == 1
        outlook = bench.keeper.outlook("web")
        assert outlook is not None
        assert outlook.refusal is Reason.IDENTITY_REVOKED
        del bench.signer.tamper["web"]
        await bench.clock.advance(5)
        await bench.holds("web", "api")


async def test_an_order_about_the_agent_itself_hastens_no_workload(bench: Bench) -> None:
    bench.set_entries(entry("web"))
    await bench.holds("web")
    serial = bench.serial("web")
    bench.keeper.obey(replace(order(window=timedelta(0)), own=True, svids=False))
    await bench.quiet()
    assert bench.serial("web") == serial
    assert list(bench.keeper.progress().now().orders) == []
