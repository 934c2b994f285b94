"""A real Envoy asks the agent about each request: what comes through to the workload, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import pytest
import pytest_asyncio

from citadel._wire import types_pb2
from citadel.config.types import HostPort
from citadel.spiffe import SpiffeId
from tests.end_users import AUDIENCE, ISSUER, SigningKey, jwks
from tests.integration.meshes import until
from tests.integration.nodes import LiveNode, live_node
from tests.integration.raw_http import RawCaller, raw_caller
from tests.revocations import revocation_set, set_message
from tests.servers import http_status
from tests.spellings import PATHS
from tests.unit.sds.authorizing import write_policies
from tests.unit.sds.fake_authority import FakeAuthority

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

AS_ROOT: Final = os.geteuid() == 0
KEY: Final = SigningKey.p256()
STRANGER: Final = SigningKey.p256()


def lists_of(authority: FakeAuthority, *revoked: int) -> types_pb2.RevocationSet:
    return set_message(revocation_set(authority.root, authority.issuer, revoked=revoked))


def policy(node: LiveNode, **changes: Any) -> dict[str, Any]:
    """Nobody may have /admin, who signed in may have /private, and productpage the rest."""
    caller = {"principals": [str(node.plan.productpage.spiffe_id)]}
    signed_in = {**caller, "requestPrincipals": [{"issuer": ISSUER, "subject": "*"}]}
    return {
        "name": "reviews",
        "selectors": [str(node.plan.reviews.selector)],
        "jwtRules": [
            {
                "issuer": ISSUER,
                "audiences": [AUDIENCE],
                "jwks": json.dumps(jwks(KEY)),
                "fromHeaders": [{"name": "authorization", "prefix": "Bearer "}],
                "fromParams": ["access_token"],
                "fromCookies": ["session"],
                "outputClaimToHeaders": [{"header": "x-end-user", "claim": "sub"}],
            }
        ],
        "authorization": [
            {"action": "DENY", "name": "admin", "rules": [{"to": [{"operation": {"paths": ["/admin", "/admin/*"]}}]}]},
            {
                "action": "ALLOW",
                "name": "signed-in",
                "rules": [{"from": [{"source": signed_in}], "to": [{"operation": {"paths": ["/private/*"]}}]}],
            },
            {
                "action": "ALLOW",
                "name": "caller",
                "rules": [{"from": [{"source": caller}], "to": [{"operation": {"notPaths": ["/private/*"]}}]}],
            },
        ],
        **changes,
    }


def bearer(key: SigningKey = KEY, **claims: Any) -> str:
    return f"authorization: Bearer {token(key, **claims)}"


def token(key: SigningKey = KEY, **claims: Any) -> str:
    return key.token(**{"exp": int(time.time()) + 300, **claims})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node() -> AsyncIterator[LiveNode]:
    started = live_node(federates=False, as_root=AS_ROOT, revocations=lists_of, authorizes=True)
    async with started as node:
        write_policies(node.policy_file, policy(node))
        async with node.agent(), node.envoys():
            yield node


@asynccontextmanager
async def calling(node: LiveNode, caller: SpiffeId | None = None) -> AsyncIterator[RawCaller]:
    whom = caller or node.plan.productpage.spiffe_id
    async with raw_caller(node.authority, whom, node.plan.reviews.listen_port, node.plan.folder) as connection:
        yield connection


@pytest_asyncio.fixture(loop_scope="module")
async def page(node: LiveNode) -> AsyncIterator[RawCaller]:
    """A connection of productpage."""
    async with calling(node) as connection:
        yield connection


async def test_who_calls_and_for_whom_decide_together(node: LiveNode, page: RawCaller) -> None:
    assert (await page.get("/reviews")).status == 200
    asked_to = await page.get("/private/mine")
    assert (asked_to.status, asked_to.reason) == (401, "sign_in_required")
    assert asked_to.headers["www-authenticate"] == 'Bearer realm="citadel"'
    assert asked_to.body == b"refused: sign_in_required\n"
    good = await page.get("/private/mine", bearer())
    assert good.status == 200
    assert good.header("x-end-user") == ["jason"]
    assert good.header("authorization") == []
    async with calling(node, node.plan.stranger.spiffe_id) as stranger:
        for headers in ([], [bearer()]):
            assert (await stranger.get("/private/mine", *headers)).reason == "access_denied"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: bearer(exp=int(time.time()) - 60), "jwt_expired"),
        (lambda: bearer(STRANGER), "jwt_bad_signature"),
        (lambda: bearer(aud="other"), "jwt_audience_mismatch"),
        (lambda: "authorization: Bearer", "jwt_malformed"),
        (lambda: b"authorization: Bearer \xff\xfe", "jwt_malformed"),
        (lambda: f"authorization: Bearer {'a' * 40_000}", "jwt_malformed"),
    ],
    ids=["expired", "stranger's", "for others", "empty", "no text", "long"],
)
async def test_a_bad_token_is_refused_also_where_none_is_needed(
    page: RawCaller, make: Callable[[], str | bytes], reason: str
) -> None:
    for target in ("/reviews", "/private/mine"):
        refused = await page.get(target, make())
        assert (refused.status, refused.reason) == (401, reason)
        assert 'error="invalid_token"' in refused.headers["www-authenticate"]


async def test_the_route_is_chosen_by_what_the_token_says_and_by_nothing_that_a_caller_writes(page: RawCaller) -> None:
    async def version(*headers: str) -> tuple[str, list[str]]:
        reply = await page.get("/reviews", *headers)
        return reply.seen["version"], reply.header("x-end-user")

    assert await version(bearer()) == ("v2", ["jason"])
    assert await version(bearer(sub="alice")) == ("v1", ["alice"])
    assert await version() == ("v1", [])
    forged = "x-end-user: jason"
    assert await version(forged) == ("v1", [])
    assert await version(forged, "X-End-User: jason") == ("v1", [])
    assert await version(forged, bearer(sub="alice")) == ("v1", ["alice"])
    assert await version(forged, bearer(sub="not \u00e9ascii")) == ("v1", [])
    assert (await page.get("/reviews", "x_end_user: jason")).status == 400


async def test_nothing_comes_through_that_programs_or_proxies_obey_instead_of_what_was_judged(page: RawCaller) -> None:
    plain = await page.get("/reviews")
    forged = await page.get("/reviews", *(f"{name}: {value}" for name, value in FORGED.items()))
    assert (forged.status, forged.seen["target"], forged.seen["version"]) == (200, "/reviews", "v1")
    (new_id,) = forged.header("x-request-id")
    assert new_id != FORGED["x-request-id"]
    came = sorted([name, new_id if name == "x-request-id" else value] for name, value in plain.seen["headers"])
    assert sorted(forged.seen["headers"]) == came


FORGED: Final = {
    "forwarded": "for=10.0.0.1;host=evil.test",
    "x-citadel-reason": "none",
    "x-end-user": "jason",
    "x-envoy-attempt-count": "5",
    "x-envoy-auth-failure-mode-allowed": "true",
    "x-envoy-decorator-operation": "theirs",
    "x-envoy-downstream-service-cluster": "theirs",
    "x-envoy-expected-rq-timeout-ms": "7",
    "x-envoy-external-address": "10.0.0.1",
    "x-envoy-force-trace": "true",
    "x-envoy-hedge-on-per-try-timeout": "true",
    "x-envoy-internal": "true",
    "x-envoy-ip-tags": "theirs",
    "x-envoy-max-retries": "9",
    "x-envoy-original-host": "evil.test",
    "x-envoy-original-path": "/admin",
    "x-envoy-original-url": "/admin",
    "x-envoy-peer-metadata": "theirs",
    "x-envoy-peer-metadata-id": "theirs",
    "x-envoy-retry-on": "5xx",
    "x-envoy-upstream-alt-stat-name": "theirs",
    "x-envoy-upstream-rq-per-try-timeout-ms": "1",
    "x-envoy-upstream-rq-timeout-ms": "7",
    "x-forwarded-client-cert": "By=spiffe://a.test/a;URI=spiffe://a.test/admin",
    "x-forwarded-for": "10.0.0.1",
    "x-forwarded-host": "evil.test",
    "x-forwarded-port": "1",
    "x-forwarded-prefix": "/admin",
    "x-forwarded-proto": "http",
    "x-forwarded-scheme": "http",
    "x-forwarded-server": "evil.test",
    "x-forwarded-ssl": "off",
    "x-host": "evil.test",
    "x-http-method": "DELETE",
    "x-http-method-override": "DELETE",
    "x-method-override": "DELETE",
    "x-original-host": "evil.test",
    "x-original-path": "/admin",
    "x-original-url": "/admin",
    "x-real-ip": "10.0.0.1",
    "x-request-id": "theirs",
    "x-rewrite-url": "/admin",
    "x-url-scheme": "http",
}


async def test_several_tokens_pass_only_as_one_user(page: RawCaller) -> None:
    one, same, other = token(), token(jti="2"), token(sub="alice")
    both = await page.get(f"/private/mine?a=1&access_token={same}", f"authorization: Bearer {one}")
    assert (both.status, both.header("x-end-user"), both.seen["target"]) == (200, ["jason"], "/private/mine?a=1")
    cookie = await page.get("/private/mine", f"cookie: a=1; session={one}; b=2")
    assert (cookie.status, cookie.header("cookie")) == (200, ["a=1; b=2"])
    for target, headers in (
        ("/reviews", [f"authorization: Bearer {one}", f"authorization: Bearer {other}"]),
        ("/reviews", [f"authorization: Bearer {one}", f"authorization: Bearer {one}"]),
        ("/reviews", [f"authorization: Bearer {one}", "authorization: Basic eA=="]),
        (f"/reviews?access_token={other}", [f"authorization: Bearer {one}"]),
        (f"/reviews?access_token={one}&access_token={one}", []),
        (f"/reviews?access%5Ftoken={one}", []),
        (f"/reviews?a=1;access_token={token(STRANGER)}", [f"authorization: Bearer {one}"]),
        ("/reviews", [f"cookie: Session={token(STRANGER)}", f"authorization: Bearer {one}"]),
        ("/reviews", [f"cookie: session={one}", f"cookie: session={other}"]),
        ("/reviews", [f"cookie: session={one}", f"authorization: Bearer {other}"]),
    ):
        refused = await page.get(target, *headers)
        assert refused.status == 401, (target, headers)


async def test_a_path_is_decided_alike_however_it_is_spelled(node: LiveNode) -> None:
    wrong = []
    for spelling in PATHS:
        async with calling(node) as caller:  # Envoy closes a connection that it answers 400 on
            reply = await caller.get(spelling.sent.encode("utf-8"))
        expected = _expected(spelling.plain, spelling.envoy)
        if reply.status != expected:
            wrong.append((spelling, reply.status, expected))
        if reply.status == 200:
            assert not reply.seen["target"].startswith("/admin")
        if reply.status == 307:
            assert reply.headers["location"] == (spelling.plain or "/admin/keys"), spelling
    assert wrong == []


def _expected(plain: str | None, envoy: str | int | None) -> int:
    if isinstance(envoy, int):
        return envoy
    judged = plain if envoy is None else envoy.partition("?")[0].partition(";")[0]
    return 403 if judged is None or judged.startswith("/admin") else 200


@pytest.mark.parametrize(
    ("target", "headers", "statuses"),
    [
        ("/reviews", [b"x-a: b\x00c"], {400}),
        (b"/rev\x00iews", [], {400}),
        (b"/admin\xff/keys", [], {400, 403}),
        ("/reviews", [f"authorization: Bearer {'a' * 1_000_000}"], {431}),
        ("/reviews", [b"x-a: \xff\xfe"], {200}),
    ],
)
async def test_what_is_no_text_and_what_is_too_long(
    node: LiveNode, target: str | bytes, headers: list[Any], statuses: set[int]
) -> None:
    async with calling(node) as caller:
        assert (await caller.get(target, *headers)).status in statuses


async def test_what_was_revoked_is_refused_on_a_connection_that_is_open(node: LiveNode) -> None:
    async with calling(node) as revoked, calling(node) as other:
        assert (await revoked.get("/reviews")).status == (await other.get("/reviews")).status == 200
        begun = time.monotonic()
        pushing = asyncio.create_task(node.push(lists_of(node.authority, revoked.serial)))
        await _refused(revoked, "identity_revoked")
        assert time.monotonic() - begun < 1.0
        await pushing
        assert (await other.get("/reviews")).status == 200
        identity = str(node.plan.productpage.spiffe_id)
        begun = time.monotonic()
        pushing = asyncio.create_task(node.push(lists_of(node.authority), identities=[identity]))
        await _refused(other, "identity_revoked")
        assert time.monotonic() - begun < 1.0
        await pushing
        await node.push(lists_of(node.authority))
    async with calling(node) as again:
        assert (await again.get("/reviews")).status == 200


async def _refused(caller: RawCaller, reason: str) -> None:
    """It is refused sooner or later, for this, and its connection ends, so that it may show another certificate."""
    async with asyncio.timeout(10):
        while (reply := await caller.get("/reviews")).status == 200:
            pass
    assert (reply.status, reply.reason, reply.headers["connection"]) == (403, reason, "close")
    assert await caller.is_ended()


async def test_a_caller_that_is_refused_for_what_it_asks_keeps_its_connection(page: RawCaller) -> None:
    for target, *headers in (("/admin",), ("/private/mine",), ("/reviews", bearer(STRANGER))):
        refused = await page.get(target, *headers)
        assert (refused.status // 100, refused.headers.get("connection")) == (4, None)
    assert (await page.get("/reviews")).status == 200


async def test_a_policy_is_that_of_the_process_that_asks_and_a_bad_file_leaves_the_last_good(
    node: LiveNode, page: RawCaller
) -> None:
    async def answers(target: str, *expected: object) -> None:
        async def it_does() -> bool:
            reply = await page.get(target, "x-citadel-policy: reviews")
            return (reply.status, reply.reason) == expected

        await until(f"{target} is answered {expected}", it_does, seconds=10)

    good = node.policy_file.read_text()
    others = policy(node, selectors=[str(node.plan.productpage.selector)])
    write_policies(node.policy_file, others)
    await answers("/reviews", 403, "no_policy")
    write_policies(node.policy_file, policy(node))
    await answers("/reviews", 200, "")
    node.policy_file.write_text(good.replace('"authorization"', '"authorisation"'))
    await until("it shows", lambda: _is_degraded(node), seconds=10)
    assert (await page.get("/reviews")).status == 200
    assert (await page.get("/admin")).status == 403
    node.policy_file.write_text(good)
    await until("it is well again", lambda: _is_degraded(node, expected=False), seconds=10)


async def _is_degraded(node: LiveNode, *, expected: bool = True) -> bool:
    status, body = await http_status(HostPort("127.0.0.1", node.plan.agent_probes_port), "/ready")
    text = json.loads(body)["checks"]["policies"]
    assert status == 200, "certificates are served on"
    return (":" in text and "unknown key" in text) is expected


async def test_without_the_agent_nothing_is_let_through() -> None:
    started = live_node(federates=False, as_root=AS_ROOT, revocations=lists_of, authorizes=True)
    async with started as node, AsyncExitStack() as envoys:
        write_policies(node.policy_file, policy(node))
        async with node.agent():
            await envoys.enter_async_context(node.envoys())
            page = await envoys.enter_async_context(calling(node))
            assert (await page.get("/reviews")).status == 200
        for headers in ([], [bearer()]):
            away = await page.get("/reviews", *headers)
            assert (away.status, away.reason) == (503, "")
        async with node.agent():
            await until("it is served again", lambda: _is_served(page), seconds=10)


async def test_an_agent_that_starts_again_while_its_server_is_away_lets_nobody_through_who_was_revoked() -> None:
    """On connections that are open, where nobody but the agent looks."""
    started = live_node(federates=False, as_root=AS_ROOT, revocations=lists_of, authorizes=True)
    async with started as node, AsyncExitStack() as connections:
        write_policies(node.policy_file, policy(node))
        async with node.agent():
            await connections.enter_async_context(node.envoys())
            good, *bad = [await connections.enter_async_context(calling(node)) for _ in range(4)]
            await node.push(lists_of(node.authority, *(each.serial for each in bad)))
            assert [await _answer(each) for each in (good, bad[0])] == [(200, ""), (403, "identity_revoked")]
        await node.server.stop(None)
        async with node.agent(is_heard=False):
            await until("it answers", lambda: _answers(good), seconds=10)
            assert [await _answer(each) for each in (good, bad[1])] == [(200, ""), (403, "identity_revoked")]
        (node.data_dir / "revocations").unlink()
        async with node.agent(is_heard=False):
            await until("it answers", lambda: _answers(good), seconds=10)
            assert [await _answer(each) for each in (good, bad[2])] == [(503, "not_ready"), (503, "not_ready")]


async def _answer(caller: RawCaller) -> tuple[int, str]:
    reply = await caller.get("/reviews")
    return reply.status, reply.reason


async def _answers(caller: RawCaller) -> bool:
    return await _answer(caller) != (503, "")


async def test_a_proxy_that_fails_open_lets_everything_through_but_forged_headers() -> None:
    started = live_node(federates=False, as_root=AS_ROOT, revocations=lists_of, authorizes=True)
    async with started as node, AsyncExitStack() as envoys:
        node.fails_open = True
        write_policies(node.policy_file, policy(node))
        async with node.agent():
            await envoys.enter_async_context(node.envoys())
            page = await envoys.enter_async_context(calling(node))
            assert (await page.get("/admin")).status == 403
        reply = await page.get("/admin", "x-end-user: jason", "authorization: Bearer x")
        assert (reply.status, reply.seen["version"], reply.header("x-end-user")) == (200, "v1", [])
        assert reply.header("x-envoy-auth-failure-mode-allowed") == ["true"]


async def _is_served(caller: RawCaller) -> bool:
    return (await caller.get("/reviews")).status == 200
