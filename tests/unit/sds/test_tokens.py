"""Tokens on a node: given from what is kept, fetched once for all who wait, forgotten with what vouched for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from citadel.entry import Entry
from citadel.errors import CitadelError, InvalidArgument, PermissionDenied, Reason, ResourceExhausted, Unauthenticated
from citadel.jwt_svid import JwtSvid
from citadel.peer import Party
from sds.holdings import HoldingsFeed
from sds.tokens.cache import HeldToken, TokenCache, TokenKey
from sds.tokens.fetching import KEY_COMES_WITHIN
from sds.tokens.keeper import PATIENCE, RETRY
from tests.certificates import A_TEST, NOW
from tests.clock import FakeClock
from tests.unit.sds.fake_tokens import AWAY, ONE, TWO, FakeTokenSigner, token_keeper, with_keys
from tests.unit.sds.holding import entry, holdings, own_bundle

WEB, API = entry("web"), entry("api")
AUDIENCE = ("spiffe://a.test/server",)
LIFE = 100.0  # seconds
SOMEBODY = 1000


class Node:
    """An agent's tokens, its holdings filled by hand."""

    def __init__(self, **options: Any) -> None:
        self.feed, self.clock = HoldingsFeed(), FakeClock(NOW)
        self.signer = FakeTokenSigner(self.clock, WEB, API, lifetime=timedelta(seconds=LIFE))
        self.refusals: list[CitadelError] = []
        self.keeper = token_keeper(
            self.feed,
            self.clock,
            signer=self.signer,
            on_refusal=lambda _, error: self.refusals.append(error),
            **options,
        )
        self.hold(WEB, API)

    def hold(self, *entries: Entry, **keys: Any) -> None:
        self.feed.publish(holdings(entries, (), with_keys(own_bundle(), **(keys or {"one": ONE}))))

    async def ask(
        self, *entries: Entry, audience: tuple[str, ...] = AUDIENCE, uid: Party = SOMEBODY
    ) -> Sequence[JwtSvid | CitadelError]:
        return await self.keeper.tokens(entries or (WEB,), audience, party=uid)

    async def token(self, of: Entry = WEB, audience: tuple[str, ...] = AUDIENCE) -> str:
        (svid,) = await self.ask(of, audience=audience)
        assert isinstance(svid, JwtSvid), svid
        return svid.token

    async def refusal(self, of: Entry = WEB) -> CitadelError:
        (error,) = await self.ask(of)
        assert isinstance(error, CitadelError)
        return error


@pytest.fixture
def node() -> Node:
    return Node()


async def waiting(node: Node, *entries: Entry) -> asyncio.Task[Sequence[JwtSvid | CitadelError]]:
    """A call that does not end by itself."""
    asking = asyncio.create_task(node.ask(*entries))
    await asyncio.sleep(0.05)
    await node.clock.advance(0)
    assert not asking.done()
    return asking


