"""The JWT profile of the Workload API on a real socket, with holdings made by hand and a signer in memory."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from citadel._wire import workload_pb2 as pb
from citadel.bundle import TrustBundle
from citadel.entry import Entry
from citadel.errors import PermissionDenied, Reason, ResourceExhausted
from citadel.jws import Jws
from citadel.jwt_svid import verify_jwt_svid
from citadel.peer import Caller, Party
from citadel.rpc import from_rpc_error
from citadel.selector import Selector
from citadel.spiffe import SpiffeId
from sds.holdings import Holdings
from tests.certificates import A_TEST, B_TEST, NOW, WORKLOAD
from tests.servers import refusal
from tests.tokens import AUDIENCE, CLAIMS, token
from tests.unit.sds.fake_tokens import AWAY, ONE, TWO, with_keys
from tests.unit.sds.holding import empty_bundle, entry, holdings, own_bundle
from tests.unit.sds.node import FakeAttestor, Node, eventually
from tests.workloads import Workload, workload_at

INVALID, DENIED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
WEB = entry("web", created_at=NOW - timedelta(seconds=2))
JOB = entry("job", created_at=NOW - timedelta(seconds=1), federates_with=frozenset({B_TEST}))
OTHER = entry("other", Selector("unix", "uid:2"))
OWN = with_keys(own_bundle(7), one=ONE)
FOREIGN = with_keys(TrustBundle(trust_domain=B_TEST, sequence=3), b=TWO)


def there(*entries: Entry, bundles: tuple[TrustBundle, ...] = (OWN, FOREIGN)) -> Holdings:
    return holdings([*entries, OTHER], (), *bundles)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path / "agent.sock", FakeAttestor())
    node.signer.entries = {each.id: each for each in (WEB, JOB, OTHER)}
    node.feed.publish(there(WEB, JOB))
    await node.server.start()
    yield node
    await node.server.close(grace=0)


@pytest.fixture
async def workload(node: Node) -> AsyncIterator[Workload]:
    async with workload_at(Path(node.address.removeprefix("unix:"))) as workload:
        yield workload


async def test_tokens_are_counted_by_pod_where_a_caller_is_known_by_it(tmp_path: Path) -> None:
    pods = iter(["pod-a", "pod-b"])

    async def party_of(caller: Caller) -> Party:
        del caller
        return next(pods)

    path = tmp_path / "agent.sock"
    node = Node(path, FakeAttestor(), tokens_per_second=0.2, party_of=party_of)  # one at once
    node.signer.entries = {WEB.id: WEB}
    node.feed.publish(there(WEB))
    await node.server.start()
    async with workload_at(path) as first, workload_at(path) as second:
        assert ids(await first.tokens("one")) == ["web"]
        assert await refusal(first.tokens("two")) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too_many_requests")
        assert ids(await second.tokens("two")) == ["web"], "the same user in another pod"
    await node.server.close(grace=0)


def ids(message: Any) -> list[str]:
    return [svid.spiffe_id.rpartition("/")[2] for svid in message.svids]


class TestFetchJwtSvid:
    @pytest.mark.spec("WAPI-31", "WAPI-32", "WAPI-35", "WAPI-43")
    async def test_each_identity_of_the_caller_has_a_token_for_all_audiences(
        self, node: Node, workload: Workload
    ) -> None:
        message = await workload.tokens("one", "two")
        assert ids(message) == ["web", "job"]
        for svid in message.svids:
            believed = verify_jwt_svid(svid.svid, {A_TEST: OWN}, "two", node.clock.now())
            assert (str(believed.spiffe_id), believed.audience) == (svid.spiffe_id, ("one", "two"))
        assert node.signer.asked == [("web", "job")]

    @pytest.mark.parametrize("of_its_pod", [set(), {Selector("k8s", "ns:shop")}])
    async def test_a_caller_in_a_pod_is_no_user_of_the_node(
        self, node: Node, workload: Workload, of_its_pod: set[Selector]
    ) -> None:
        node.attestor.is_in_pod = True
        node.attestor.seen |= of_its_pod
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await workload.tokens("one")
        error = from_rpc_error(refused.value)
        assert (error.reason, node.signer.calls) == (Reason.NO_IDENTITY, [])
        assert "in pod shop/web-0" in error.message
        assert "k8s:" in (error.fix or "")

    @pytest.mark.spec("WAPI-33")
    async def test_the_one_that_is_asked_for_alone(self, node: Node, workload: Workload) -> None:
        assert ids(await workload.tokens("one", spiffe_id=str(JOB.spiffe_id))) == ["job"]
        assert node.signer.asked == [("job",)]

    @pytest.mark.spec("WAPI-13")
    @pytest.mark.parametrize("audience", [(), ("",), ("one", "")])
    async def test_an_audience_is_needed(self, node: Node, workload: Workload, audience: tuple[str, ...]) -> None:
        assert await refusal(workload.tokens(*audience)) == (INVALID, "request_malformed")
        assert node.signer.calls == []

    @pytest.mark.spec("WAPI-34")
    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"selectors": OTHER.selectors}, (DENIED, "no_identity")),
            ({"spiffe_id": A_TEST.member("renamed")}, (UNAVAILABLE, "not_ready")),
        ],
    )
    async def test_what_the_caller_lost_while_it_waited_it_does_not_get(
        self, node: Node, workload: Workload, change: dict[str, Any], expected: object
    ) -> None:
        async def while_waiting(*left: Entry) -> asyncio.Task[Any]:
            calls = len(node.signer.calls)
            node.signer.gate.clear()
            asking = asyncio.create_task(workload.tokens(f"audience {calls}"))
            await eventually(lambda: len(node.signer.calls) > calls)
            node.feed.publish(there(*left))
            node.signer.gate.set()
            return asking

        lost = replace(WEB, **change)
        assert ids(await (await while_waiting(lost, JOB))) == ["job"]
        node.feed.publish(there(WEB))
        assert await refusal(await while_waiting(lost)) == expected

    @pytest.mark.spec("WAPI-34")
    @pytest.mark.parametrize(
        ("spiffe_id", "expected"),
        [
            ("spiffe://a.test/other", (DENIED, "no_identity")),
            ("spiffe://a.test/nobody", (DENIED, "no_identity")),
            ("spiffe://a.test", (DENIED, "no_identity")),
            ("spiffe://b.test/web", (DENIED, "no_identity")),
            ("web", (INVALID, "id_malformed")),
            ("spiffe://a.test/web/", (INVALID, "id_malformed")),
            ("spiffe://A.test/web", (INVALID, "trust_domain_malformed")),
        ],
    )
    async def test_an_identity_that_is_not_the_caller_s_is_refused(
        self, node: Node, workload: Workload, spiffe_id: str, expected: object
    ) -> None:
        assert await refusal(workload.tokens("one", spiffe_id=spiffe_id)) == expected
        assert node.signer.calls == []

    @pytest.mark.spec("WAPI-34", "WEP-19")
    async def test_who_has_no_entry_has_no_token(self, node: Node, workload: Workload) -> None:
        node.feed.publish(there())
        assert await refusal(workload.tokens("one")) == (DENIED, "no_identity")

    async def test_an_entry_that_has_expired_has_no_token(self, node: Node, workload: Workload) -> None:
        node.signer.entries["web"] = ending = replace(WEB, expires_at=NOW + timedelta(seconds=5))
        node.feed.publish(there(ending))
        await workload.tokens("one")
        await node.clock.advance(5)
        assert await refusal(workload.tokens("one")) == (DENIED, "no_identity")

    async def test_no_certificate_is_needed(self, node: Node, workload: Workload) -> None:
        assert node.feed.current.svids == {}
        assert await workload.tokens("one")

    @pytest.mark.spec("WAPI-23")
    async def test_a_hint_stands_once_and_its_first_bearer_keeps_it(self, node: Node, workload: Workload) -> None:
        named = [replace(WEB, hint="x"), replace(JOB, hint="x"), entry("last", created_at=NOW, hint="y")]
        node.signer.entries["last"] = named[2]
        node.feed.publish(there(*named))
        assert [svid.hint for svid in (await workload.tokens("one")).svids] == ["x", "", "y"]

    async def test_of_two_entries_of_one_identity_the_older_one_counts(self, node: Node, workload: Workload) -> None:
        newer = replace(WEB, id="newer", created_at=NOW, hint="newer")
        node.feed.publish(there(newer, WEB))
        assert ids(await workload.tokens("one")) == ["web"]
        assert node.signer.asked == [("web",)]

    @pytest.mark.invariant(8)
    @pytest.mark.parametrize("revoked", [0, 1])
    async def test_one_that_is_refused_takes_nothing_from_the_others(
        self, node: Node, workload: Workload, revoked: int
    ) -> None:
        node.signer.refusals[(WEB, JOB)[revoked].id] = PermissionDenied(Reason.IDENTITY_REVOKED, "revoked")
        assert ids(await workload.tokens("one")) == [(JOB, WEB)[revoked].id]
        asked_for = workload.tokens("one", spiffe_id=str((WEB, JOB)[revoked].spiffe_id))
        assert await refusal(asked_for) == (DENIED, "identity_revoked")

    async def test_when_all_are_refused_the_first_refusal_is_told(self, node: Node, workload: Workload) -> None:
        node.signer.entries = {}
        node.signer.refusals["job"] = PermissionDenied(Reason.IDENTITY_REVOKED, "revoked")
        assert await refusal(workload.tokens("one")) == (DENIED, "entry_not_found")

    @pytest.mark.spec("WAPI-43")
    async def test_nobody_is_another_identity_while_the_first_one_waits(self, node: Node, workload: Workload) -> None:
        slowly = ResourceExhausted(Reason.TOO_MANY_REQUESTS, "slowly")
        node.signer.refusals["job"] = slowly
        assert ids(await workload.tokens("one")) == ["web"]
        node.signer.refusals = {"web": slowly}
        assert await refusal(workload.tokens("two")) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too_many_requests")

    @pytest.mark.invariant(5)
    async def test_a_server_that_is_away_costs_nothing_while_a_token_is_good(
        self, node: Node, workload: Workload
    ) -> None:
        first = await workload.tokens("one")
        node.signer.error = AWAY
        await node.clock.advance(99)
        assert await workload.tokens("one") == first
        await node.clock.advance(1)
        assert await refusal(workload.tokens("one")) == (UNAVAILABLE, "server_unreachable")

    async def test_a_token_from_what_is_kept_comes_at_once(self, node: Node, workload: Workload) -> None:
        node.feed.publish(there(WEB))
        await workload.tokens("one")
        took = []
        for _ in range(100):
            begun = time.perf_counter()
            await workload.tokens("one")
            took.append(time.perf_counter() - begun)
        assert median(took) < 0.02, "ten times what an idle machine takes"

    async def test_tokens_stand_in_no_report_and_no_refusal(self, node: Node, workload: Workload) -> None:
        signature = (await workload.tokens("one")).svids[0].svid.rpartition(".")[2].encode()
        node.signer.key = TWO
        await refusal(workload.tokens("two"))
        assert node.refusals
        assert not any(signature in str(error).encode() for _, error in node.refusals)


class TestFetchJwtBundles:
    @pytest.mark.spec("WAPI-21", "WAPI-36", "WAPI-37")
    @pytest.mark.invariant(7)
    async def test_bundles_stand_apart_under_the_ids_of_their_domains_with_jwt_keys_alone(
        self, workload: Workload
    ) -> None:
        bundles = (await workload.jwt_bundles().read()).bundles
        assert {name: [each["kid"] for each in json.loads(keys)["keys"]] for name, keys in bundles.items()} == {
            "spiffe://a.test": ["one"],
            "spiffe://b.test": ["b"],
        }
        for keys in bundles.values():
            (key,) = json.loads(keys)["keys"]
            assert set(key) == {"kty", "kid", "crv", "x", "y"}

    async def test_a_bundle_that_no_entry_asks_for_is_not_sent(self, node: Node, workload: Workload) -> None:
        node.feed.publish(there(WEB))
        assert set((await workload.jwt_bundles().read()).bundles) == {"spiffe://a.test"}

    @pytest.mark.spec("WAPI-36", "JWT-28")
    async def test_a_domain_without_jwt_keys_is_there_if_it_is_our_own(self, node: Node, workload: Workload) -> None:
        node.feed.publish(there(JOB, bundles=(own_bundle(), empty_bundle(B_TEST))))
        assert dict((await workload.jwt_bundles().read()).bundles) == {"spiffe://a.test": b'{"keys":[]}'}

    @pytest.mark.spec("WAPI-30")
    async def test_who_has_no_entry_has_no_bundles(self, node: Node, workload: Workload) -> None:
        node.feed.publish(there())
        assert await refusal(workload.jwt_bundles().read()) == (DENIED, "no_identity")

    @pytest.mark.spec("WAPI-30", "WAPI-27")
    async def test_the_stream_ends_when_the_last_entry_goes(self, node: Node, workload: Workload) -> None:
        call = workload.jwt_bundles()
        await call.read()
        node.feed.publish(there())
        assert await refusal(call.end()) == (DENIED, "no_identity")

    @pytest.mark.spec("WAPI-07", "WAPI-08", "WAPI-09")
    async def test_a_change_of_keys_is_sent_and_nothing_else_is(self, node: Node, workload: Workload) -> None:
        jwt, x509 = workload.jwt_bundles(), workload.bundles()
        await jwt.read()
        before = await x509.read()
        node.feed.publish(there(WEB, JOB, bundles=(with_keys(own_bundle(8), one=ONE, two=TWO), FOREIGN)))
        keys = json.loads((await jwt.read()).bundles["spiffe://a.test"])["keys"]
        assert [each["kid"] for each in keys] == ["one", "two"]
        node.feed.publish(there(WEB, JOB, bundles=(replace(node.feed.current.bundles[A_TEST], sequence=9), FOREIGN)))
        assert await jwt.is_silent()
        assert await x509.is_silent()
        assert before.bundles

    async def test_what_was_written_is_told_the_server(self, node: Node, workload: Workload) -> None:
        call = workload.jwt_bundles()
        await call.read()

        def told() -> list[tuple[str, bool, int, int]]:
            return [
                (each.trust_domain, each.jwt_bundle, each.state, each.held_bundle_sequence)
                for report in node.registry.live()
                for each in report.resources
            ]

        written = 3
        await eventually(lambda: told() == [("a.test", True, written, 7), ("b.test", True, written, 3)])
        same = replace(OWN, sequence=8)
        node.feed.publish(there(WEB, JOB, bundles=(same, FOREIGN)))  # the same keys: nothing is sent
        await eventually(lambda: told()[0] == ("a.test", True, written, 8))
        (report,) = node.registry.live()
        assert report.protocol == "workload-api"
        assert report.resources[0].name != "spiffe://a.test", "the X.509 bundle is another one"
        call.cancel()


class TestValidateJwtSvid:
    @pytest.mark.spec("WAPI-38", "WAPI-39", "WAPI-40")
    async def test_a_good_token_is_told_with_its_claims(self, workload: Workload) -> None:
        answer = await workload.judge(token(ONE, kid="one", group=["a", {"b": None}], admin=False), AUDIENCE)
        assert answer.spiffe_id == WORKLOAD
        assert MessageToDict(answer.claims) == {**CLAIMS, "group": ["a", {"b": None}], "admin": False}

    @pytest.mark.parametrize("kind", [list, dict])
    @pytest.mark.parametrize(("levels", "is_told"), [(30, True), (31, False), (200, False)])
    async def test_claims_are_told_as_deep_as_every_client_can_read(
        self, workload: Workload, kind: type, levels: int, *, is_told: bool
    ) -> None:
        nested: Any = "end"
        for _ in range(levels - 1):  # the claims are a level themselves
            nested = [nested] if kind is list else {"a": nested}
        judging = workload.judge(token(ONE, kid="one", nested=nested), AUDIENCE)
        if is_told:
            assert MessageToDict((await judging).claims)["nested"] == nested
        else:
            assert await refusal(judging) == (INVALID, "jwt_malformed")

    @pytest.mark.spec("WAPI-40")
    @pytest.mark.invariant(7)
    async def test_by_the_bundle_of_the_subject_s_domain(self, node: Node, workload: Workload) -> None:
        foreign = token(TWO, kid="b", sub="spiffe://b.test/x")
        assert (await workload.judge(foreign, AUDIENCE)).spiffe_id == "spiffe://b.test/x"
        for wrong in (token(ONE, kid="one", sub="spiffe://b.test/x"), token(TWO, kid="b")):
            assert await refusal(workload.judge(wrong, AUDIENCE)) == (INVALID, "jwt_key_unknown")
        node.feed.publish(there(WEB))  # which does not federate
        assert await refusal(workload.judge(foreign, AUDIENCE)) == (INVALID, "jwt_issuer_unknown")

    @pytest.mark.spec("WAPI-38", "WAPI-41")
    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("garbage", "jwt_malformed"),
            ("x" * 20_000, "jwt_malformed"),
            (token(ONE, header={"alg": "none"}), "jwt_algorithm_refused"),
            (token(ONE, header={"typ": "at+jwt"}), "jwt_header_refused"),
            (token(ONE, kid="two"), "jwt_key_unknown"),
            (token(TWO, kid="one"), "jwt_bad_signature"),
            (token(ONE, kid="one", exp=1), "jwt_expired"),
            (token(ONE, kid="one", nbf=2_000_000_000), "jwt_not_yet_valid"),
            (token(ONE, kid="one", sub="somebody"), "jwt_malformed"),
            (token(ONE, kid="one", aud=[]), "jwt_malformed"),
            (token(ONE, kid="one", big=10**400), "jwt_malformed"),
        ],
    )
    async def test_a_bad_token_is_an_invalid_argument(self, workload: Workload, text: str, reason: str) -> None:
        assert await refusal(workload.judge(text, AUDIENCE)) == (INVALID, reason)

    async def test_a_token_of_an_identity_that_was_revoked_is_good_for_nothing_until_that_is_lifted(
        self, node: Node, workload: Workload
    ) -> None:
        good = token(ONE, kid="one")
        node.feed.publish(replace(there(WEB), revoked_identities=frozenset({SpiffeId.parse(WORKLOAD)})))
        assert await refusal(workload.judge(good, AUDIENCE)) == (INVALID, "identity_revoked")
        node.feed.publish(there(WEB))
        assert (await workload.judge(good, AUDIENCE)).spiffe_id == WORKLOAD

    async def test_before_the_server_was_heard_who_is_revoked_is_not_known_and_no_token_judged(
        self, tmp_path: Path
    ) -> None:
        node = Node(tmp_path / "silent.sock", FakeAttestor(), has_heard=lambda: False)
        node.feed.publish(Holdings(bundles={A_TEST: OWN}, recalls_revocations=True))  # all that is on disk
        await node.server.start()
        async with workload_at(tmp_path / "silent.sock") as workload:
            assert await refusal(workload.judge(token(ONE, kid="one"), AUDIENCE)) == (UNAVAILABLE, "not_ready")
        await node.server.close(grace=0)

    @pytest.mark.spec("WAPI-38", "JWT-14")
    @pytest.mark.parametrize("audience", ["other", AUDIENCE[:-1], AUDIENCE.upper(), f"{AUDIENCE} "])
    async def test_the_audience_is_compared_exactly(self, workload: Workload, audience: str) -> None:
        assert await refusal(workload.judge(token(ONE, kid="one"), audience)) == (INVALID, "jwt_audience_mismatch")

    @pytest.mark.spec("WAPI-13")
    @pytest.mark.parametrize(("text", "audience"), [("", AUDIENCE), (token(ONE), ""), ("", "")])
    async def test_both_must_be_there(self, workload: Workload, text: str, audience: str) -> None:
        assert await refusal(workload.judge(text, audience)) == (INVALID, "request_malformed")

    async def test_who_has_no_entry_may_trust_nobody(self, node: Node, workload: Workload) -> None:
        node.feed.publish(there())
        assert await refusal(workload.judge(token(ONE, kid="one"), AUDIENCE)) == (DENIED, "no_identity")


@pytest.mark.spec("WEP-06", "WEP-07", "WAPI-01")
async def test_the_security_header_is_asked_of_every_call(workload: Workload) -> None:
    missing = (INVALID, "security_header_missing")
    assert await refusal(workload.jwt_bundles(metadata=()).read()) == missing
    assert await refusal(workload.api.FetchJWTSVID(pb.JWTSVIDRequest(audience=["one"]))) == missing
    assert await refusal(workload.api.ValidateJWTSVID(pb.ValidateJWTSVIDRequest())) == missing


async def test_what_the_agent_gives_out_its_own_judge_believes(workload: Workload) -> None:
    for svid in (await workload.tokens("one", "two")).svids:
        answer = await workload.judge(svid.svid, "two")
        assert answer.spiffe_id == svid.spiffe_id
        assert Jws.read(svid.svid).claims["sub"] == svid.spiffe_id


async def test_many_callers_at_once_cost_the_server_one_call(node: Node, workload: Workload) -> None:
    answers = await asyncio.gather(*(workload.tokens("one") for _ in range(50)))
    assert len({answer.svids[0].svid for answer in answers}) == 1
    assert len(node.signer.calls) == 1
