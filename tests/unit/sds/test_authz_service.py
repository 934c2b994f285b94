"""What a proxy is answered that asks about a request: by its policy, for its peer and its end user."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from ssl import DER_cert_to_PEM_cert
from typing import Any, Final

import grpc
import pytest
import yaml
from envoy.service.auth.v3 import external_auth_pb2_grpc
from grpc import aio

from ca.revocation.revoker import KEPT_LONGER
from citadel.actor import Actor
from citadel.errors import Reason, Unavailable
from citadel.jwt.jwks import KeySet
from citadel.request import HttpRequest
from citadel.selector import Selector
from sds.authz.peers import LONGEST_ENDED
from sds.holdings import Holdings
from sds.serve.callers import LOOK_AGAIN
from tests import certificates
from tests.certificates import A_TEST, Signed
from tests.end_users import SECONDS, SigningKey, jwks
from tests.revocations import revocation_set
from tests.unit.sds.authorizing import JWT_RULE, KEY, OPEN, POLICY, SIGNED_IN, question
from tests.unit.sds.holding import UID_1
from tests.unit.sds.node import DIGEST, FakeAttestor, Node

EDGE = Selector("unix", "user:edge")
BY_NAME = {"name": "by-name", "selectors": ["unix:uid:1", str(EDGE)], "default": "DENY"}

CONFIGURATION: Final = Path(__file__).resolve().parents[3] / "deploy" / "envoy" / "authorizing.yaml"

STRANGER = SigningKey.p256()
ROOT = certificates.root()
ISSUER = certificates.intermediate(ROOT)
PEER = certificates.leaf(ISSUER, "spiffe://a.test/caller")


class Asker:
    """A proxy that asks over one connection."""

    def __init__(self, node: Node, channel: aio.Channel, folder: Path) -> None:
        self.node = node
        self.folder = folder
        self._stub: Any = external_auth_pb2_grpc.AuthorizationStub(channel)

    async def ask(self, asked: Any) -> Any:
        return await self._stub.Check(asked, timeout=10)

    async def status(self, path: str = "/public/a", **about: Any) -> int:
        answer = await self.ask(question(path, **about))
        return 200 if answer.HasField("ok_response") else int(answer.denied_response.status.code)

    async def reason(self, path: str = "/public/a", **about: Any) -> str:
        return refusal_of(await self.ask(question(path, **about)))


def refusal_of(answer: Any) -> str:
    """The reason code of a refusal; empty for what was let through."""
    return headers_of(answer.denied_response).get("x-citadel-reason", "")


def headers_of(response: Any) -> dict[str, str]:
    return {each.header.key: each.header.value for each in response.headers}


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[Asker]:
    node = Node(tmp_path / "s", FakeAttestor())
    node.policies.take(tmp_path, POLICY)
    node.feed.publish(Holdings(entries={}))  # the server has been heard
    await node.server.start()
    async with aio.insecure_channel(node.address) as channel:
        yield Asker(node, channel, tmp_path)
    await node.server.close(grace=0)


def bearer(key: SigningKey = KEY, **claims: Any) -> str:
    return f"Bearer {key.token(**claims)}"


class TestPolicy:
    async def test_it_is_that_of_the_first_whose_selectors_the_kernel_shows(self, proxy: Asker) -> None:
        shut = {"name": "shut", "selectors": ["unix:uid:1", "unix:path:/bin/shut"], "default": "DENY"}
        proxy.node.policies.take(proxy.folder, shut, POLICY)
        assert await proxy.status() == 200
        proxy.node.attestor.seen = {UID_1, Selector("unix", "path:/bin/shut")}
        async with aio.insecure_channel(proxy.node.address, options=[("grpc.use_local_subchannel_pool", 1)]) as another:
            assert await Asker(proxy.node, another, proxy.folder).reason() == Reason.ACCESS_DENIED

    @pytest.mark.parametrize("is_complete", [True, False])
    @pytest.mark.parametrize(
        ("more", "unseen", "reason"),
        [
            ([str(EDGE)], {"unix:user"}, Reason.NOT_READY),
            ([str(EDGE)], {"unix:user", "unix:path"}, Reason.NOT_READY),
            (["unix:path:/bin/a", str(DIGEST)], {"unix:path", "unix:sha256"}, Reason.NOT_READY),
            (["unix:path:/bin/a", str(DIGEST)], {"unix:sha256"}, ""),
            (["unix:gid:2", str(EDGE)], {"unix:user"}, ""),
            ([str(EDGE)], {"unix:group", "unix:path", "unix:sha256"}, ""),
        ],
    )
    async def test_what_cannot_be_seen_of_a_proxy_gives_it_no_weaker_one(
        self, proxy: Asker, more: list[str], unseen: set[str], reason: str, *, is_complete: bool
    ) -> None:
        """Such as the name of a user while a directory service is down."""
        strict = {"name": "strict", "selectors": ["unix:uid:1", *more], "default": "DENY"}
        proxy.node.policies.take(proxy.folder, strict, POLICY)
        proxy.node.attestor.unseen, proxy.node.attestor.is_complete = unseen, is_complete
        assert await proxy.reason() == reason
        assert await proxy.status() == (503 if reason else 200)
        if reason:
            what, error = proxy.node.refusals[-1]
            assert what == "a proxy without a policy"
            assert "'strict'" in error.message

    async def test_as_soon_as_it_is_seen_its_own_counts(self, proxy: Asker) -> None:
        proxy.node.policies.take(proxy.folder, BY_NAME, POLICY)
        proxy.node.attestor.unseen, proxy.node.attestor.is_complete = {"unix:user"}, False
        assert await proxy.reason() == Reason.NOT_READY
        proxy.node.attestor.seen |= {EDGE}
        proxy.node.attestor.unseen, proxy.node.attestor.is_complete = set(), True
        await proxy.node.clock.advance(LOOK_AGAIN)
        assert await proxy.reason() == Reason.ACCESS_DENIED

    async def test_who_is_seen_to_be_another_is_told_from_who_could_not_be_seen(self, proxy: Asker) -> None:
        """Both have the same selectors."""
        proxy.node.policies.take(proxy.folder, BY_NAME, POLICY)
        assert await proxy.status() == 200
        proxy.node.attestor.unseen = {"unix:user"}
        async with aio.insecure_channel(proxy.node.address, options=[("grpc.use_local_subchannel_pool", 1)]) as another:
            assert await Asker(proxy.node, another, proxy.folder).reason() == Reason.NOT_READY
        assert await proxy.status() == 200

    async def test_what_a_later_one_asks_for_does_not_matter(self, proxy: Asker) -> None:
        proxy.node.policies.take(proxy.folder, POLICY, {**BY_NAME, "selectors": [str(EDGE)]})
        proxy.node.attestor.unseen = {"unix:user"}
        assert await proxy.status() == 200

    async def test_a_proxy_without_one_gets_nothing_through(self, proxy: Asker) -> None:
        proxy.node.policies.take(proxy.folder, {**POLICY, "selectors": ["unix:uid:2"]})
        asked = question(x_citadel_policy="web", unix_uid="2")
        asked.attributes.context_extensions["selectors"] = "unix:uid:2"
        answer = await proxy.ask(asked)
        assert (answer.denied_response.status.code, refusal_of(answer)) == (403, Reason.NO_POLICY)
        what, error = proxy.node.refusals[-1]
        assert what == "a proxy without a policy"
        assert "unix:uid:1" in error.message

    async def test_the_digest_of_an_executable_is_looked_at_where_a_policy_asks_for_it(self, proxy: Asker) -> None:
        assert await proxy.status() == 200
        assert proxy.node.attestor.asked == [False]
        proxy.node.policies.take(proxy.folder, {**POLICY, "selectors": ["unix:uid:1", str(DIGEST)]})
        assert await proxy.status() == 200
        assert proxy.node.attestor.asked == [False, True]

    async def test_other_policies_hold_from_the_next_request_on(self, proxy: Asker) -> None:
        assert await proxy.status() == 200
        proxy.node.policies.take(proxy.folder, {"name": "web", "selectors": ["unix:uid:1"], "default": "DENY"})
        assert await proxy.status() == 403

    async def test_what_is_no_question_about_a_request_is_refused(self, proxy: Asker) -> None:
        asked = question()
        asked.attributes.ClearField("request")
        assert refusal_of(await proxy.ask(asked)) == Reason.REQUEST_MALFORMED


class TestPeer:
    @pytest.fixture(autouse=True)
    def _for_one_caller(self, proxy: Asker) -> None:
        only = {"from": [{"source": {"principals": ["spiffe://a.test/caller"]}}]}
        rules = [{"name": "caller", "action": "ALLOW", "rules": [only]}]
        proxy.node.policies.take(proxy.folder, {"name": "web", "selectors": ["unix:uid:1"], "authorization": rules})

    async def test_it_is_known_by_its_certificate(self, proxy: Asker) -> None:
        assert await proxy.status(peer=PEER) == 200
        other = certificates.leaf(ISSUER, "spiffe://a.test/other")
        assert await proxy.reason(peer=other) == Reason.ACCESS_DENIED
        assert await proxy.reason() == Reason.ACCESS_DENIED

    @pytest.mark.parametrize(
        ("peer", "principal", "reason"),
        [
            (None, "spiffe://a.test/caller", Reason.REQUEST_MALFORMED),
            (PEER, "spiffe://a.test/other", Reason.REQUEST_MALFORMED),
            (PEER, "", Reason.REQUEST_MALFORMED),
            (certificates.leaf(ISSUER, "https://caller.a.test/"), "https://caller.a.test/", Reason.SVID_MALFORMED),
        ],
        ids=["no certificate", "another name", "no name", "no SPIFFE ID"],
    )
    async def test_what_does_not_go_together_is_refused(
        self, proxy: Asker, peer: Signed | None, principal: str, reason: Reason
    ) -> None:
        asked = question()
        if peer is not None:
            asked.attributes.source.certificate = peer.pem.decode()
        asked.attributes.source.principal = principal
        assert refusal_of(await proxy.ask(asked)) == reason

    @pytest.mark.parametrize(
        "certificate",
        [
            "x",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            DER_cert_to_PEM_cert(PEER.der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x09", 1)),  # version 10
        ],
    )
    async def test_a_certificate_that_cannot_be_read_is_refused(self, proxy: Asker, certificate: str) -> None:
        asked = question(principal="spiffe://a.test/caller")
        asked.attributes.source.certificate = certificate
        assert refusal_of(await proxy.ask(asked)) == Reason.SVID_MALFORMED

    async def test_a_serial_that_was_revoked_is_refused_at_the_next_request(self, proxy: Asker) -> None:
        assert await proxy.status(peer=PEER) == 200
        revoked = revocation_set(ROOT, ISSUER, revoked=[PEER.certificate.serial_number])
        proxy.node.feed.publish(replace(proxy.node.feed.current, revocations=revoked))
        assert await proxy.reason(peer=PEER) == Reason.IDENTITY_REVOKED
        assert await proxy.status(peer=certificates.leaf(ISSUER, "spiffe://a.test/caller")) == 200

    async def test_an_identity_that_was_revoked_is_refused_with_every_certificate(self, proxy: Asker) -> None:
        revoked = frozenset({A_TEST.member("caller")})
        proxy.node.feed.publish(replace(proxy.node.feed.current, revoked_identities=revoked))
        for peer in (PEER, certificates.leaf(ISSUER, "spiffe://a.test/caller")):
            assert await proxy.reason(peer=peer) == Reason.IDENTITY_REVOKED
        proxy.node.feed.publish(replace(proxy.node.feed.current, revoked_identities=frozenset()))
        assert await proxy.status(peer=PEER) == 200

    async def test_before_anybody_said_what_is_revoked_no_peer_is_let_through_and_no_request_without_one_held_up(
        self, proxy: Asker
    ) -> None:
        proxy.node.policies.take(proxy.folder, POLICY)
        proxy.node.feed.publish(Holdings())
        answer = await proxy.ask(question(peer=PEER))
        assert (answer.denied_response.status.code, refusal_of(answer)) == (503, Reason.NOT_READY)
        assert await proxy.status() == 200
        proxy.node.feed.publish(Holdings(recalls_revocations=True))
        assert await proxy.status(peer=PEER) == 200

    async def test_a_certificate_that_ended_long_ago_is_refused_on_a_connection_that_is_open(
        self, proxy: Asker
    ) -> None:
        """Its revocation is forgotten an hour after its end."""
        proxy.node.clock.jump(PEER.certificate.not_valid_after_utc + LONGEST_ENDED - proxy.node.clock.now())
        assert await proxy.status(peer=PEER) == 200, "its client has a newer one"
        proxy.node.clock.jump(timedelta(seconds=1))
        answer = await proxy.ask(question(peer=PEER))
        assert (answer.denied_response.status.code, refusal_of(answer)) == (403, Reason.SVID_UNTRUSTED)
        newer = certificates.leaf(ISSUER, "spiffe://a.test/caller", not_after=proxy.node.clock.now())
        assert await proxy.status(peer=newer) == 200

    def test_connections_end_before_ended_certificates_are_refused_and_that_before_lists_forget_them(self) -> None:
        [listener] = yaml.safe_load(CONFIGURATION.read_text())["static_resources"]["listeners"]
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        duration = manager["common_http_protocol_options"]["max_connection_duration"]
        longest = timedelta(seconds=int(duration.removesuffix("s")))
        assert timedelta(0) < 2 * longest <= LONGEST_ENDED <= KEPT_LONGER / 2


class TestEndUser:
    async def test_the_proxy_is_told_what_to_change(self, proxy: Asker) -> None:
        answer = await proxy.ask(question("/private/a", authorization=bearer(), x_end_user="root"))
        assert headers_of(answer.ok_response) == {"x-end-user": "jason"}
        assert list(answer.ok_response.headers_to_remove) == ["authorization"]
        option = answer.ok_response.headers[0]
        assert option.append_action == option.OVERWRITE_IF_EXISTS_OR_ADD

    async def test_without_a_token_nobody_elses_words_pass_for_ours(self, proxy: Asker) -> None:
        answer = await proxy.ask(question("/public/a", x_end_user="root"))
        assert headers_of(answer.ok_response) == {}
        assert list(answer.ok_response.headers_to_remove) == ["x-end-user"]

    async def test_a_token_in_the_query_and_in_a_cookie_goes_no_further(self, proxy: Asker) -> None:
        rule = {**JWT_RULE, "fromParams": ["token"], "fromCookies": ["session"]}
        proxy.node.policies.take(proxy.folder, {**POLICY, "jwtRules": [rule]})
        answer = await proxy.ask(question(f"/private/a?x=1&token={KEY.token()}"))
        assert list(answer.ok_response.query_parameters_to_remove) == ["token"]
        answer = await proxy.ask(question("/private/a", cookie=f"a=1; session={KEY.token()}; b=2"))
        assert headers_of(answer.ok_response) == {"x-end-user": "jason", "cookie": "a=1; b=2"}

    async def test_who_did_not_sign_in_is_asked_to_without_being_told_of_an_error(self, proxy: Asker) -> None:
        answer = await proxy.ask(question("/private/a"))
        assert (answer.denied_response.status.code, refusal_of(answer)) == (401, Reason.SIGN_IN_REQUIRED)
        assert headers_of(answer.denied_response)["www-authenticate"] == 'Bearer realm="citadel"'
        assert answer.denied_response.body == "refused: sign_in_required\n"

    @pytest.mark.parametrize(
        ("authorization", "reason"),
        [
            ("Bearer", Reason.JWT_MALFORMED),
            ("Bearer x.y.z", Reason.JWT_MALFORMED),
            (f"{bearer()}, {bearer()}", Reason.JWT_MALFORMED),
            (bearer(STRANGER), Reason.JWT_BAD_SIGNATURE),
            (bearer(exp=SECONDS - 60), Reason.JWT_EXPIRED),
            (bearer(aud='"\\\n\u00e9'), Reason.JWT_AUDIENCE_MISMATCH),
            (bearer(iss='https://"other\\'), Reason.JWT_ISSUER_UNKNOWN),
        ],
    )
    async def test_a_bad_token_is_refused_wherever_it_goes(
        self, proxy: Asker, authorization: str, reason: Reason
    ) -> None:
        for path in ("/public/a", "/private/a"):
            answer = await proxy.ask(question(path, authorization=authorization))
            assert (answer.denied_response.status.code, refusal_of(answer)) == (401, reason)
            challenge = headers_of(answer.denied_response)["www-authenticate"]
            head, _, described = challenge.partition(', error_description="')
            assert head == 'Bearer realm="citadel", error="invalid_token"'
            assert described.endswith('"')
            assert re.fullmatch(r"[\x20-\x21\x23-\x5B\x5D-\x7E]+", described[:-1]), "RFC 6750 section 3"
            token = authorization.removeprefix("Bearer").strip()
            assert not token or token not in str(answer)

    async def test_without_the_keys_of_an_issuer_nobody_is_to_blame(self, proxy: Asker) -> None:
        class NoKeys:
            def of(self, _rule: Any) -> Any:
                return self

            async def under(self, _key_id: str) -> Any:
                raise Unavailable(Reason.JWKS_UNAVAILABLE, "not had yet")

        proxy.node.policies.take(proxy.folder, POLICY, keys=NoKeys())
        answer = await proxy.ask(question("/private/a", authorization=bearer()))
        assert (answer.denied_response.status.code, refusal_of(answer)) == (503, Reason.JWKS_UNAVAILABLE)
        assert "www-authenticate" not in headers_of(answer.denied_response)


class TestMemory:
    """What was believed is remembered, and only for as long as it would be believed again."""

    async def test_until_the_token_ends(self, proxy: Asker) -> None:
        token = bearer(exp=SECONDS + 60)
        assert await proxy.status("/private/a", authorization=token) == 200
        await proxy.node.clock.advance(69.9)
        assert await proxy.status("/private/a", authorization=token) == 200
        await proxy.node.clock.advance(0.2)
        assert await proxy.reason("/private/a", authorization=token) == Reason.JWT_EXPIRED

    async def test_not_before_it_began_where_the_clock_is_set_back(self, proxy: Asker) -> None:
        token = bearer(nbf=SECONDS)
        assert await proxy.status("/private/a", authorization=token) == 200
        proxy.node.clock.jump(timedelta(seconds=-60))
        assert await proxy.reason("/private/a", authorization=token) == Reason.JWT_NOT_YET_VALID

    async def test_while_the_issuers_keys_are_the_same(self, proxy: Asker) -> None:
        ring, token = ChangingRing(KEY), bearer()
        proxy.node.policies.take(proxy.folder, POLICY, keys=ring)
        assert await proxy.status("/private/a", authorization=token) == 200
        ring.key = STRANGER
        assert await proxy.status("/private/a", authorization=token) == 200, "it is remembered"
        proxy.node.policies.keys_version += 1
        assert await proxy.reason("/private/a", authorization=token) == Reason.JWT_BAD_SIGNATURE

    async def test_for_the_very_same_token_alone(self, proxy: Asker) -> None:
        good = bearer()
        assert await proxy.status("/private/a", authorization=good) == 200
        for other in (good[:-1], good + "A", good.swapcase()):
            assert await proxy.status("/private/a", authorization=other) == 401

    async def test_for_several_tokens_each_is_checked_again(self, proxy: Asker) -> None:
        rule = {**JWT_RULE, "fromHeaders": [{"name": "x-one"}, {"name": "x-two"}]}
        proxy.node.policies.take(proxy.folder, {**POLICY, "jwtRules": [rule]})
        tokens = {"x_one": KEY.token(exp=SECONDS + 900), "x_two": KEY.token(exp=SECONDS + 60)}
        assert await proxy.status("/private/a", **tokens) == 200
        await proxy.node.clock.advance(100)
        assert await proxy.reason("/private/a", **tokens) == Reason.JWT_EXPIRED

    async def test_a_rule_that_looks_at_headers_looks_at_each(self, proxy: Asker) -> None:
        beta = {"action": "DENY", "rules": [{"when": [{"key": "request.headers[x-beta]", "values": ["no"]}]}]}
        proxy.node.policies.take(proxy.folder, {**POLICY, "authorization": [SIGNED_IN, OPEN, beta]})
        assert await proxy.status(x_beta="yes") == 200
        assert await proxy.status(x_beta="no") == 403

    async def test_each_path_and_user_is_decided_apart(self, proxy: Asker) -> None:
        for _ in range(2):
            assert await proxy.status("/private/a?x=1", authorization=bearer()) == 200
            assert await proxy.status("/private/a?x=1") == 401
            assert await proxy.status("/other", authorization=bearer()) == 403
            assert await proxy.status("/public/a?x=1") == 200
            assert await proxy.status("/public/%00?x=1") == 403

    async def test_each_method_and_host_is_decided_apart(self, proxy: Asker) -> None:
        only = [{"operation": {"methods": ["GET"], "hosts": ["web.test"]}}]
        reading = {"action": "ALLOW", "rules": [{"to": only}]}
        proxy.node.policies.take(proxy.folder, {**POLICY, "authorization": [reading]})
        for _ in range(2):
            for method, host, allowed in (
                ("GET", "web.test", True),
                ("POST", "web.test", False),
                ("GET", "b.test", False),
            ):
                asked = question()
                asked.attributes.request.http.method, asked.attributes.request.http.host = method, host
                assert (await proxy.ask(asked)).HasField("ok_response") is allowed, (method, host)

    async def test_a_preflight_is_not_taken_for_what_follows(self, proxy: Asker) -> None:
        asked = question("/public/a", authorization="Bearer x", origin="https://a", access_control_request_method="GET")
        asked.attributes.request.http.method = "OPTIONS"
        assert (await proxy.ask(asked)).HasField("ok_response")
        assert await proxy.status("/public/a", authorization="Bearer x") == 401

    async def test_a_preflight_is_nobodys_whatever_is_remembered_of_its_token(self, proxy: Asker) -> None:
        asked = question("/private/a", authorization=bearer(), origin="https://a", access_control_request_method="GET")
        for _ in range(2):
            asked.attributes.request.http.method = "OPTIONS"
            assert refusal_of(await proxy.ask(asked)) == Reason.SIGN_IN_REQUIRED
            asked.attributes.request.http.method = "GET"
            assert headers_of((await proxy.ask(asked)).ok_response) == {"x-end-user": "jason"}

    @pytest.mark.parametrize(
        "more",
        ["&access%5Ftoken={}", "&Access_Token={}", ";access_token={}", "&a=b;access_token={}", "&access_token={}"],
    )
    async def test_beside_a_token_that_is_remembered_no_other_one_is_let_through(self, proxy: Asker, more: str) -> None:
        good = f"/public/a?access_token={KEY.token()}"
        assert await proxy.status(good) == 200
        for other in (STRANGER.token(), KEY.token(sub="alice"), KEY.token()):
            assert await proxy.reason(good + more.format(other)) == Reason.JWT_MALFORMED
        assert await proxy.status(f"{good}&page=2") == 200

    async def test_what_was_remembered_of_one_place_does_not_count_for_another(self, proxy: Asker) -> None:
        """Two rules that each take tokens of one issuer from a place of its own, and pass on different things."""
        one = {**JWT_RULE, "fromParams": ["a"]}
        two = {**JWT_RULE, "fromParams": ["b"], "fromCookies": ["c"], "outputClaimToHeaders": []}
        proxy.node.policies.take(proxy.folder, {**POLICY, "jwtRules": [one, two]})
        token = KEY.token()
        removed, headers = [], []
        for target, cookie in ((f"?a={token}", ""), (f"?b={token}", ""), ("", f"c={token}"), ("?", f"c={token}; d=1")):
            about = {"cookie": cookie} if cookie else {}
            answer = await proxy.ask(question(f"/private/a{target}", **about))
            removed.append(list(answer.ok_response.query_parameters_to_remove))
            headers.append(headers_of(answer.ok_response))
        assert removed == [["a"], ["b"], [], []]
        assert headers == [{"x-end-user": "jason"}, {}, {}, {"cookie": "d=1"}]

    async def test_a_place_that_is_empty_is_told_from_one_that_is_not_there(self, proxy: Asker) -> None:
        rule = {**JWT_RULE, "fromHeaders": [{"name": "x-jwt"}], "fromParams": ["t"], "fromCookies": ["c"]}
        proxy.node.policies.take(proxy.folder, {**POLICY, "jwtRules": [rule]})
        for _ in range(2):
            assert await proxy.status("/public/a", cookie="") == 200
            assert await proxy.status("/public/a?") == 200
            assert await proxy.reason("/public/a", x_jwt="") == Reason.JWT_MALFORMED
            assert await proxy.reason("/public/a?t") == Reason.JWT_MALFORMED
            assert await proxy.reason("/public/a?t=") == Reason.JWT_MALFORMED
            assert await proxy.reason("/public/a", cookie="c") == Reason.JWT_MALFORMED
            assert await proxy.reason("/public/a", cookie="x=1; c=") == Reason.JWT_MALFORMED

    async def test_a_token_that_was_moved_to_another_header_is_another_request(self, proxy: Asker) -> None:
        rule = {**JWT_RULE, "fromHeaders": [{"name": "x-a"}, {"name": "x-b"}]}
        proxy.node.policies.take(proxy.folder, {**POLICY, "jwtRules": [rule]})
        token = KEY.token()
        for name in ("x-a", "x-b"):
            answer = await proxy.ask(question("/private/a", **{name: token}))
            assert list(answer.ok_response.headers_to_remove) == [name]

    async def test_each_peer_is_decided_apart(self, proxy: Asker) -> None:
        only = {"from": [{"source": {"principals": ["spiffe://a.test/caller"]}}]}
        proxy.node.policies.take(
            proxy.folder, {**POLICY, "authorization": [{"name": "caller", "action": "ALLOW", "rules": [only]}]}
        )
        other = certificates.leaf(ISSUER, "spiffe://a.test/other")
        for _ in range(2):
            assert await proxy.status(peer=PEER, authorization=bearer()) == 200
            assert await proxy.status(peer=other, authorization=bearer()) == 403
            assert await proxy.status(authorization=bearer()) == 403
            assert await proxy.reason(peer=PEER, principal="spiffe://a.test/other") == Reason.REQUEST_MALFORMED

    @pytest.mark.parametrize(
        ("written", "is_remembered"),
        [
            ({"path": f"/public/{'a' * 1000}"}, True),
            ({"path": f"/public/a?{'q' * 4_000}"}, True),
            ({"path": f"/public/{'a' * 1020}"}, False),
            ({"host": "h" * 1020}, False),
            ({"method": "M" * 1020}, False),
            ({"host": "h" * 500, "path": f"/public/{'a' * 500}", "method": "M" * 100}, False),
        ],
    )
    async def test_a_caller_cannot_fill_it_with_long_texts(
        self, proxy: Asker, written: dict[str, str], *, is_remembered: bool
    ) -> None:
        [policy] = proxy.node.policies.current._at_work
        request = HttpRequest(**{"method": "GET", "host": "web.test", "path": "/public/a", **written})
        known = await policy.users.of(request)
        first, second = policy.decide(request, known), policy.decide(request, known)
        assert first == second
        assert (first is second) is is_remembered

    @pytest.mark.parametrize(
        ("headers", "query", "is_remembered"),
        [
            ({"cookie": "a=" + "x" * 4000}, "", True),
            ({"cookie": "a=" + "x" * 4100}, "", False),
            ({"authorization": "Basic " + "x" * 4100}, "", False),
            ({"user-agent": "x" * 4100}, "", True),
            ({}, "?" + "q" * 4100, False),
            ({"origin": "https://a", "access-control-request-method": "GET"}, "", True),
        ],
    )
    async def test_a_caller_cannot_fill_it_with_what_stands_beside_tokens(
        self, proxy: Asker, headers: dict[str, str], query: str, *, is_remembered: bool
    ) -> None:
        both = {**JWT_RULE, "fromHeaders": [{"name": "authorization", "prefix": "Bearer "}], "fromCookies": ["c"]}
        proxy.node.policies.take(proxy.folder, {**POLICY, "jwtRules": [{**both, "fromParams": ["t"]}]})
        [policy] = proxy.node.policies.current._at_work
        request = HttpRequest(method="GET", host="web.test", path=f"/public/a{query}", headers=headers)
        first, second = await policy.users.of(request), await policy.users.of(request)
        assert (first is second) is is_remembered
        decisions = policy.decide(request, first), policy.decide(request, second)
        assert decisions[0] == decisions[1]
        assert (decisions[0] is decisions[1]) is is_remembered

    async def test_nothing_outlives_the_policies_that_it_was_judged_by(self, proxy: Asker) -> None:
        token = bearer()
        assert await proxy.status("/private/a", authorization=token) == 200
        stricter = {**JWT_RULE, "audiences": ["others"]}
        proxy.node.policies.take(proxy.folder, {**POLICY, "jwtRules": [stricter]})
        assert await proxy.reason("/private/a", authorization=token) == Reason.JWT_AUDIENCE_MISMATCH
        proxy.node.policies.take(proxy.folder, {**POLICY, "authorization": [OPEN]})
        assert await proxy.status("/private/a", authorization=token) == 403


async def test_decisions_are_counted_by_rule_and_refusals_told(proxy: Asker) -> None:
    await proxy.status("/public/a")
    await proxy.status("/public/b")
    await proxy.status("/private/a")
    await proxy.status("/other", authorization=bearer())
    await proxy.status("/other", authorization="Bearer x")
    [family] = proxy.node.decisions.collect()
    assert {tuple(sample.labels.values()): sample.value for sample in family.samples} == {
        ("web", "web/open/rules[0]", ""): 2,
        ("web", "web/signed-in/rules[0]", "sign_in_required"): 1,
        ("web", "web/default", "access_denied"): 1,
        ("web", "", "jwt_malformed"): 1,
    }
    told = [(what, error.reason) for what, error in proxy.node.refusals]
    assert told == [
        ("a request at the proxies of 'web', decided by web/signed-in/rules[0]", Reason.SIGN_IN_REQUIRED),
        ("a request at the proxies of 'web', decided by web/default", Reason.ACCESS_DENIED),
        ("a request at the proxies of 'web'", Reason.JWT_MALFORMED),
    ]


async def test_a_refusal_is_told_with_the_peer_as_far_as_one_is_proven(proxy: Asker) -> None:
    by = Actor.identity(A_TEST.member("caller"))
    for path, headers in (("/other", {}), ("/public/a", {"authorization": "Bearer x"})):
        await proxy.ask(question(path, peer=PEER, **headers))
        assert proxy.node.refused == by
        await proxy.ask(question(path, **headers))
        assert proxy.node.refused is None
    await proxy.ask(question(peer=PEER, principal="spiffe://a.test/other"))
    assert proxy.node.refused is None
    revoked = frozenset({A_TEST.member("caller")})
    proxy.node.feed.publish(replace(proxy.node.feed.current, revoked_identities=revoked))
    await proxy.ask(question(peer=PEER))
    assert (proxy.node.refusals[-1][1].reason, proxy.node.refused) == (Reason.IDENTITY_REVOKED, by)


async def test_what_was_not_foreseen_refuses_too(proxy: Asker) -> None:
    class Broken:
        @property
        def current(self) -> Any:
            raise RuntimeError

    proxy.node.server._authorization._policies = Broken()
    with pytest.raises(aio.AioRpcError) as failed:  # which a proxy that does not let everything through refuses
        await proxy.ask(question())
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    [family] = proxy.node.decisions.collect()
    assert [(sample.labels, sample.value) for sample in family.samples] == [
        ({"policy": "", "rule": "", "reason": "internal"}, 1)
    ]


class ChangingRing:
    """Keys of an issuer that change without a word."""

    def __init__(self, key: SigningKey) -> None:
        self.key = key

    def of(self, _rule: Any) -> Any:
        return self

    async def under(self, key_id: str) -> Any:
        return KeySet.of(jwks(self.key)).under(key_id)