class TestWhatIsKept:
    async def test_a_token_is_given_again_until_half_of_its_life(self, node: Node) -> None:
        first = await node.token()
        await node.clock.advance(LIFE / 2 - 1)
        assert await node.token() == first
        await node.clock.advance(1)
        assert await node.token() != first
        assert len(node.signer.calls) == 2

    async def test_each_entry_and_each_list_of_audiences_has_its_own(self, node: Node) -> None:
        one, two = AUDIENCE, (*AUDIENCE, "other")
        tokens = {await node.token(of, audience) for of in (WEB, API) for audience in (one, two, two[::-1])}
        assert len(tokens) == 6
        assert {await node.token(of, audience) for of in (WEB, API) for audience in (one, two, two[::-1])} == tokens

    @pytest.mark.spec("WAPI-31")
    async def test_all_audiences_stand_in_the_token_and_no_others(self, node: Node) -> None:
        (svid,) = await node.ask(audience=("b", "a"))
        assert isinstance(svid, JwtSvid)
        assert svid.audience == ("b", "a")

    async def test_entries_are_asked_for_in_one_call_and_only_those_that_lack_one(self, node: Node) -> None:
        await node.ask(WEB)
        results = await node.ask(WEB, API)
        assert [each.spiffe_id for each in results if isinstance(each, JwtSvid)] == [WEB.spiffe_id, API.spiffe_id]
        assert node.signer.asked == [("web",), ("api",)]
        await node.clock.advance(LIFE / 2)
        await node.ask(WEB, API)
        assert node.signer.asked[2:] == [("web", "api")]

    async def test_who_asks_for_the_same_at_once_shares_one_call(self, node: Node) -> None:
        node.signer.gate.clear()
        asking = [asyncio.create_task(node.token()) for _ in range(20)]
        mixed = asyncio.create_task(node.ask(WEB, API))
        await asyncio.sleep(0.05)
        node.signer.gate.set()
        assert len({*await asyncio.gather(*asking)}) == 1
        await mixed
        assert node.signer.asked == [("web",), ("api",)]

    async def test_who_asked_first_and_left_takes_nothing_from_the_others(self, node: Node) -> None:
        node.signer.gate.clear()
        first = await waiting(node)
        second = await waiting(node)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        node.signer.gate.set()
        assert isinstance((await second)[0], JwtSvid)
        assert len(node.signer.calls) == 1

    async def test_a_server_that_takes_fewer_at_once_is_asked_for_fewer(self, node: Node) -> None:
        node.signer.largest = 1
        assert all(isinstance(each, JwtSvid) for each in await node.ask(WEB, API))
        assert node.signer.asked == [("web", "api"), ("web",), ("api",)]


class TestAServerThatIsAway:
    @pytest.mark.invariant(5)
    async def test_what_is_good_is_given_until_it_ends_and_not_a_moment_longer(self, node: Node) -> None:
        first = await node.token()
        node.signer.error = AWAY
        await node.clock.advance(LIFE - 1)
        assert await node.token() == first
        await node.clock.advance(1)
        assert (await node.refusal()).reason == Reason.SERVER_UNREACHABLE
        node.signer.error = None
        assert await node.token() != first

    async def test_it_is_asked_again_after_a_while_and_not_for_every_caller(self, node: Node) -> None:
        first = await node.token()
        node.signer.error = AWAY
        await node.clock.advance(LIFE / 2)
        for _ in range(5):
            assert await node.token() == first
        assert len(node.signer.calls) == 2
        assert [each.reason for each in node.refusals] == [Reason.SERVER_UNREACHABLE]
        await node.clock.advance(RETRY.total_seconds())
        assert await node.token() == first
        assert len(node.signer.calls) == 3

    async def test_who_has_a_good_one_waits_only_a_moment_for_a_better_one(self, node: Node) -> None:
        first = await node.token()
        node.signer.gate.clear()
        await node.clock.advance(LIFE / 2)
        asking = await waiting(node)
        await node.clock.advance(PATIENCE)
        (given,) = await asking
        assert isinstance(given, JwtSvid)
        assert given.token == first
        node.signer.gate.set()
        await asyncio.sleep(0.05)
        assert await node.token() != first
        assert len(node.signer.calls) == 2, "the call went on, and its answer was kept"

    async def test_without_any_token_the_refusal_is_that_of_the_call(self, node: Node) -> None:
        node.signer.error = AWAY
        assert await node.refusal() is AWAY

    @pytest.mark.parametrize("kind", [PermissionDenied, Unauthenticated, InvalidArgument])
    async def test_what_the_server_holds_against_the_agent_is_not_said_of_the_workload(
        self, node: Node, kind: type[CitadelError]
    ) -> None:
        first = await node.token()
        node.signer.error = kind(Reason.AGENT_BANNED, "banned")
        await node.clock.advance(LIFE / 2)
        assert await node.token() == first, "one that is good stays so"
        await node.clock.advance(LIFE / 2)
        error = await node.refusal()
        assert (error.kind, error.reason) == ("UNAVAILABLE", Reason.AGENT_BANNED)


