"""When issuers' keys are fetched, who waits for that, and what is used where it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from citadel.errors import CitadelError, InvalidArgument, Reason, Unavailable
from citadel.jwt.jwks import KeySet
from citadel.jwt.key_ring import IssuerKeyRing
from citadel.jwt.keys import Answer, KeySource
from citadel.jwt.settings import JwtRule
from tests.certificates import NOW
from tests.clock import FakeClock
from tests.end_users import SigningKey, jwks_bytes, rule

OLD, NEW = SigningKey.p256("old"), SigningKey.p256("new")
RULE: Final = JwtRule.model_validate({"issuer": "https://issuer.test"})
DOWN: Final = Unavailable(Reason.JWKS_UNAVAILABLE, "issuer.test answered 503")
MINUTE: Final = 60.0


class FakeIssuer:
    """Fulfils `FetchKeys`: answers with what it holds or raises it, at once unless it is `slow`."""

    def __init__(self, *keys: SigningKey) -> None:
        self.answer: KeySet | Exception = KeySet.parse(jwks_bytes(*keys))
        self.max_age: timedelta | None = None
        self.asked: list[KeySource] = []
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, source: KeySource) -> Answer:
        self.asked.append(source)
        await self.open.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return Answer(keys=self.answer, max_age=self.max_age)

    def publishes(self, *keys: SigningKey) -> None:
        self.answer = KeySet.parse(jwks_bytes(*keys))


@asynccontextmanager
async def ring_of(issuer: FakeIssuer, clock: FakeClock, jitter: float = 0.5) -> AsyncIterator[IssuerKeyRing]:
    ring = IssuerKeyRing(fetch=issuer, clock=clock, jitter=lambda: jitter)
    try:
        yield ring
    finally:
        await ring.close()


async def ids(ring: IssuerKeyRing, key_id: str) -> list[str]:
    return [each.key_id for each in await ring.of(RULE).under(key_id)]


async def refused(ring: IssuerKeyRing) -> CitadelError:
    with pytest.raises(Unavailable) as refusal:
        await ring.of(RULE).under("old")
    return refusal.value


async def test_the_first_requests_wait_for_one_fetch() -> None:
    issuer, clock = FakeIssuer(OLD), FakeClock()
    issuer.open.clear()
    async with ring_of(issuer, clock) as ring:
        waiting = [asyncio.create_task(ids(ring, "old")) for _ in range(10)]
        await clock.advance(0)
        assert not any(each.done() for each in waiting)
        issuer.open.set()
        assert await asyncio.gather(*waiting) == [["old"]] * 10
        assert len(issuer.asked) == 1


async def test_a_request_that_goes_away_ends_no_fetch() -> None:
    issuer, clock = FakeIssuer(OLD), FakeClock()
    issuer.open.clear()
    async with ring_of(issuer, clock) as ring:
        gone, stays = (asyncio.create_task(ids(ring, "old")) for _ in range(2))
        await clock.advance(0)
        gone.cancel()
        issuer.open.set()
        assert await stays == ["old"]


@pytest.mark.parametrize(
    ("max_age", "jitter", "minutes"),
    [
        (None, 0.0, 14.0),
        (None, 0.5, 16.0),
        (None, 1.0, 18.0),
        (timedelta(minutes=10), 0.5, 8.0),
        (timedelta(0), 0.5, 0.8),
        (timedelta(days=300), 0.5, 48.0),
    ],
)
async def test_keys_are_fetched_again_before_their_time_is_over(
    max_age: timedelta | None, jitter: float, minutes: float
) -> None:
    issuer, clock = FakeIssuer(OLD), FakeClock()
    issuer.max_age = max_age
    async with ring_of(issuer, clock, jitter) as ring:
        assert await ids(ring, "old") == ["old"]
        assert ring.statuses()[0].next_try == NOW + timedelta(minutes=minutes)
        await clock.advance(minutes * MINUTE - 1)
        assert len(issuer.asked) == 1
        issuer.publishes(NEW)
        await clock.advance(1)
        assert len(issuer.asked) == 2
        assert await ids(ring, "new") == ["new"]
        assert await ids(ring, "old") == []


async def test_no_request_waits_while_keys_are_refreshed() -> None:
    issuer, clock = FakeIssuer(OLD), FakeClock()
    async with ring_of(issuer, clock) as ring:
        await ids(ring, "old")
        issuer.open.clear()
        await clock.advance(16 * MINUTE)
        assert len(issuer.asked) == 2
        assert await asyncio.wait_for(ids(ring, "old"), 1) == ["old"]


class TestUnknownId:
    async def test_it_is_asked_for_at_once_and_once_for_all_who_wait(self) -> None:
        issuer, clock = FakeIssuer(OLD), FakeClock()
        async with ring_of(issuer, clock) as ring:
            await ids(ring, "old")
            await clock.advance(5)
            issuer.publishes(OLD, NEW)
            issuer.open.clear()
            waiting = [asyncio.create_task(ids(ring, "new")) for _ in range(10)]
            await clock.advance(0)
            assert await ids(ring, "old") == ["old"]  # who needs it not does not wait
            issuer.open.set()
            assert await asyncio.gather(*waiting) == [["new"]] * 10
            assert len(issuer.asked) == 2

    async def test_invented_ones_cost_the_issuer_one_fetch_in_five_seconds(self) -> None:
        issuer, clock = FakeIssuer(OLD), FakeClock()
        async with ring_of(issuer, clock) as ring:
            for second in range(20):
                for number in range(5):
                    assert await ids(ring, f"invented {second} {number}") == []
                await clock.advance(1)
            assert len(issuer.asked) == 4  # at 0, 5, 10 and 15 s

    async def test_while_the_issuer_is_down_the_known_ones_stay(self) -> None:
        issuer, clock = FakeIssuer(OLD), FakeClock()
        async with ring_of(issuer, clock) as ring:
            await ids(ring, "old")
            await clock.advance(5)
            issuer.answer = DOWN
            assert await ids(ring, "new") == []
            assert await ids(ring, "old") == ["old"]
            issuer.publishes(NEW)
            await clock.advance(0.5)
            assert await ids(ring, "new") == ["new"]

    async def test_while_the_issuer_is_down_invented_ones_cost_it_no_fetch(self) -> None:
        issuer, clock = FakeIssuer(OLD), FakeClock()
        async with ring_of(issuer, clock, jitter=1.0) as ring:
            await ids(ring, "old")
            issuer.answer = DOWN
            for second in range(60):
                await ids(ring, f"invented {second}")
                await clock.advance(1)
            # At 5 s for an invented one, and then as if nobody had invented any.
            assert len(issuer.asked) == 1 + len([5, 5.5, 6.5, 8.5, 12.5, 20.5, 36.5])

    async def test_a_set_without_ids_is_not_asked_for_again(self) -> None:
        issuer, clock = FakeIssuer(SigningKey.p256("")), FakeClock()
        async with ring_of(issuer, clock) as ring:
            await clock.advance(60)
            assert await ids(ring, "any") == [""]
            assert len(issuer.asked) == 1


class TestDown:
    async def test_a_first_fetch_that_fails_refuses_and_recovers_within_seconds(self) -> None:
        issuer, clock = FakeIssuer(OLD), FakeClock()
        issuer.answer = DOWN
        async with ring_of(issuer, clock) as ring:
            refusal = await refused(ring)
            assert refusal.reason is Reason.JWKS_UNAVAILABLE
            assert "503" not in str(refusal)  # the end user need not know
            await clock.advance(MINUTE)
            tries = len(issuer.asked)
            await refused(ring)
            assert len(issuer.asked) == tries  # a request causes none
            issuer.publishes(OLD)
            await clock.advance(5)
            assert await ids(ring, "old") == ["old"]

    async def test_tries_come_half_a_second_later_and_then_seldomer(self) -> None:
        issuer, clock = FakeIssuer(OLD), FakeClock()
        issuer.answer, moments = DOWN, []
        async with ring_of(issuer, clock, jitter=1.0) as ring:
            await refused(ring)
            for _ in range(6):
                due = ring.statuses()[0].next_try
                moments.append((due - clock.now()).total_seconds())
                await clock.advance(moments[-1])
            assert moments == [0.5, 1, 2, 4, 5, 5]
            assert len(issuer.asked) == 7

    async def test_with_keys_in_hand_there_is_more_time(self) -> None:
        issuer, clock = FakeIssuer(OLD), FakeClock()
        async with ring_of(issuer, clock, jitter=1.0) as ring:
            await ids(ring, "old")
            issuer.answer = DOWN
            await clock.advance(78 * MINUTE)
            assert ring.statuses()[0].next_try - clock.now() <= timedelta(minutes=1)
            assert 60 <= len(issuer.asked) <= 70
            assert await ids(ring, "old") == ["old"]

    @pytest.mark.parametrize(
        "answer",
        [
            DOWN,
            InvalidArgument(Reason.JWKS_MALFORMED, "no key can be used"),
            Unavailable(Reason.ADDRESS_REFUSED, "issuer.test is at 169.254.169.254"),
            ZeroDivisionError("a defect"),
        ],
    )
    async def test_the_last_keys_stay_whatever_comes_instead(self, answer: Exception) -> None:
        issuer, clock = FakeIssuer(OLD), FakeClock()
        async with ring_of(issuer, clock) as ring:
            await ids(ring, "old")
            issuer.answer = answer
            await clock.advance(60 * MINUTE)
            assert await ids(ring, "old") == ["old"]
            issuer.publishes(NEW)
            await clock.advance(MINUTE)
            assert await ids(ring, "new") == ["new"]

    async def test_changes_of_state_are_told_and_nothing_else(self) -> None:
        issuer, clock = FakeIssuer(OLD), FakeClock()
        with capture_logs() as logs:
            async with ring_of(issuer, clock) as ring:
                await ids(ring, "old")
                issuer.answer = DOWN
                await clock.advance(60 * MINUTE)
                issuer.publishes(OLD)
                await clock.advance(60 * MINUTE)
        assert [(line["log_level"], line["event"]) for line in logs] == [
            ("info", "an issuer's keys are here"),
            ("warning", "an issuer's keys cannot be fetched"),
            ("info", "an issuer's keys are here"),
        ]
        assert (logs[1]["reason"], logs[1]["keys_kept"]) == ("jwks_unavailable", True)

    async def test_skipped_keys_are_told_once(self) -> None:
        issuer, clock = FakeIssuer(OLD), FakeClock()
        issuer.answer = KeySet.parse(jwks_bytes(OLD, NEW.jwk(use="enc")))
        with capture_logs() as logs:
            async with ring_of(issuer, clock) as ring:
                await ids(ring, "old")
                await clock.advance(60 * MINUTE)
        assert [line["why"] for line in logs if line["event"] == "keys of an issuer are not used"] == [
            ["element 1: use 'enc' is not sig"]
        ]


async def test_the_status_says_how_it_is() -> None:
    issuer, clock = FakeIssuer(OLD, NEW), FakeClock()
    issuer.answer, good = Unavailable(Reason.JWKS_UNAVAILABLE, "no\nanswer"), issuer.answer
    async with ring_of(issuer, clock) as ring:
        ring.of(RULE)
        (status,) = ring.statuses()
        assert (status.degraded, status.words, status.keys) == (True, "its keys are being fetched", 0)
        await clock.advance(10)
        (status,) = ring.statuses()
        assert (status.issuer, status.degraded, status.since) == ("https://issuer.test", True, NOW)
        assert status.words == (
            "no new keys since 2026-01-01T00:00:00+00:00 (jwks_unavailable: no answer); its tokens are refused"
        )
        issuer.answer = good
        await clock.advance(5)
        (status,) = ring.statuses()
        assert (status.degraded, status.words, status.keys) == (False, "2 keys", 2)
        issuer.answer = DOWN
        await clock.advance(30 * MINUTE)
        (status,) = ring.statuses()
        assert (status.degraded, status.keys) == (True, 2)
        assert status.words.endswith("(jwks_unavailable: issuer.test answered 503); goes on with 2 keys")


class TestRing:
    async def test_rules_that_fetch_alike_share_their_keys(self) -> None:
        issuer, clock = FakeIssuer(OLD), FakeClock()
        same = RULE.model_copy(update={"audiences": ("a",)})
        async with ring_of(issuer, clock) as ring:
            assert ring.of(same) is ring.of(RULE)
            for change in (
                {"jwksUri": "https://a.test/"},
                {"allowPrivateAddresses": True},
                {"caFile": Path("/ca.pem")},
            ):
                ring.of(RULE.model_copy(update=change))
            await clock.advance(0)
            assert len(issuer.asked) == len(ring.statuses()) == 4

    async def test_over_a_reload_the_keys_stay_and_what_nobody_names_is_asked_no_more(self) -> None:
        issuer, clock = FakeIssuer(OLD), FakeClock()
        other = JwtRule.model_validate({"issuer": "https://other.test"})
        async with ring_of(issuer, clock) as ring:
            kept, gone = ring.of(RULE), ring.of(other)
            await clock.advance(0)
            await ring.keep_only([RULE, rule(OLD)])
            assert ring.of(RULE) is kept
            assert [each.key_id for each in await gone.under("old")] == ["old"]  # a request under way
            await clock.advance(16 * MINUTE)
            assert not await gone.under("unknown")
            assert [source.issuer for source in issuer.asked] == [RULE.issuer, other.issuer, RULE.issuer]

    async def test_the_version_changes_exactly_when_keys_do(self) -> None:
        issuer, clock = FakeIssuer(OLD), FakeClock()
        async with ring_of(issuer, clock) as ring:
            versions = [ring.version]
            await ids(ring, "old")
            for answer in (issuer.answer, DOWN, issuer.answer, KeySet.parse(jwks_bytes(OLD, NEW))):
                versions.append(ring.version)
                issuer.answer = answer
                await clock.advance(20 * MINUTE)
            versions.append(ring.version)
            assert versions == [0, 1, 1, 1, 1, 2]

    async def test_keys_in_the_rule_are_never_fetched(self) -> None:
        issuer, clock = FakeIssuer(NEW), FakeClock()
        async with ring_of(issuer, clock) as ring:
            assert [each.key_id for each in await ring.of(rule(OLD)).under("old")] == ["old"]
            assert not await ring.of(rule(OLD)).under("new")
            assert (issuer.asked, ring.statuses()) == ([], ())

    async def test_closing_leaves_nothing_running(self) -> None:
        issuer, clock = FakeIssuer(OLD), FakeClock()
        before: set[asyncio.Task[Any]] = asyncio.all_tasks()
        async with ring_of(issuer, clock) as ring:
            ring.of(RULE)
            await clock.advance(0)
            issuer.open.clear()
            ring.of(RULE.model_copy(update={"jwksUri": "https://a.test/"}))
            await clock.advance(0)
            assert len(asyncio.all_tasks()) == len(before) + 2
        assert asyncio.all_tasks() == before
