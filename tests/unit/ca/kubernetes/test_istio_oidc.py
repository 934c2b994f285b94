"""Service accounts' tokens by the cluster's published keys alone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from ca.kubernetes.accounts import Named, ProvenAccount
from ca.kubernetes.istio.oidc import OidcTokens
from ca.kubernetes.settings import OidcTokenSettings
from citadel.errors import Reason, Unauthenticated, Unavailable
from citadel.jwt.jwks import KeySet
from citadel.jwt.key_ring import IssuerKeyRing
from citadel.jwt.keys import Answer, KeySource
from tests.certificates import NOW
from tests.clock import FakeClock
from tests.end_users import ISSUER, SECONDS, SigningKey, jwks
from tests.tokens import LEFT_OUT

KEY = SigningKey.p256()
BOUND = {
    "namespace": "shop",
    "serviceaccount": {"name": "web", "uid": "u1"},
    "pod": {"name": "web-1", "uid": "u2"},
    "node": {"name": "n1", "uid": "u3"},
}
GOOD: dict[str, Any] = {"sub": "system:serviceaccount:shop:web", "aud": ["istio-ca"], "kubernetes.io": BOUND}


async def account(token: str, *, reachable: bool = True) -> ProvenAccount:
    async def fetch(source: KeySource) -> Answer:
        assert source.allow_private
        if not reachable:
            raise Unavailable(Reason.JWKS_UNAVAILABLE, "away")
        return Answer(keys=KeySet.of(jwks(KEY)), max_age=None)

    clock = FakeClock(NOW)
    ring = IssuerKeyRing(fetch=fetch, clock=clock, jitter=lambda: 0.0)
    try:
        tokens = OidcTokens(
            OidcTokenSettings(issuer=ISSUER), cluster="main", audience="istio-ca", keys=ring, clock=clock
        )
        return await tokens.account(token)
    finally:
        await ring.close()


async def test_a_good_token_says_the_service_account_its_pod_and_node() -> None:
    assert await account(KEY.token(**GOOD)) == ProvenAccount(
        cluster="main",
        namespace="shop",
        name="web",
        uid="u1",
        pod=Named("web-1", "u2"),
        node=Named("n1", "u3"),
        ends_at=NOW + timedelta(seconds=300),
    )
    bare = {"namespace": "shop", "serviceaccount": {"name": "web", "uid": "u1"}}
    found = await account(KEY.token(**GOOD | {"kubernetes.io": bare}))
    assert (found.pod, found.node) == (None, None)


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("x", Reason.K8S_TOKEN_REFUSED),
        ("a b", Reason.K8S_TOKEN_REFUSED),
        (SigningKey.p256().token(**GOOD), Reason.K8S_TOKEN_REFUSED),
        (KEY.token(**GOOD | {"iss": "https://other.test"}), Reason.K8S_TOKEN_REFUSED),
        (KEY.token(**GOOD | {"aud": "other"}), Reason.K8S_TOKEN_AUDIENCE),
        (KEY.token(**GOOD | {"aud": LEFT_OUT}), Reason.K8S_TOKEN_AUDIENCE),
        (KEY.token(**GOOD | {"exp": SECONDS - 60}), Reason.K8S_TOKEN_EXPIRED),
        (KEY.token(**GOOD | {"exp": LEFT_OUT}), Reason.K8S_TOKEN_REFUSED),
        (KEY.token(**GOOD | {"sub": "jason"}), Reason.K8S_TOKEN_REFUSED),
        (KEY.token(**GOOD | {"sub": "system:serviceaccount:shop:"}), Reason.K8S_TOKEN_REFUSED),
        (KEY.token(**GOOD | {"sub": "system:serviceaccount:shop:web:x"}), Reason.K8S_TOKEN_REFUSED),
        (KEY.token(**GOOD | {"sub": "system:serviceaccount:shop:db"}), Reason.K8S_TOKEN_REFUSED),
        (KEY.token(**GOOD | {"sub": "system:serviceaccount:other:web"}), Reason.K8S_TOKEN_REFUSED),
        (KEY.token(**GOOD | {"kubernetes.io": LEFT_OUT}), Reason.K8S_TOKEN_REFUSED),  # those from before 2019
    ],
)
async def test_any_other_is_refused(token: str, reason: Reason) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await account(token)
    assert refused.value.reason is reason
    assert token not in refused.value.message or token == "x"


async def test_keys_that_were_never_had_are_no_verdict() -> None:
    with pytest.raises(Unavailable) as away:
        await account(KEY.token(**GOOD), reachable=False)
    assert away.value.reason is Reason.JWKS_UNAVAILABLE


async def test_a_key_is_unknown_only_by_keys_that_were_fetched_since_the_token_came() -> None:
    published, away = [KEY], False

    async def fetch(_: KeySource) -> Answer:
        if away:
            raise Unavailable(Reason.JWKS_UNAVAILABLE, "away")
        return Answer(keys=KeySet.of(jwks(*published)), max_age=None)

    clock, new = FakeClock(NOW), SigningKey.p256("new")
    ring = IssuerKeyRing(fetch=fetch, clock=clock, jitter=lambda: 0.0)
    settings = OidcTokenSettings(issuer=ISSUER)
    tokens = OidcTokens(settings, cluster="main", audience="istio-ca", keys=ring, clock=clock)
    assert [note.is_trouble for note in tokens.notes()] == [True]  # none yet

    async def asked(key: SigningKey) -> str:
        try:
            return (await tokens.account(key.token(**GOOD))).name
        except (Unauthenticated, Unavailable) as refused:
            return f"{type(refused).__name__} {refused.reason}"

    assert await asked(KEY) == "web"
    assert [(note.text, note.is_trouble) for note in tokens.notes()] == [
        (f"tokens of Istio's proxies are checked by the keys of {ISSUER}: 1 key", False)
    ]
    await clock.advance(10)
    assert await asked(SigningKey.p256("invented")) == "Unauthenticated k8s_token_refused"  # keys were fetched for it
    await clock.advance(1)
    published.append(new)
    assert await asked(new) == "Unavailable jwks_unavailable"  # it is too early to fetch them again
    away = True
    await clock.advance(5)
    assert await asked(new) == "Unavailable jwks_unavailable"  # they cannot be
    assert [note.is_trouble for note in tokens.notes()] == [True]
    away = False
    await clock.advance(60)
    assert await asked(new) == "web"
    await ring.close()