class TestWhatIsRefused:
    async def test_one_takes_nothing_from_the_others(self, node: Node) -> None:
        denied = PermissionDenied(Reason.IDENTITY_REVOKED, "revoked")
        node.signer.refusals["web"] = denied
        web, api = await node.ask(WEB, API)
        assert web == denied
        assert isinstance(api, JwtSvid)

    async def test_an_identity_that_was_revoked_loses_what_is_kept(self, node: Node) -> None:
        await node.token()
        node.signer.refusals["web"] = PermissionDenied(Reason.IDENTITY_REVOKED, "revoked")
        await node.clock.advance(LIFE / 2)
        assert (await node.refusal()).reason == Reason.IDENTITY_REVOKED
        node.signer.refusals["web"] = AWAY
        assert (await node.refusal()).reason == Reason.SERVER_UNREACHABLE, "it was not kept"

    async def test_an_identity_that_the_server_told_to_be_revoked_gets_nothing_and_is_not_asked_for(
        self, node: Node
    ) -> None:
        first = await node.token()
        held = node.feed.current
        node.feed.publish(replace(held, revoked_identities=frozenset({WEB.spiffe_id})))
        web, api = await node.ask(WEB, API)
        assert isinstance(web, PermissionDenied)
        assert web.reason == Reason.IDENTITY_REVOKED
        assert isinstance(api, JwtSvid)
        assert node.signer.asked == [("web",), ("api",)]
        node.feed.publish(held)
        assert await node.token() != first, "it was not kept"

    async def test_one_that_is_refused_for_now_keeps_what_it_has(self, node: Node) -> None:
        first = await node.token()
        node.signer.refusals["web"] = ResourceExhausted(Reason.TOO_MANY_REQUESTS, "slowly")
        await node.clock.advance(LIFE / 2)
        assert await node.token() == first

    @pytest.mark.parametrize("uid", [SOMEBODY, 0, "pod-a"])
    async def test_a_user_can_make_the_server_sign_only_so_much(self, uid: Party) -> None:
        node = Node(per_second=2.0)
        results = [(await node.ask(audience=(f"a{number}",), uid=uid))[0] for number in range(11)]
        assert [isinstance(each, JwtSvid) for each in results] == [True] * 10 + [False]
        assert isinstance(results[10], ResourceExhausted)
        assert isinstance((await node.ask(audience=("a1",), uid=uid))[0], JwtSvid), "what is kept costs nothing"
        assert isinstance((await node.ask(audience=("b",), uid=SOMEBODY + 1))[0], JwtSvid)
        await node.clock.advance(1)
        assert isinstance((await node.ask(audience=("c",), uid=uid))[0], JwtSvid)

    async def test_what_counts_is_the_tokens_and_not_the_calls(self) -> None:
        node = Node(per_second=2.0)
        for number in range(8):
            await node.ask(WEB, API, audience=(f"a{number}",))
        assert sum(map(len, node.signer.calls)) == 10

    async def test_who_has_more_identities_than_that_is_served_while_it_took_nothing_else(self) -> None:
        many = [entry(f"e{number}") for number in range(15)]
        node = Node(per_second=2.0)
        node.signer.entries.update({each.id: each for each in many})
        node.hold(*many)
        assert all(isinstance(each, JwtSvid) for each in await node.ask(*many))
        assert all(isinstance(each, ResourceExhausted) for each in await node.ask(*many, audience=("b",)))

    @pytest.mark.invariant(9)
    @pytest.mark.parametrize(
        ("claims", "reason"),
        [
            ({"sub": "spiffe://a.test/other"}, Reason.JWT_MALFORMED),
            ({"sub": "spiffe://b.test/web"}, Reason.JWT_ISSUER_UNKNOWN),
            ({"aud": [*AUDIENCE, "other"]}, Reason.JWT_MALFORMED),
            ({"aud": ["other"]}, Reason.JWT_AUDIENCE_MISMATCH),
            ({"aud": []}, Reason.JWT_MALFORMED),
            ({"exp": 1}, Reason.JWT_EXPIRED),
            ({"exp": "soon"}, Reason.JWT_MALFORMED),
            ({"nbf": int(NOW.timestamp()) + 3600}, Reason.JWT_NOT_YET_VALID),
        ],
    )
    async def test_a_token_that_was_not_asked_for_is_given_to_nobody(
        self, node: Node, claims: dict[str, Any], reason: Reason
    ) -> None:
        node.signer.claims = claims
        error = await node.refusal()
        assert (error.kind, error.reason) == ("UNAVAILABLE", reason)
        assert node.refusals == [error]

    @pytest.mark.invariant(9)
    async def test_nor_is_one_that_somebody_else_signed(self, node: Node) -> None:
        node.signer.key = TWO
        assert (await node.refusal()).reason == Reason.JWT_BAD_SIGNATURE

    async def test_nor_is_one_that_ended_on_its_way(self, node: Node) -> None:
        node.signer.claims = {"exp": int(NOW.timestamp()) - 1}  # good by the leeway for clocks
        assert (await node.refusal()).reason == Reason.NOT_READY


