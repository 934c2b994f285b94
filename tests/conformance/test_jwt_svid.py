"""The lines JWT-* of the checklist that bind who validates JWT-SVIDs."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from citadel.bundle import TrustBundle
from citadel.errors import CitadelError, InvalidArgument, Reason, Unauthenticated
from citadel.jwk import JwtKey, jwk_from_key
from citadel.jwt_svid import MAX_KEYS_TRIED
from citadel.spiffe import SpiffeId
from citadel.svid import JwtSvid, verify_jwt_svid
from tests.certificates import A_TEST, B_TEST, NOW, WORKLOAD, bundle, root, rsa_key
from tests.tokens import AUDIENCE, CLAIMS, LEFT_OUT, hmac_of_public, signer, token

KEY, OTHER, P384 = (ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP256R1(), ec.SECP384R1()))
RSA = rsa_key()
KEYS = {"k1": KEY.public_key(), "p384": P384.public_key(), "rsa": RSA.public_key()}
BUNDLES = {A_TEST: bundle(root(), jwt_authorities=KEYS)}
T = int(NOW.timestamp())
GOOD = token(KEY)
HEADER, PAYLOAD, SIGNATURE = GOOD.split(".")
OTHER_PAYLOAD = token(KEY, sub=WORKLOAD + "2").split(".")[1]


def verify(text: str, audience: str = AUDIENCE, **settings: Any) -> JwtSvid:
    return verify_jwt_svid(text, BUNDLES, audience, NOW, **settings)


def aud(value: object) -> str:
    return token(KEY, aud=value)


def ending(number: str) -> str:
    """Expires at this number, which JSON or Python could not say otherwise."""
    return token(KEY, payload=json.dumps(CLAIMS).replace(str(CLAIMS["exp"]), number).encode())


MALFORMED, ALGORITHM, HEADER_REFUSED = Reason.JWT_MALFORMED, Reason.JWT_ALGORITHM_REFUSED, Reason.JWT_HEADER_REFUSED
KEY_UNKNOWN, BAD_SIGNATURE = Reason.JWT_KEY_UNKNOWN, Reason.JWT_BAD_SIGNATURE

REFUSED = [
    ("JWT-01", "nothing", "", MALFORMED),
    ("JWT-01", "two parts", f"{HEADER}.{PAYLOAD}", MALFORMED),
    ("JWT-01", "four parts", f"{GOOD}.{SIGNATURE}", MALFORMED),
    ("JWT-01", "a JWE", f"{HEADER}.AAAA.AAAA.AAAA.AAAA", MALFORMED),
    (
        "JWT-01",
        "the flattened JSON form",
        json.dumps({"protected": HEADER, "payload": PAYLOAD, "signature": SIGNATURE}),
        MALFORMED,
    ),
    (
        "JWT-01",
        "the general JSON form",
        json.dumps({"payload": PAYLOAD, "signatures": [{"protected": HEADER, "signature": SIGNATURE}]}),
        MALFORMED,
    ),
    *(
        ("JWT-03", f"algorithm {alg!r}", token(KEY, header={"alg": alg}), ALGORITHM)
        for alg in ("none", "None", "", "HS256", "EdDSA", "ES256K", "RS256 RS384", LEFT_OUT, None, 256, ["ES256"])
    ),
    ("JWT-03", "no signature", token(KEY, header={"alg": "none"}, sign=lambda _: b""), ALGORITHM),
    ("JWT-03", "before anything else", token(KEY, header={"alg": "none", "crit": 1}, payload=b"garbage"), ALGORITHM),
    (
        "JWT-04",
        "the public key as a secret",
        token(KEY, header={"alg": "HS256"}, sign=hmac_of_public(KEY.public_key())),
        ALGORITHM,
    ),
    ("JWT-04", "ES256 by a P-384 key", token(P384, kid="p384", header={"alg": "ES256"}), ALGORITHM),
    ("JWT-04", "ES384 by a P-256 key", token(KEY, header={"alg": "ES384"}, sign=signer(KEY, "ES384")), ALGORITHM),
    ("JWT-04", "RS256 by an EC key", token(KEY, header={"alg": "RS256"}), ALGORITHM),
    ("JWT-04", "ES256 by an RSA key", token(RSA, kid="rsa", header={"alg": "ES256"}), ALGORITHM),
    ("JWT-05", "no key id, and no such key", token(OTHER, kid=LEFT_OUT), BAD_SIGNATURE),
    ("JWT-05", "a key id that is not there", token(KEY, kid="k2"), KEY_UNKNOWN),
    ("JWT-05", "another key's id", token(KEY, kid="rsa"), ALGORITHM),
    ("JWT-05", "a key id that is no text", token(KEY, kid=1), MALFORMED),
    *(
        ("JWT-07", f"type {typ!r}", token(KEY, header={"typ": typ}), HEADER_REFUSED)
        for typ in ("wit+jwt", "at+jwt", "jwt", "Jwt", "JWT ", "", "application/jwt")
    ),
    ("JWT-07", "a type that is no text", token(KEY, header={"typ": None}), MALFORMED),
    (
        "JWT-09",
        "its own key",
        token(OTHER, header={"jwk": jwk_from_key(OTHER.public_key())}),
        BAD_SIGNATURE,
    ),
    *(("JWT-09", f"crit {crit}", token(KEY, header={"crit": crit}), HEADER_REFUSED) for crit in (["exp"], [], None)),
    ("JWT-09", "an unencoded payload", token(KEY, header={"b64": False}), HEADER_REFUSED),
    *(
        ("JWT-11", f"subject {sub!r}", token(KEY, sub=sub), MALFORMED)
        for sub in (LEFT_OUT, None, 1, [WORKLOAD], "", "invalid subject", "spiffeid://a.test/w", "SPIFFE://a.test/w")
    ),
    ("JWT-11", "a domain in capitals", token(KEY, sub="spiffe://A.test/w"), MALFORMED),
    ("JWT-11", "a dot segment", token(KEY, sub="spiffe://a.test/../w"), MALFORMED),
    ("JWT-11", "no path", token(KEY, sub="spiffe://a.test"), MALFORMED),
    ("JWT-11", "an empty path", token(KEY, sub="spiffe://a.test/"), MALFORMED),
    *(("JWT-13", f"audience {a!r}", aud(a), MALFORMED) for a in (LEFT_OUT, None, [], 1, {}, [AUDIENCE, 1])),
    *(
        ("JWT-14", f"audience {a!r}", aud(a), Reason.JWT_AUDIENCE_MISMATCH)
        for a in ("other", "", [""], AUDIENCE.upper(), AUDIENCE + "/", AUDIENCE[:-1], f"{AUDIENCE} x", ["a", "b"], "*")
    ),
    *(
        ("JWT-19", f"exp {exp!r}", token(KEY, exp=exp), MALFORMED)
        for exp in (LEFT_OUT, None, str(T + 300), True, [T + 300], {})
    ),
    ("JWT-19", "exp not a number", ending("NaN"), MALFORMED),
    ("JWT-19", "exp without end", ending("1e400"), MALFORMED),
    ("JWT-20", "expired an hour ago", token(KEY, exp=T - 3600), Reason.JWT_EXPIRED),
    ("JWT-20", "expired for as long as clocks may differ", token(KEY, exp=T - 10), Reason.JWT_EXPIRED),
    ("JWT-20", "not valid before the next hour", token(KEY, nbf=T + 3600), Reason.JWT_NOT_YET_VALID),
    ("JWT-20", "issued in the next hour", token(KEY, iat=T + 3600), Reason.JWT_NOT_YET_VALID),
    ("JWT-23", "another key under a known id", token(OTHER), BAD_SIGNATURE),
    ("JWT-23", "no signature", f"{HEADER}.{PAYLOAD}.", BAD_SIGNATURE),
    ("JWT-23", "another payload", f"{HEADER}.{OTHER_PAYLOAD}.{SIGNATURE}", BAD_SIGNATURE),
    ("JWT-23", "a domain without bundle", token(KEY, sub="spiffe://b.test/w"), Reason.JWT_ISSUER_UNKNOWN),
]


@pytest.mark.parametrize(
    ("text", "reason"),
    [pytest.param(t, reason, id=f"{line}-{name}", marks=pytest.mark.spec(line)) for line, name, t, reason in REFUSED],
)
def test_a_token_that_breaks_a_rule_is_refused(text: str, reason: Reason) -> None:
    with pytest.raises(Unauthenticated) as refusal:
        verify(text)
    assert refusal.value.reason == reason
    assert SIGNATURE[:20] not in str(refusal.value)


GOOD_ONES = [
    ("JWT-01", "as it should be", GOOD),
    ("JWT-05", "no key id", token(KEY, kid=LEFT_OUT)),
    ("JWT-05", "no key id, signed by another kind of key", token(P384, kid=LEFT_OUT)),
    *(("JWT-07", f"type {typ!r}", token(KEY, header={"typ": typ})) for typ in ("JWT", "JOSE", LEFT_OUT)),
    ("JWT-09", "another key in its header", token(KEY, header={"jwk": jwk_from_key(OTHER.public_key()), "cty": "x"})),
    *(("JWT-15", f"audience {a!r}", aud(a)) for a in (AUDIENCE, [AUDIENCE], ["x", AUDIENCE], [AUDIENCE, AUDIENCE])),
    ("JWT-20", "expired a moment ago", token(KEY, exp=T - 9)),
    ("JWT-20", "a fraction of a second", token(KEY, exp=T + 0.5)),
    ("JWT-22", "without other claims", token(KEY, iat=LEFT_OUT)),
    ("JWT-22", "with other claims", token(KEY, iss="x", nbf=T, jti=["odd"], scope={"a": [1, None]})),
]


@pytest.mark.parametrize(
    "text", [pytest.param(text, id=f"{line}-{name}", marks=pytest.mark.spec(line)) for line, name, text in GOOD_ONES]
)
def test_what_the_standard_allows_is_believed(text: str) -> None:
    assert verify(text).spiffe_id == SpiffeId.parse(WORKLOAD)


@pytest.mark.spec("JWT-03", "JWT-04")
@pytest.mark.parametrize("name", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"])
def test_every_rsa_algorithm_is_believed(name: str) -> None:
    verify(token(RSA, kid="rsa", header={"alg": name}, sign=signer(RSA, name)))


@pytest.mark.spec("JWT-03", "JWT-04")
@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_every_elliptic_curve_algorithm_is_believed(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    verify_jwt_svid(token(key), {A_TEST: bundle(jwt_authorities={"k1": key.public_key()})}, AUDIENCE, NOW)


def test_what_was_believed() -> None:
    svid = verify(token(KEY, aud=[AUDIENCE, "other"], group=["a"]))
    assert svid.spiffe_id == SpiffeId.parse(WORKLOAD)
    assert svid.audience == (AUDIENCE, "other")
    assert svid.expires_at == NOW + timedelta(minutes=5)
    assert svid.issued_at == NOW
    assert svid.key_id == "k1"
    assert svid.claims == CLAIMS | {"aud": [AUDIENCE, "other"], "group": ["a"]}
    assert svid == verify(svid.token)
    assert len({svid, verify(svid.token)}) == 1
    assert verify(token(KEY, iat=LEFT_OUT)).issued_at is None
    assert verify(token(KEY, kid=LEFT_OUT)).key_id == ""


def test_the_token_is_not_shown() -> None:
    assert SIGNATURE not in repr(verify(GOOD))
    with pytest.raises(TypeError):
        verify(GOOD).claims["sub"] = "spiffe://a.test/admin"  # type: ignore[index] # that it cannot is the point


@pytest.mark.spec("JWT-20")
def test_the_leeway_is_a_setting() -> None:
    for seconds, good in ((-1, False), (0, False), (1, True)):
        text = token(KEY, exp=T + seconds)
        if good:
            verify(text, leeway=timedelta())
        else:
            with pytest.raises(Unauthenticated):
                verify(text, leeway=timedelta())
    verify(token(KEY, exp=T - 59), leeway=timedelta(minutes=1))


@pytest.mark.spec("JWT-20")
@pytest.mark.parametrize("hours", [-12, 12])
def test_a_moment_is_the_same_in_every_time_zone(hours: int) -> None:
    zone = timezone(timedelta(hours=hours))
    verify_jwt_svid(GOOD, BUNDLES, AUDIENCE, NOW.astimezone(zone))
    with pytest.raises(CitadelError, match="expired"):
        verify_jwt_svid(GOOD, BUNDLES, AUDIENCE, (NOW + timedelta(hours=1)).astimezone(zone))


def test_a_question_without_an_answer_is_refused() -> None:
    for audience, now in (("", NOW), (AUDIENCE, datetime(2026, 1, 1))):  # noqa: DTZ001 - what is refused
        with pytest.raises(InvalidArgument) as refusal:
            verify_jwt_svid(token(KEY, aud=["", AUDIENCE]), BUNDLES, audience, now)
        assert refusal.value.reason == Reason.REQUEST_MALFORMED


@pytest.mark.spec("JWT-23", "WAPI-15", "BUNDLE-17")
@pytest.mark.invariant(7)
class TestKeysAreChosenByTheTrustDomainOfTheSubject:
    OF_B = ec.generate_private_key(ec.SECP256R1())

    @pytest.mark.parametrize("kid", ["k1", "b1", LEFT_OUT])
    def test_another_domains_key_counts_for_nothing(self, kid: object) -> None:
        keys: dict[str, JwtKey] = {"b1": self.OF_B.public_key()}
        bundles = {**BUNDLES, B_TEST: bundle(jwt_authorities=keys, trust_domain=B_TEST)}
        text = token(self.OF_B, kid=kid)
        with pytest.raises(Unauthenticated) as refusal:
            verify_jwt_svid(text, bundles, AUDIENCE, NOW)
        assert refusal.value.reason in {BAD_SIGNATURE, KEY_UNKNOWN}
        # The same signature is good for a subject of that domain: only the choice of keys refused it.
        of_b = token(self.OF_B, kid="b1", sub="spiffe://b.test/w")
        assert verify_jwt_svid(of_b, bundles, AUDIENCE, NOW).spiffe_id.trust_domain == B_TEST

    def test_two_domains_may_have_keys_of_one_id(self) -> None:
        keys: dict[str, JwtKey] = {"k1": self.OF_B.public_key()}
        bundles = {**BUNDLES, B_TEST: bundle(jwt_authorities=keys, trust_domain=B_TEST)}
        verify_jwt_svid(GOOD, bundles, AUDIENCE, NOW)
        verify_jwt_svid(token(self.OF_B, sub="spiffe://b.test/w"), bundles, AUDIENCE, NOW)
        with pytest.raises(Unauthenticated):
            verify_jwt_svid(token(KEY, sub="spiffe://b.test/w"), bundles, AUDIENCE, NOW)

    def test_a_bundle_under_another_domains_name(self) -> None:
        keys: dict[str, JwtKey] = {"k1": KEY.public_key()}
        with pytest.raises(Unauthenticated, match=r"no bundle for trust domain a\.test") as refusal:
            verify_jwt_svid(GOOD, {A_TEST: bundle(jwt_authorities=keys, trust_domain=B_TEST)}, AUDIENCE, NOW)
        assert refusal.value.reason == Reason.JWT_ISSUER_UNKNOWN


@pytest.mark.spec("JWT-27", "JWT-28", "WAPI-28")
@pytest.mark.parametrize("use", ["x509-svid", "wit-svid", "sig", None])
def test_a_key_of_another_use_verifies_nothing(use: str | None) -> None:
    entry = {"use": use, "kid": "k1", **jwk_from_key(KEY.public_key())}
    document = json.dumps({"keys": [entry]}).encode()
    with pytest.raises(Unauthenticated, match="has no JWT authorities") as refusal:
        verify_jwt_svid(GOOD, {A_TEST: TrustBundle.from_json(A_TEST, document)}, AUDIENCE, NOW)
    assert refusal.value.reason == KEY_UNKNOWN
    as_jwt = json.dumps({"keys": [entry | {"use": "jwt-svid"}]}).encode()
    verify_jwt_svid(GOOD, {A_TEST: TrustBundle.from_json(A_TEST, as_jwt)}, AUDIENCE, NOW)


@pytest.mark.spec("JWT-27", "WAPI-28")
def test_the_key_of_an_x509_authority_verifies_no_token() -> None:
    top = root(key=KEY)
    with pytest.raises(Unauthenticated, match="has no JWT authorities"):
        verify_jwt_svid(GOOD, {A_TEST: bundle(top)}, AUDIENCE, NOW)


@pytest.mark.spec("JWT-05")
def test_without_a_key_id_only_so_many_keys_are_tried() -> None:
    many = {f"k{n}": ec.generate_private_key(ec.SECP256R1()).public_key() for n in range(MAX_KEYS_TRIED)}
    nameless = token(KEY, kid=LEFT_OUT)
    with pytest.raises(Unauthenticated) as refusal:
        verify_jwt_svid(nameless, {A_TEST: bundle(jwt_authorities=many | {"own": KEY.public_key()})}, AUDIENCE, NOW)
    assert refusal.value.reason == KEY_UNKNOWN
    del many["k0"]
    verify_jwt_svid(nameless, {A_TEST: bundle(jwt_authorities=many | {"own": KEY.public_key()})}, AUDIENCE, NOW)


@pytest.mark.spec("JWT-23")
@given(st.integers(0, len(GOOD) * 8 - 1))
def test_a_token_with_one_bit_changed_is_refused(bit: int) -> None:
    changed = bytearray(GOOD, "ascii")
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Unauthenticated):
        verify(changed.decode("latin-1"))
