"""Tokens of service accounts: who is told to be whom, and who is refused for what."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from ca.kubernetes.accounts import Named
from ca.kubernetes.tokens import REVIEWS, TokenReviewer
from citadel.errors import Reason, Unauthenticated, Unavailable
from citadel.kubernetes.ports import ApiUnavailable, KubeObject
from tests.clock import FakeClock
from tests.kube_fake import FakeKubernetes
from tests.unit.ca.kubernetes.fake_cluster import EXTRA, HOUR, Reviews, good, refusing, token


@pytest.fixture
def reviews() -> Reviews:
    return Reviews()


@pytest.fixture
def api(reviews: Reviews) -> FakeKubernetes:
    return FakeKubernetes(answers={REVIEWS: reviews})


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def reviewer(api: FakeKubernetes, clock: FakeClock, *, keep: float = 0.0) -> TokenReviewer:
    return TokenReviewer(api, cluster="c1", audience="citadel", clock=clock, keep=timedelta(seconds=keep))


async def test_who_it_is_comes_from_the_api_server(api: FakeKubernetes, reviews: Reviews, clock: FakeClock) -> None:
    ends_at = clock.now() + HOUR
    account = await reviewer(api, clock).account(token(ends_at))
    assert (account.cluster, account.key, account.uid) == ("c1", "mesh/agent", "sa-1")
    assert (account.pod, account.node) == (Named("agent-x", "pod-1"), Named("n1", "node-1"))
    assert account.ends_at == ends_at
    assert reviews.asked[0]["spec"] == {"token": token(ends_at), "audiences": ["citadel"]}


@pytest.mark.parametrize("extra", [{}, {f"{EXTRA}pod-name": ["a", "b"], f"{EXTRA}pod-uid": ["u1", "u2"]}, None])
async def test_what_is_not_said_or_said_twice_is_not_known(
    api: FakeKubernetes, reviews: Reviews, clock: FakeClock, extra: object
) -> None:
    reviews.status = good(user={"extra": extra})
    account = await reviewer(api, clock).account(token(clock.now() + HOUR))
    assert (account.pod, account.node) == (None, None)


REFUSED = "[invalid bearer token]"
GONE = "[invalid bearer token, service account token has been invalidated]"
EXPIRED = "[invalid bearer token, service account token has expired]"
OTHER = '[invalid bearer token, token audiences ["other"] is invalid for the target audiences ["citadel"]]'


@pytest.mark.parametrize(
    ("status", "lasts", "audience", "reason"),
    [
        (refusing(REFUSED), HOUR, "citadel", Reason.K8S_TOKEN_REFUSED),
        (
            refusing("[invalid bearer token, service account token has been invalidated]"),
            HOUR,
            "citadel",
            Reason.K8S_TOKEN_REFUSED,
        ),
        (refusing(REFUSED), -HOUR, "citadel", Reason.K8S_TOKEN_EXPIRED),
        (
            refusing("[invalid bearer token, service account token has expired]"),
            HOUR,
            "citadel",
            Reason.K8S_TOKEN_EXPIRED,
        ),
        (refusing(OTHER), HOUR, "other", Reason.K8S_TOKEN_AUDIENCE),
        (refusing(REFUSED), HOUR, "other", Reason.K8S_TOKEN_AUDIENCE),
        # What a token claims makes nothing good.
        (refusing(""), HOUR, "citadel", Reason.K8S_TOKEN_REFUSED),
        ({}, HOUR, "citadel", Reason.K8S_TOKEN_REFUSED),
        (good(authenticated="true"), HOUR, "citadel", Reason.K8S_TOKEN_REFUSED),
        # What was found before is repeated for some seconds.
        (good(), -timedelta(seconds=1), "citadel", Reason.K8S_TOKEN_EXPIRED),
        # An API server that knows no audiences names none.
        (good(audiences=[]), HOUR, "citadel", Reason.K8S_TOKEN_AUDIENCE),
        (good(audiences=["other"]), HOUR, "citadel", Reason.K8S_TOKEN_AUDIENCE),
        (good(audiences="citadel"), HOUR, "citadel", Reason.K8S_TOKEN_AUDIENCE),
        (good(user={"username": "admin"}), HOUR, "citadel", Reason.K8S_TOKEN_REFUSED),
        (good(user={"username": "system:node:n1"}), HOUR, "citadel", Reason.K8S_TOKEN_REFUSED),
        (good(user={"username": "system:serviceaccount:mesh:agent:x"}), HOUR, "citadel", Reason.K8S_TOKEN_REFUSED),
        (good(user={"username": "system:serviceaccount:mesh:"}), HOUR, "citadel", Reason.K8S_TOKEN_REFUSED),
        (good(user={"username": "oidc:system:serviceaccount:mesh:agent"}), HOUR, "citadel", Reason.K8S_TOKEN_REFUSED),
        (good(user={"username": "system:serviceaccount:mesh:agent\n"}), HOUR, "citadel", Reason.K8S_TOKEN_REFUSED),
        (good(user={"groups": []}), HOUR, "citadel", Reason.K8S_TOKEN_REFUSED),
        (good(user={"groups": ["system:serviceaccounts"]}), HOUR, "citadel", Reason.K8S_TOKEN_REFUSED),
        (
            good(user={"groups": ["system:serviceaccounts", "system:serviceaccounts:other"]}),
            HOUR,
            "citadel",
            Reason.K8S_TOKEN_REFUSED,
        ),
    ],
)
async def test_refusals(
    api: FakeKubernetes,
    reviews: Reviews,
    clock: FakeClock,
    status: dict[str, Any],
    lasts: timedelta,
    audience: str,
    reason: Reason,
) -> None:
    reviews.status = status
    secret = token(clock.now() + lasts, audience=audience)
    with pytest.raises(Unauthenticated) as refused:
        await reviewer(api, clock).account(secret)
    assert refused.value.reason is reason
    assert secret not in str(refused.value)


URL = "https://10.0.0.1/api/v1/namespaces/shop/serviceaccounts/web"


@pytest.mark.parametrize(
    "error",
    [
        "etcdserver: request timed out",
        "[invalid bearer token, etcdserver: leader changed]",
        "context deadline exceeded",
        "context canceled",
        f'Get "{URL}": dial tcp 10.0.0.1:443: connect: connection refused',
        f'Get "{URL}": dial tcp: lookup api on 10.0.0.10:53: no such host',
        f'[invalid bearer token, Post "{URL}": EOF]',
        f'[invalid bearer token, Post "{URL}": net/http: TLS handshake timeout]',
        "read tcp 10.0.0.2:41234->10.0.0.1:2379: i/o timeout",
        "Timeout: request did not complete within the allotted timeout",
        "the server was unable to return a response in the time allotted, but may still be processing the request",
        "the server is currently unable to handle the request",
        "Too many requests: please try again later",
        "storage is (re)initializing",
        "rpc error: code = Unavailable desc = error reading from server: read: connection reset by peer",
        # One way to check it says no, another could not be asked.
        '[service account token has been invalidated, Post "https://webhook": connect: no route to host]',
        f'[invalid bearer token, Post "{URL}": dial tcp 10.0.0.1:443: x509: certificate has expired]',
        f'[invalid bearer token, Post "{URL}": tls: failed to verify certificate: x509: unknown authority]',
    ],
)
async def test_what_the_api_server_could_not_check_says_nothing_of_the_token(
    api: FakeKubernetes, reviews: Reviews, clock: FakeClock, error: str
) -> None:
    reviews.status = refusing(error)
    with pytest.raises(Unavailable) as told:
        await reviewer(api, clock).account(token(clock.now() + HOUR))
    assert told.value.reason is Reason.KUBERNETES_UNAVAILABLE
    assert "10.0.0.1" not in str(told.value)  # whoever asks may be anybody


@pytest.mark.parametrize(
    "error",
    [
        REFUSED,
        GONE,
        "service account UID (1) does not match claim (2)",
        "service account shop/connection-timeout has been deleted",  # what names say is no trouble
        'serviceaccounts "etcdserver: request timed out" not found',
        'token issuer "https://unavailable.example.org" is invalid',
    ],
)
async def test_what_it_says_of_the_token_is_no_trouble_of_its_own(
    api: FakeKubernetes, reviews: Reviews, clock: FakeClock, error: str
) -> None:
    reviews.status = refusing(error)
    with pytest.raises(Unauthenticated) as refused:
        await reviewer(api, clock).account(token(clock.now() + HOUR))
    assert refused.value.reason is Reason.K8S_TOKEN_REFUSED


@pytest.mark.parametrize("text", ["", "a b", "a\nb", "ü", "x" * 16_385, "x\x00"])
async def test_what_is_no_token_is_not_asked_for(api: FakeKubernetes, clock: FakeClock, text: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await reviewer(api, clock).account(text)
    assert (refused.value.reason, api.calls) == (Reason.K8S_TOKEN_REFUSED, [])


@pytest.mark.parametrize("lasts", [HOUR, -HOUR, timedelta(0)])
@pytest.mark.parametrize("audience", ["citadel", "other"])
async def test_who_shows_what_cannot_be_good_costs_the_api_server_nothing(
    api: FakeKubernetes, reviews: Reviews, clock: FakeClock, lasts: timedelta, audience: str
) -> None:
    secret, is_good = token(clock.now() + lasts, audience=audience), (lasts, audience) == (HOUR, "citadel")
    reviews.status = refusing(REFUSED)
    with pytest.raises(Unauthenticated):
        await reviewer(api, clock).account(secret)
    assert len(api.calls) == is_good


async def test_only_so_many_tokens_are_asked_for_at_once(clock: FakeClock, reviews: Reviews) -> None:
    api = HeldBack(answers={REVIEWS: reviews})
    tokens = reviewer(api, clock)
    asking = [asyncio.create_task(tokens.account(token(clock.now() + HOUR, jti=str(n)))) for n in range(100)]
    await clock.advance(0)
    assert len(api.calls) == 32
    api.released.set()
    assert {account.key for account in await asyncio.gather(*asking)} == {"mesh/agent"}


@pytest.mark.parametrize("exp", [None, True, "soon", 1e300, float("nan")])
async def test_a_token_without_an_end_is_refused_however_good(
    api: FakeKubernetes, clock: FakeClock, exp: object
) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await reviewer(api, clock).account(token(clock.now(), exp=exp))
    assert refused.value.reason is Reason.K8S_TOKEN_REFUSED


async def test_without_keeping_every_call_asks(api: FakeKubernetes, clock: FakeClock) -> None:
    tokens, secret = reviewer(api, clock), token(clock.now() + HOUR)
    await asyncio.gather(tokens.account(secret), tokens.account(secret))
    assert len(api.calls) == 2


async def test_a_good_answer_is_kept_for_its_time_and_asked_for_once(api: FakeKubernetes, clock: FakeClock) -> None:
    tokens, secret = reviewer(api, clock, keep=5), token(clock.now() + HOUR)
    await asyncio.gather(*(tokens.account(secret) for _ in range(50)))
    await clock.advance(4.9)
    await tokens.account(secret)
    assert len(api.calls) == 1
    await clock.advance(0.1)
    await tokens.account(secret)
    assert len(api.calls) == 2


async def test_no_answer_is_kept_longer_than_its_token_lasts(
    api: FakeKubernetes, reviews: Reviews, clock: FakeClock
) -> None:
    tokens, secret = reviewer(api, clock, keep=60), token(clock.now() + timedelta(seconds=2))
    await tokens.account(secret)
    await clock.advance(2)
    reviews.status = refusing(REFUSED)
    with pytest.raises(Unauthenticated) as refused:
        await tokens.account(secret)
    assert refused.value.reason is Reason.K8S_TOKEN_EXPIRED


async def test_neither_refusals_nor_failures_are_kept(api: FakeKubernetes, reviews: Reviews, clock: FakeClock) -> None:
    tokens, secret = reviewer(api, clock, keep=60), token(clock.now() + HOUR)
    reviews.status = refusing(REFUSED)
    with pytest.raises(Unauthenticated):
        await tokens.account(secret)
    api.fails = ApiUnavailable("away")
    with pytest.raises(ApiUnavailable):
        await tokens.account(secret)
    api.fails, reviews.status = None, good()
    assert (await tokens.account(secret)).key == "mesh/agent"


async def test_who_gives_up_takes_the_answer_from_nobody(clock: FakeClock, reviews: Reviews) -> None:
    api = HeldBack(answers={REVIEWS: reviews})
    tokens, secret = reviewer(api, clock, keep=60), token(clock.now() + HOUR)
    first, second = (asyncio.create_task(tokens.account(secret)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    api.released.set()
    assert (await second).key == "mesh/agent"
    assert len(api.calls) == 1


class HeldBack(FakeKubernetes):
    """Answers once it is released."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.released = asyncio.Event()

    async def create(self, path: str, body: KubeObject) -> KubeObject:
        found = await super().create(path, body)
        await self.released.wait()
        return found