class TestKeysThatComeAndGo:
    async def test_a_key_that_is_not_known_yet_is_waited_for(self, node: Node) -> None:
        node.signer.key, node.signer.key_id = TWO, "two"
        asking = await waiting(node)
        node.hold(WEB, one=ONE, two=TWO)
        (svid,) = await asking
        assert isinstance(svid, JwtSvid)
        assert svid.key_id == "two"

    async def test_but_not_for_ever(self, node: Node) -> None:
        node.signer.key, node.signer.key_id = TWO, "two"
        asking = await waiting(node)
        await node.clock.advance(KEY_COMES_WITHIN)
        (error,) = await asking
        assert isinstance(error, CitadelError)
        assert (error.kind, error.reason) == ("UNAVAILABLE", Reason.JWT_KEY_UNKNOWN)

    async def test_a_token_whose_key_is_gone_is_not_given_any_more(self, node: Node) -> None:
        first = await node.token()
        node.signer.key, node.signer.key_id = TWO, "two"
        node.hold(WEB, two=TWO)
        assert await node.token() != first
        node.signer.error = AWAY
        node.hold(WEB, three=TWO)
        assert await node.refusal() is AWAY

    async def test_while_two_keys_are_good_so_are_their_tokens(self, node: Node) -> None:
        first = await node.token()
        node.signer.key, node.signer.key_id = TWO, "two"
        node.hold(WEB, one=ONE, two=TWO)
        assert await node.token() == first

    async def test_a_key_that_goes_while_its_token_is_on_the_way(self, node: Node) -> None:
        node.signer.gate.clear()
        asking = await waiting(node)
        node.hold(WEB, two=TWO)
        node.signer.gate.set()
        await asyncio.sleep(0.05)
        await node.clock.advance(KEY_COMES_WITHIN)
        assert isinstance((await asking)[0], CitadelError)

    async def test_without_any_bundle_nothing_is_given(self, node: Node) -> None:
        node.feed.publish(replace(node.feed.current, bundles={}))
        asking = await waiting(node)
        await node.clock.advance(KEY_COMES_WITHIN)
        assert isinstance((await asking)[0], CitadelError)


