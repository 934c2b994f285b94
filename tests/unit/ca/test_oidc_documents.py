"""What strangers read of OIDC discovery, and how it answers over HTTP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry

from ca.oidc.app import discovery_app
from ca.oidc.documents import discovery_document, key_set
from citadel.jwk import JwtKey
from tests.certificates import rsa_key

ISSUER = "https://example.org/mesh"
P256 = ec.generate_private_key(ec.SECP256R1()).public_key()
P384 = ec.generate_private_key(ec.SECP384R1()).public_key()
RSA = rsa_key().public_key()


class Site:
    """Discovery of `ISSUER`, whose keys may change."""

    def __init__(self) -> None:
        self.keys: Mapping[str, JwtKey] = {"one": P256}
        self.metrics = CollectorRegistry()
        app = discovery_app(issuer=ISSUER, max_age=timedelta(minutes=5), keys=lambda: self.keys, registry=self.metrics)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="https://example.org")

    def answered(self, document: str, status: int) -> float | None:
        return self.metrics.get_sample_value(
            "citadel_oidc_requests_total", {"document": document, "status": str(status)}
        )


@pytest.mark.parametrize(("issuer", "base"), [("https://a.test", "https://a.test"), (ISSUER, ISSUER)])
def test_discovery_has_every_member_that_the_standard_demands(issuer: str, base: str) -> None:
    # OpenID Connect Discovery 1.0 section 3, with the claims that AWS asks for beside them.
    assert json.loads(discovery_document(issuer, {"b": P384, "a": P256, "c": P256})) == {
        "issuer": issuer,
        "jwks_uri": f"{base}/keys",
        "authorization_endpoint": f"{base}/authorize",
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256", "ES384"],
        "claims_supported": ["aud", "exp", "iat", "iss", "sub"],
    }


def test_keys_are_for_signatures_and_have_nothing_private() -> None:
    keys = json.loads(key_set({"one": P256, "two": RSA}))["keys"]
    assert [{name: key[name] for name in ("kid", "use", "alg", "kty")} for key in keys] == [
        {"kid": "one", "use": "sig", "alg": "ES256", "kty": "EC"},
        {"kid": "two", "use": "sig", "alg": "RS256", "kty": "RSA"},
    ]
    assert [sorted(key) for key in keys] == [
        ["alg", "crv", "kid", "kty", "use", "x", "y"],
        ["alg", "e", "kid", "kty", "n", "use"],
    ]


def test_who_is_no_spiffe_program_finds_the_keys_that_were_meant() -> None:
    found = jwt.PyJWKSet.from_json(key_set({"one": P256, "two": RSA}).decode())
    assert found["one"].key.public_numbers() == P256.public_numbers()
    assert found["two"].key.public_numbers() == RSA.public_numbers()


async def test_both_documents_may_be_kept_for_max_age_and_no_longer() -> None:
    site = Site()
    for path in ("/mesh/.well-known/openid-configuration", "/mesh/keys"):
        answer = await site.client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.headers["cache-control"] == "public, max-age=300, must-revalidate"
        head = await site.client.head(path)
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(answer.content)))


async def test_what_somebody_has_already_is_not_sent_again_until_it_changes() -> None:
    site = Site()
    tag = (await site.client.get("/mesh/keys")).headers["etag"]
    same = await site.client.get("/mesh/keys", headers={"if-none-match": f'W/"other", {tag}'})
    assert (same.status_code, same.content) == (304, b"")
    assert same.headers["cache-control"] == "public, max-age=300, must-revalidate"
    site.keys = {"one": P256, "two": P384}
    changed = await site.client.get("/mesh/keys", headers={"if-none-match": tag})
    assert [key["kid"] for key in changed.json()["keys"]] == ["one", "two"]


async def test_that_there_are_no_keys_is_not_to_be_remembered() -> None:
    site = Site()
    site.keys = {}
    for path in ("/mesh/.well-known/openid-configuration", "/mesh/keys"):
        answer = await site.client.get(path)
        assert (answer.status_code, answer.headers["cache-control"]) == (503, "no-store")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/keys", 404),
        ("GET", "/.well-known/openid-configuration", 404),
        ("GET", "/mesh/keys/", 404),
        ("GET", "/mesh/../mesh/authorize", 404),
        ("GET", "/mesh/authorize", 404),
        ("GET", "/metrics", 404),
        ("POST", "/mesh/keys", 405),
        ("PUT", "/mesh/.well-known/openid-configuration", 405),
        ("OPTIONS", "/mesh/keys", 405),
    ],
)
async def test_nothing_else_is_answered(method: str, path: str, status: int) -> None:
    site = Site()
    assert (await site.client.request(method, path)).status_code == status


async def test_no_host_and_no_forwarded_one_changes_what_is_answered() -> None:
    site = Site()
    plain = await site.client.get("/mesh/.well-known/openid-configuration")
    forged = await site.client.get(
        "/mesh/.well-known/openid-configuration", headers={"host": "evil.test", "x-forwarded-host": "evil.test"}
    )
    assert forged.content == plain.content


async def test_answers_are_counted_and_callers_make_up_no_series() -> None:
    site = Site()
    for path in ("/mesh/keys", "/mesh/keys", "/mesh/.well-known/openid-configuration", "/one", "/two"):
        await site.client.get(path)
    assert site.answered("keys", 200) == 2
    assert site.answered("discovery", 200) == 1
    assert site.answered("other", 404) == 2
