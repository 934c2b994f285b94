"""Which tokens of end users are believed, and which are refused and why."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from citadel.errors import CitadelError, Reason, Unavailable
from citadel.jws import MAX_TOKEN_BYTES
from citadel.jwt.jwks import IssuerKey
from citadel.jwt.places import Place
from citadel.jwt.settings import JwtRule
from citadel.jwt.user import RequestPrincipal
from citadel.jwt.validator import EndUserValidator, IssuerKeys, Verified
from citadel.request import HttpRequest
from tests.certificates import rsa_key
from tests.clock import FakeClock
from tests.end_users import AUDIENCE, ISSUER, SECONDS, InlineRing, SigningKey, bearer, jwks, request, rule
from tests.tokens import LEFT_OUT, b64, hmac_of_public, raw_token, signer

KEY: Final = SigningKey.p256()
STRANGER: Final = SigningKey.p256()
RSA: Final = SigningKey(rsa_key(), "r1")
P384: Final = SigningKey(ec.generate_private_key(ec.SECP384R1()))
RULE: Final = rule(KEY, RSA, audiences=[AUDIENCE, "other"])
GOOD: Final = KEY.token()


async def check(asked: HttpRequest, *rules: JwtRule) -> Verified | None:
    return await EndUserValidator(rules or (RULE,), keys=InlineRing(), clock=FakeClock()).check(asked)


async def believed(asked: HttpRequest, *rules: JwtRule) -> Verified:
    verified = await check(asked, *rules)
    assert verified is not None
    return verified


async def refused(asked: HttpRequest, *rules: JwtRule) -> CitadelError:
    with pytest.raises(CitadelError) as refusal:
        await check(asked, *rules)
    return refusal.value


class UntouchedKeys:
    """A ring from which nothing may be asked: what is refused early reaches no key, and causes no fetch."""

    def of(self, _rule: JwtRule) -> IssuerKeys:
        return self

    async def under(self, key_id: str) -> Sequence[IssuerKey]:
        raise AssertionError(f"a key {key_id!r} was asked for")


class TestGood:
    async def test_a_token_names_the_end_user(self) -> None:
        token = KEY.token(azp="app", scope="read write", permission="a  b", groups="a b", nested={"scope": "x y"})
        verified = await believed(bearer(token))
        user = verified.user
        assert (user.issuer, user.subject, user.presenter, user.audiences) == (ISSUER, "jason", "app", (AUDIENCE,))
        assert user.principal == RequestPrincipal(ISSUER, "jason")
        assert user.expires_at.timestamp() == SECONDS + 300
        assert (user.claims["scope"], user.claims["permission"]) == (["read", "write"], ["a", "b"])
        assert (user.claims["groups"], user.claims["nested"]) == ("a b", {"scope": "x y"})
        assert verified.rule is RULE
        assert [found.place for found in verified.found] == [Place("header", "authorization", "Bearer ")]
        assert verified.token.claims["scope"] == "read write"
        assert verified.token.encoded_payload == token.split(".")[1]

    async def test_claims_that_a_rule_names_are_split_too(self) -> None:
        verified = await believed(
            bearer(KEY.token(groups="a b", roles=7)), rule(KEY, spaceDelimitedClaims=["groups", "roles"])
        )
        assert (verified.user.claims["groups"], verified.user.claims["roles"]) == (["a", "b"], 7)

    @pytest.mark.parametrize(
        "changes",
        [
            {"aud": ["stranger", "other"]},
            {"sub": LEFT_OUT},
            {"nbf": SECONDS, "iat": SECONDS},
            {"nbf": SECONDS + 10, "iat": SECONDS + 9.5},
            {"exp": SECONDS - 9},
            {"exp": SECONDS + 0.5},
            {"exp": 10**30},
            {"header": {"typ": LEFT_OUT}},
            {"header": {"typ": "at+jwt"}},
            {"header": {"typ": "application/AT+JWT"}},
            {"header": {"jku": "https://evil.test", "x5u": "https://evil.test", "jwk": STRANGER.jwk(), "x5c": ["AA"]}},
        ],
    )
    async def test_what_is_let_pass(self, changes: dict[str, Any]) -> None:
        await believed(bearer(KEY.token(**changes)))

    async def test_without_an_audience_in_the_rule_any_will_do(self) -> None:
        for changes in ({}, {"aud": LEFT_OUT}, {"aud": "stranger"}):
            await believed(bearer(KEY.token(**changes)), rule(KEY))

    async def test_without_a_subject_there_is_no_principal(self) -> None:
        for changes in ({"sub": LEFT_OUT}, {"sub": ""}):
            assert (await believed(bearer(KEY.token(**changes)))).user.principal is None

    async def test_each_kind_of_key(self) -> None:
        for key in (RSA, P384, SigningKey(ec.generate_private_key(ec.SECP521R1()))):
            await believed(bearer(key.token()), rule(key))
        pss = RSA.token(header={"alg": "PS512"}, sign=signer(RSA.key, "PS512"))
        await believed(bearer(pss), rule(RSA))

    async def test_leeway_is_a_setting(self) -> None:
        late = bearer(KEY.token(exp=SECONDS - 59))
        validator = EndUserValidator([RULE], keys=InlineRing(), clock=FakeClock(), leeway=timedelta(minutes=1))
        assert await validator.check(late) is not None

    async def test_a_token_without_kid_is_tried_with_each_key_that_fits(self) -> None:
        others = [SigningKey.p256(f"o{number}") for number in range(7)]
        nameless = bearer(SigningKey(KEY.key, "").token())
        await believed(nameless, rule(RSA, P384, *others, KEY))
        refusal = await refused(nameless, rule(*others, SigningKey.p256("o8"), KEY))
        assert refusal.reason is Reason.JWT_BAD_SIGNATURE  # of many keys only the first eight

    async def test_a_set_without_ids_serves_tokens_with_one(self) -> None:
        await believed(bearer(GOOD), rule(SigningKey(KEY.key, "")))

    async def test_two_keys_of_different_kinds_share_an_id(self) -> None:
        both = rule(KEY, SigningKey(RSA.key, "k1"))
        await believed(bearer(KEY.token()), both)
        await believed(bearer(SigningKey(RSA.key, "k1").token()), both)


HEADER, PAYLOAD, SIGNATURE = GOOD.split(".")
# All of these are refused before a key is looked for.
EARLY: list[tuple[str, str, Reason]] = [
    ("nothing", "", Reason.JWT_MALFORMED),
    ("no dots", "abc", Reason.JWT_MALFORMED),
    ("one dot", f"{HEADER}.{PAYLOAD}", Reason.JWT_MALFORMED),
    ("a JWE", b64(b'{"alg":"RSA-OAEP","enc":"A128GCM"}') + ".A.A.A.A", Reason.JWT_MALFORMED),
    ("padding", f"{HEADER}.{PAYLOAD}.{SIGNATURE}==", Reason.JWT_MALFORMED),
    ("a MiB", GOOD + "A" * (1 << 20), Reason.JWT_MALFORMED),
    ("just too long", KEY.token(more="x" * MAX_TOKEN_BYTES), Reason.JWT_MALFORMED),
    ("not JSON", KEY.token(payload=b"{"), Reason.JWT_MALFORMED),
    ("not an object", KEY.token(payload=b'"text"'), Reason.JWT_MALFORMED),
    (
        "a claim that stands twice",
        KEY.token(payload=f'{{"iss":"{ISSUER}","sub":"a","sub":"b","exp":{SECONDS + 9}}}'.encode()),
        Reason.JWT_MALFORMED,
    ),
    ("alg none", KEY.token(header={"alg": "none"}, sign=lambda _: b""), Reason.JWT_ALGORITHM_REFUSED),
    ("alg None", KEY.token(header={"alg": "None"}, sign=lambda _: b""), Reason.JWT_ALGORITHM_REFUSED),
    ("no alg", KEY.token(header={"alg": LEFT_OUT}), Reason.JWT_ALGORITHM_REFUSED),
    (
        "HMAC with the public key",
        KEY.token(header={"alg": "HS256"}, sign=hmac_of_public(KEY.key.public_key())),
        Reason.JWT_ALGORITHM_REFUSED,
    ),
    ("EdDSA", KEY.token(header={"alg": "EdDSA"}), Reason.JWT_ALGORITHM_REFUSED),
    ("crit", KEY.token(header={"crit": ["exp"], "exp": 1}), Reason.JWT_HEADER_REFUSED),
    ("b64", KEY.token(header={"b64": False}), Reason.JWT_HEADER_REFUSED),
    ("a logout token", KEY.token(header={"typ": "logout+jwt"}), Reason.JWT_HEADER_REFUSED),
    ("a DPoP proof", KEY.token(header={"typ": "dpop+jwt"}), Reason.JWT_HEADER_REFUSED),
    ("an empty typ", KEY.token(header={"typ": ""}), Reason.JWT_HEADER_REFUSED),
    ("a token in a token", KEY.token(header={"cty": "JWT"}, payload=GOOD.encode()), Reason.JWT_MALFORMED),
    ("no issuer", KEY.token(iss=LEFT_OUT), Reason.JWT_ISSUER_UNKNOWN),
    ("an empty issuer", KEY.token(iss=""), Reason.JWT_ISSUER_UNKNOWN),
    ("an unknown issuer", KEY.token(iss="https://evil.test"), Reason.JWT_ISSUER_UNKNOWN),
    ("the issuer with a slash more", KEY.token(iss=ISSUER + "/"), Reason.JWT_ISSUER_UNKNOWN),
    ("the issuer in capitals", KEY.token(iss=ISSUER.upper()), Reason.JWT_ISSUER_UNKNOWN),
    ("the issuer as a list", KEY.token(iss=[ISSUER]), Reason.JWT_MALFORMED),
    ("expired", KEY.token(exp=SECONDS - 10), Reason.JWT_EXPIRED),
    ("no exp", KEY.token(exp=LEFT_OUT), Reason.JWT_MALFORMED),
    ("exp as text", KEY.token(exp=str(SECONDS + 300)), Reason.JWT_MALFORMED),
    ("exp null", KEY.token(exp=None), Reason.JWT_MALFORMED),
    ("exp true", KEY.token(exp=True), Reason.JWT_MALFORMED),
    ("not yet valid", KEY.token(nbf=SECONDS + 11), Reason.JWT_NOT_YET_VALID),
    ("issued in the future", KEY.token(iat=SECONDS + 11), Reason.JWT_NOT_YET_VALID),
    ("nbf as text", KEY.token(nbf="0"), Reason.JWT_MALFORMED),
    ("the wrong audience", KEY.token(aud="stranger"), Reason.JWT_AUDIENCE_MISMATCH),
    ("the audience in capitals", KEY.token(aud=AUDIENCE.upper()), Reason.JWT_AUDIENCE_MISMATCH),
    ("no audience", KEY.token(aud=LEFT_OUT), Reason.JWT_AUDIENCE_MISMATCH),
    ("an empty list of audiences", KEY.token(aud=[]), Reason.JWT_AUDIENCE_MISMATCH),
    ("an audience that is a number", KEY.token(aud=[AUDIENCE, 7]), Reason.JWT_MALFORMED),
    ("a subject that is a number", KEY.token(sub=7), Reason.JWT_MALFORMED),
    ("a presenter that is a list", KEY.token(azp=["app"]), Reason.JWT_MALFORMED),
]
LATE: list[tuple[str, str, Reason]] = [
    ("an unknown key", SigningKey(KEY.key, "k9").token(), Reason.JWT_KEY_UNKNOWN),
    ("another's key under a known id", STRANGER.token(), Reason.JWT_BAD_SIGNATURE),
    ("another's key and no id", SigningKey(STRANGER.key, "").token(), Reason.JWT_BAD_SIGNATURE),
    ("a key in the header", STRANGER.token(header={"jwk": STRANGER.jwk()}), Reason.JWT_BAD_SIGNATURE),
    ("another's claims", f"{HEADER}.{KEY.token(sub='admin').split('.')[1]}.{SIGNATURE}", Reason.JWT_BAD_SIGNATURE),
    ("no signature", f"{HEADER}.{PAYLOAD}.", Reason.JWT_BAD_SIGNATURE),
    ("a signature cut off", KEY.token(sign=lambda data: signer(KEY.key)(data)[:-1]), Reason.JWT_BAD_SIGNATURE),
    ("RS256 with an EC key", SigningKey(RSA.key, "k1").token(), Reason.JWT_ALGORITHM_REFUSED),
    ("ES256 with an RSA key", SigningKey(KEY.key, "r1").token(), Reason.JWT_ALGORITHM_REFUSED),
    ("another curve", P384.token(), Reason.JWT_ALGORITHM_REFUSED),
]


class TestBad:
    @pytest.mark.parametrize(("token", "reason"), [row[1:] for row in EARLY], ids=[row[0] for row in EARLY])
    async def test_refused_before_any_key_is_used(self, token: str, reason: Reason) -> None:
        validator = EndUserValidator([RULE], keys=UntouchedKeys(), clock=FakeClock())
        with pytest.raises(CitadelError) as refusal:
            await validator.check(bearer(token))
        assert refusal.value.reason is reason, refusal.value.message

    @pytest.mark.parametrize(("token", "reason"), [row[1:] for row in LATE], ids=[row[0] for row in LATE])
    async def test_refused_by_the_keys(self, token: str, reason: Reason) -> None:
        refusal = await refused(bearer(token))
        assert refusal.reason is reason, refusal.message

    async def test_a_key_serves_only_the_algorithm_that_its_issuer_named(self) -> None:
        only_pss = JwtRule.model_validate({"issuer": ISSUER, "jwks": jwks(RSA.jwk(alg="PS256"))})
        assert (await refused(bearer(RSA.token()), only_pss)).reason is Reason.JWT_ALGORITHM_REFUSED

    async def test_one_issuers_key_signs_for_no_other(self) -> None:
        other = "https://other.test"
        rules = (rule(KEY), rule(STRANGER, issuer=other))
        assert (await refused(bearer(STRANGER.token()), *rules)).reason is Reason.JWT_BAD_SIGNATURE
        assert (await believed(bearer(STRANGER.token(iss=other)), *rules)).rule is rules[1]

    async def test_keys_that_were_never_had(self) -> None:
        class Absent:
            def of(self, _rule: JwtRule) -> IssuerKeys:
                return self

            async def under(self, key_id: str) -> Sequence[IssuerKey]:
                raise Unavailable(Reason.JWKS_UNAVAILABLE, f"no {key_id}")

        with pytest.raises(Unavailable) as refusal:
            await EndUserValidator([RULE], keys=Absent(), clock=FakeClock()).check(bearer(GOOD))
        assert refusal.value.reason is Reason.JWKS_UNAVAILABLE

    @pytest.mark.invariant(10)
    async def test_no_refusal_repeats_the_token(self) -> None:
        for _, token, _ in (*EARLY, *LATE):
            refusal = await refused(bearer(token))
            assert not token or token not in str(refusal)
            assert SIGNATURE not in str(refusal)


class TestSeveral:
    """Decision 0032."""

    RULE = rule(
        KEY,
        fromHeaders=[{"name": "Authorization", "prefix": "Bearer "}, {"name": "x-jwt"}],
        fromParams=["token"],
        fromCookies=["session"],
    )
    YOUNGER = KEY.token(exp=SECONDS + 600, group="b")
    ADMIN = KEY.token(sub="admin")

    async def test_the_same_token_in_several_places_is_one(self) -> None:
        asked = request(
            {"authorization": f"Bearer {GOOD}", "x-jwt": GOOD, "cookie": f"a=b; session={GOOD}"}, path=f"/?token={GOOD}"
        )
        verified = await believed(asked, self.RULE)
        assert [found.place.name for found in verified.found] == ["authorization", "x-jwt", "token", "session"]

    async def test_of_two_tokens_of_one_user_the_first_place_counts_alone(self) -> None:
        asked = request({"x-jwt": self.YOUNGER, "cookie": f"session={GOOD}"})
        verified = await believed(asked, self.RULE)
        assert verified.user.claims == verified.token.claims
        assert verified.user.claims["group"] == "b"
        swapped = await believed(request({"x-jwt": GOOD, "cookie": f"session={self.YOUNGER}"}), self.RULE)
        assert "group" not in swapped.user.claims
        assert len(swapped.found) == 2

    @pytest.mark.parametrize(
        ("second", "reason"),
        [
            (ADMIN, Reason.JWT_MALFORMED),
            (KEY.token(sub=LEFT_OUT), Reason.JWT_MALFORMED),
            (STRANGER.token(), Reason.JWT_BAD_SIGNATURE),
            (KEY.token(exp=SECONDS - 60), Reason.JWT_EXPIRED),
            (KEY.token(iss="https://evil.test"), Reason.JWT_ISSUER_UNKNOWN),
            ("", Reason.JWT_MALFORMED),
        ],
    )
    async def test_each_must_be_good_and_of_the_same_user(self, second: str, reason: Reason) -> None:
        for asked in (
            request({"x-jwt": GOOD, "cookie": f"session={second}"}),
            request({"x-jwt": second, "cookie": f"session={GOOD}"}),
        ):
            assert (await refused(asked, self.RULE)).reason is reason

    async def test_two_without_a_subject_are_not_the_same_user(self) -> None:
        nobody = KEY.token(sub=LEFT_OUT)
        asked = request({"x-jwt": nobody, "cookie": f"session={nobody}"})
        assert (await refused(asked, self.RULE)).reason is Reason.JWT_MALFORMED

    async def test_users_of_two_issuers_are_two(self) -> None:
        other = "https://other.test"
        rules = (rule(KEY), rule(STRANGER, issuer=other, fromHeaders=[{"name": "x-jwt"}]))
        asked = request({"authorization": f"Bearer {GOOD}", "x-jwt": STRANGER.token(iss=other)})
        assert (await refused(asked, *rules)).reason is Reason.JWT_MALFORMED

    @pytest.mark.parametrize(
        "asked",
        [
            request({"authorization": f"Bearer {GOOD},Bearer {ADMIN}"}),
            request({"authorization": f"Bearer {GOOD}, Bearer {GOOD}"}),
            request({"authorization": f"Basic amFzb246eA==, Bearer {GOOD}"}),
            request({"authorization": f"Bearer {GOOD},"}),
            request({"x-jwt": f"{GOOD},{GOOD}"}),
            request({"cookie": f"session={GOOD}; session={ADMIN}"}),
            request({"cookie": f"session={GOOD}, session={ADMIN}"}),
            request({"cookie": f"session={GOOD}; a=b,session={ADMIN}"}),
            request(path=f"/?token={GOOD}&token={ADMIN}"),
            request(path=f"/?token={GOOD}&token="),
        ],
    )
    async def test_one_place_with_several_is_refused(self, asked: HttpRequest) -> None:
        refusal = await refused(asked, self.RULE)
        assert refusal.reason is Reason.JWT_MALFORMED
        assert "more than once" in refusal.message

    @pytest.mark.parametrize(
        ("aud", "said"),
        [
            ("stranger", "the token is for stranger; accepted is one for web or api"),
            (["a", "b\n"], "the token is for a, b ; accepted is one for web or api"),
            (["x" * 1000], f"the token is for {'x' * 80}; accepted is one for web or api"),
            (LEFT_OUT, "the token is for nobody, it has no aud; accepted is one for web or api"),
        ],
        ids=["one", "several", "long", "none"],
    )
    async def test_what_a_token_is_for_and_what_is_accepted_is_said(self, aud: Any, said: str) -> None:
        asked = request({"authorization": f"Bearer {KEY.token(aud=aud)}"})
        assert (await refused(asked, rule(KEY, audiences=["web", "api"]))).message == said

    async def test_two_rules_of_one_issuer_take_each_from_their_own_place(self) -> None:
        rules = (rule(KEY, audiences=["web"]), rule(KEY, audiences=["api"], fromHeaders=[{"name": "x-api"}]))
        assert (await believed(request({"x-api": KEY.token(aud="api")}), *rules)).rule is rules[1]
        assert (await refused(request({"x-api": KEY.token(aud="web")}), *rules)).reason is Reason.JWT_AUDIENCE_MISMATCH
        asked = request({"authorization": f"Bearer {KEY.token(aud='web')}", "x-api": KEY.token(aud="api")})
        assert [found.rule for found in (await believed(asked, *rules)).found] == list(rules)


async def test_a_token_whose_json_was_written_twice_is_refused_at_any_depth() -> None:
    payload = json.dumps({"iss": ISSUER, "exp": SECONDS + 9, "realm": 0}).replace(
        '"realm": 0', '"realm": {"a": 1, "a": 2}'
    )
    token = raw_token(b'{"alg":"ES256","kid":"k1"}', payload.encode(), signer(KEY.key))
    assert (await refused(bearer(token))).reason is Reason.JWT_MALFORMED


async def test_the_payload_goes_on_as_it_came() -> None:
    payload = f'{{ "iss" : "{ISSUER}",  "exp": {SECONDS + 9}, "name": "J\\u00fcrgen ü" }}'.encode()
    token = raw_token(b'{"alg":"ES256","kid":"k1"}', payload, signer(KEY.key))
    encoded = (await believed(bearer(token), rule(KEY))).token.encoded_payload
    assert base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)) == payload