class TestEntriesThatComeAndGo:
    async def test_what_was_kept_for_an_entry_goes_with_it(self, node: Node) -> None:
        first = await node.token()
        node.hold(API)
        await node.token(API)
        node.hold(WEB, API)
        assert await node.token() != first

    async def test_an_entry_that_goes_while_its_token_is_on_the_way(self, node: Node) -> None:
        node.signer.gate.clear()
        asking = await waiting(node)
        node.hold(API)
        node.signer.gate.set()
        assert isinstance((await asking)[0], CitadelError)

    async def test_an_entry_of_another_identity_gets_no_token_of_the_old_one(self, node: Node) -> None:
        await node.token()
        renamed = entry("web", spiffe_id=A_TEST.member("renamed"))
        node.signer.entries["web"] = renamed
        node.hold(renamed)
        (svid,) = await node.ask(renamed)
        assert isinstance(svid, JwtSvid)
        assert svid.spiffe_id == renamed.spiffe_id

    async def test_who_waits_gets_no_token_of_whom_the_entry_was_given_to_meanwhile(self, node: Node) -> None:
        await node.token(WEB)
        node.signer.gate.clear()
        asking = await waiting(node, WEB, API)
        renamed = entry("web", spiffe_id=A_TEST.member("renamed"))
        node.signer.entries["web"] = renamed
        node.hold(renamed, API)
        held_up, node.signer.gate = node.signer.gate, asyncio.Event()
        node.signer.gate.set()
        assert isinstance((await node.ask(renamed))[0], JwtSvid)
        held_up.set()
        web, api = await asking
        assert isinstance(web, CitadelError)
        assert isinstance(api, JwtSvid)

    async def test_no_token_outlives_its_entry_also_when_that_is_to_end_sooner_than_was_said(self, node: Node) -> None:
        await node.token()
        shorter = replace(WEB, expires_at=NOW + timedelta(seconds=LIFE / 4))
        node.hold(shorter)
        assert (await node.refusal()).reason == Reason.NOT_READY, "nor does a fresh one, whatever the server answers"
        node.signer.entries["web"] = shorter
        (svid,) = await node.ask()
        assert isinstance(svid, JwtSvid)
        assert svid.expires_at == shorter.expires_at


async def test_what_is_under_way_ends_with_the_agent(node: Node) -> None:
    node.signer.gate.clear()
    asking = await waiting(node)
    await node.keeper.close()
    assert isinstance((await asking)[0], CitadelError)


async def test_a_token_is_not_shown(node: Node) -> None:
    token = await node.token()
    held = node.keeper._cache.get(TokenKey(entry_id="web", audience=AUDIENCE))
    assert held is not None
    assert token.rpartition(".")[2] not in repr(held)


class TestTheCache:
    @staticmethod
    async def kept(node: Node) -> HeldToken:
        (svid,) = await node.ask()
        assert isinstance(svid, JwtSvid)
        return HeldToken(svid=svid, renew_at=NOW)

    @staticmethod
    def key(of: str, audience: object) -> TokenKey:
        return TokenKey(entry_id=of, audience=(str(audience),))

    async def test_an_entry_keeps_those_that_were_asked_for_last(self, node: Node) -> None:
        cache, held = TokenCache(most_of_one=3), await self.kept(node)
        for number in range(3):
            cache.put(self.key("a", number), held)
        cache.get(self.key("a", 0))
        cache.put(self.key("a", 3), held)
        assert [cache.get(self.key("a", number)) is not None for number in range(4)] == [True, False, True, True]
        assert len(cache) == 3

    async def test_who_has_most_makes_room(self, node: Node) -> None:
        cache, held = TokenCache(most_of_one=8, most=10), await self.kept(node)
        for number in range(3):
            cache.put(self.key("modest", number), held)
        for number in range(50):
            cache.put(self.key("greedy", number), held)
        assert len(cache) == 10
        assert all(cache.get(self.key("modest", number)) for number in range(3))

    async def test_the_same_again_takes_no_room(self, node: Node) -> None:
        cache, held = TokenCache(most_of_one=2, most=2), await self.kept(node)
        for _ in range(5):
            cache.put(self.key("a", 1), held)
        assert len(cache) == 1
        cache.drop(self.key("a", 1))
        cache.drop(self.key("a", 1))
        cache.drop(self.key("b", 1))
        assert len(cache) == 0
        assert not cache._by_entry

    async def test_what_is_not_good_is_forgotten(self, node: Node) -> None:
        cache, held = TokenCache(), await self.kept(node)
        for of in ("a", "b"):
            cache.put(self.key(of, 1), held)
        cache.keep_only(lambda entry_id, _: entry_id == "b")
        assert (cache.get(self.key("a", 1)), cache.get(self.key("b", 1))) == (None, held)
        assert len(cache) == 1
