"""Who gets a token, what it says, how long it lives, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import ReasonFlags

from ca.authority.jwt_model import JwtAuthority, JwtSigner
from ca.authority.model import AuthorityState
from ca.entries.directory import EntryDirectory
from ca.issuance.audiences import MOST_AUDIENCES, MOST_BYTES
from ca.issuance.jwt import IssuedJwt, JwtIssuer, JwtRequest
from ca.issuance.lifetime import LifetimePolicy, LimitedBy
from ca.issuance.quota import Quota
from ca.keys.kinds import JwtPrivateKey, KeyKind
from ca.keys.remote import SigningKey
from ca.revocation.bars import Bars
from ca.revocation.model import Revocation, RevocationKind
from citadel.entry import Entry
from citadel.errors import CitadelError, InvalidArgument, Reason, ResourceExhausted, Unavailable
from citadel.jws import MAX_TOKEN_BYTES, Jws
from citadel.spiffe import MAX_ID_BYTES
from tests.clock import FakeClock
from tests.remote_keys import LocalRemoteKey
from tests.unit.ca.values import A_TEST, NODE_1, NODE_2, NOW, a_key, agent, entry

MINUTE = timedelta(minutes=1)
HOUR = 60 * MINUTE
EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KEYS = {kind: a_key(kind) for kind in KeyKind}
ALGORITHMS = {
    KeyKind.EC_P256: "ES256",
    KeyKind.EC_P384: "ES384",
    KeyKind.RSA_2048: "RS256",
    KeyKind.RSA_4096: "RS256",
}


class Signers:
    """One key that ends after `lifetime`; what is reserved is recorded once the gate is open."""

    def __init__(self, key: SigningKey, lifetime: timedelta) -> None:
        authority = JwtAuthority(
            id="a" * 32,
            state=AuthorityState.ACTIVE,
            key_id="the-kid",
            public_key=key.public_key(),
            not_before=NOW,
            not_after=NOW + lifetime,
        )
        self._signer = JwtSigner(authority=authority, key=key)
        self.reserved: list[datetime] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.refusal: CitadelError | None = None

    def signing(self) -> JwtSigner:
        return self._signer

    async def reserve(self, signer: JwtSigner, until: datetime) -> None:
        assert signer is self._signer
        await self.gate.wait()
        if self.refusal is not None:
            raise self.refusal
        self.reserved.append(until)


class Meter:
    """Counts tokens, and remembers on which thread a batch was signed."""

    def __init__(self) -> None:
        self.issued = 0
        self.batches = 0

    def note_signed(self, seconds: float) -> None:
        assert seconds >= 0
        self.batches += 1

    def note_issued(self, number: int) -> None:
        self.issued += number


class Desk:
    """An issuer and all that it asks."""

    def __init__(
        self, *entries: Entry, key: SigningKey = EC_KEY, lifetime: timedelta = 7 * 24 * HOUR, iss: str | None = None
    ) -> None:
        self.signers = Signers(key, lifetime)
        self.directory = EntryDirectory(trust_domain=A_TEST)
        self.directory.load(entries, revision=len(entries))
        self.clock = FakeClock(NOW)
        self.bars = Bars()
        self.meter = Meter()
        self.issuer = JwtIssuer(
            entries=self.directory,
            bars=self.bars,
            authorities=self.signers,
            clock=self.clock,
            policy=LifetimePolicy(default=5 * MINUTE, own=5 * MINUTE, cap=HOUR, backdate=timedelta(seconds=10)),
            quota=Quota(max_batch=20, per_second=2, clock=self.clock),
            issuer=iss,
            meter=self.meter,
        )

    async def issue(self, *items: tuple[Entry | str, Sequence[str]]) -> list[IssuedJwt | CitadelError]:
        requests = [
            JwtRequest(entry_id=wanted if isinstance(wanted, str) else wanted.id, audiences=tuple(audiences))
            for wanted, audiences in items
        ]
        return await self.issuer.issue(agent(NODE_1), requests)

    async def token(self, wanted: Entry, *audiences: str) -> IssuedJwt:
        (issued,) = await self.issue((wanted, audiences or ("shop",)))
        assert isinstance(issued, IssuedJwt), issued
        return issued


def claims_of(issued: IssuedJwt) -> dict[str, Any]:
    """What PyJWT reads, by a key of whatever kind."""
    key = EC_KEY if jwt.get_unverified_header(issued.token)["alg"] == "ES256" else RSA_KEY
    options = {"verify_exp": False, "verify_iat": False, "verify_aud": False}
    return jwt.decode(issued.token, key.public_key(), algorithms=["ES256", "RS256"], options=options)


@pytest.mark.spec("JWT-02", "JWT-05", "JWT-06", "JWT-08", "JWT-10", "JWT-12", "JWT-18", "JWT-21")
@pytest.mark.parametrize(("key", "algorithm"), [(EC_KEY, "ES256"), (RSA_KEY, "RS256")], ids=["EC", "RSA"])
async def test_a_token_says_who_for_whom_from_when_until_when_and_nothing_else(
    key: JwtPrivateKey, algorithm: str
) -> None:
    web = entry("/web")
    issued = await Desk(web, key=key).token(web, "spiffe://a.test/shop")
    assert jwt.get_unverified_header(issued.token) == {"alg": algorithm, "kid": "the-kid", "typ": "JWT"}
    now = int(NOW.timestamp())
    assert claims_of(issued) == {
        "sub": "spiffe://a.test/web",
        "aud": ["spiffe://a.test/shop"],
        "iat": now,
        "exp": now + 300,
    }
    assert (issued.spiffe_id, issued.issued_at, issued.expires_at) == (web.spiffe_id, NOW, NOW + 5 * MINUTE)


async def test_the_issuer_stands_in_it_where_it_is_set() -> None:
    web = entry()
    assert claims_of(await Desk(web, iss="https://id.a.test").token(web))["iss"] == "https://id.a.test"


@pytest.mark.spec("JWT-16", "JWT-17")
async def test_a_token_is_for_those_who_were_asked_for_and_nobody_else() -> None:
    web = entry()
    desk = Desk(web)
    assert claims_of(await desk.token(web, "shop"))["aud"] == ["shop"]
    assert claims_of(await desk.token(web, "shop", "till", "shop"))["aud"] == ["shop", "till"]


LIFETIMES = [
    pytest.param({}, HOUR * 24, 5 * MINUTE, LimitedBy.DEFAULT, id="the default"),
    pytest.param({"jwt_svid_ttl": 2 * MINUTE}, HOUR * 24, 2 * MINUTE, LimitedBy.ENTRY, id="what the entry asks for"),
    pytest.param({"jwt_svid_ttl": 2 * HOUR}, HOUR * 24, HOUR, LimitedBy.CAP, id="not more than the cap"),
    pytest.param({"expires_at": NOW + MINUTE}, HOUR, MINUTE, LimitedBy.ENTRY_EXPIRY, id="not longer than the entry"),
    pytest.param({"jwt_svid_ttl": HOUR}, MINUTE, MINUTE, LimitedBy.ISSUER, id="not longer than the key"),
    pytest.param({"x509_svid_ttl": MINUTE}, HOUR, 5 * MINUTE, LimitedBy.DEFAULT, id="not as certificates"),
]


@pytest.mark.invariant(6)
@pytest.mark.spec("JWT-21")
@pytest.mark.parametrize(("terms", "key_lives", "expected", "limited_by"), LIFETIMES)
async def test_the_smallest_lifetime_wins_and_the_answer_says_which(
    terms: dict[str, Any], key_lives: timedelta, expected: timedelta, limited_by: LimitedBy
) -> None:
    web = entry(**terms)
    issued = await Desk(web, lifetime=key_lives).token(web)
    assert claims_of(issued)["exp"] - claims_of(issued)["iat"] == expected.total_seconds()
    assert issued.limited_by is limited_by


async def test_times_are_whole_seconds_and_never_later_than_they_should_be() -> None:
    web = entry()
    desk = Desk(web)
    desk.clock.leap(0.9)
    issued = await desk.token(web)
    assert (issued.issued_at, issued.expires_at) == (NOW, NOW + 5 * MINUTE)


FOREIGN, EXPIRED, WEB = entry("/foreign", NODE_2), entry("/late", expires_at=NOW), entry("/web")
LONG = "spiffe://a.test/" + "x" * (MAX_ID_BYTES - 16)
REFUSED = [
    pytest.param(FOREIGN, ["shop"], Reason.ENTRY_NOT_AUTHORIZED, id="another agent's entry"),
    pytest.param("no-such-entry", ["shop"], Reason.ENTRY_NOT_AUTHORIZED, id="no entry"),
    pytest.param(EXPIRED, ["shop"], Reason.ENTRY_EXPIRED, id="an entry that has ended"),
    pytest.param(WEB, [], Reason.REQUEST_MALFORMED, id="no audience"),
    pytest.param(WEB, [""], Reason.REQUEST_MALFORMED, id="an empty audience"),
    pytest.param(WEB, ["shop", ""], Reason.REQUEST_MALFORMED, id="an empty audience beside one"),
    pytest.param(WEB, ["shop\n"], Reason.REQUEST_MALFORMED, id="a line break"),
    pytest.param(WEB, ["sh\0op"], Reason.REQUEST_MALFORMED, id="a null byte"),
    pytest.param(WEB, [str(n) for n in range(MOST_AUDIENCES + 1)], Reason.REQUEST_MALFORMED, id="too many"),
    pytest.param(WEB, ["x" * MOST_BYTES], Reason.REQUEST_MALFORMED, id="too long"),
    pytest.param(WEB, ["\U0001f600" * 400], Reason.REQUEST_MALFORMED, id="too long as JSON"),
]


@pytest.mark.spec("JWT-12")
@pytest.mark.parametrize(("wanted", "audiences", "reason"), REFUSED)
async def test_what_is_refused_takes_nothing_from_others(
    wanted: Entry | str, audiences: list[str], reason: Reason
) -> None:
    desk = Desk(WEB, FOREIGN, EXPIRED)
    first, refused, last = await desk.issue((WEB, ["shop"]), (wanted, audiences), (WEB, ["till"]))
    assert isinstance(refused, CitadelError)
    assert refused.reason is reason
    assert isinstance(first, IssuedJwt)
    assert isinstance(last, IssuedJwt)
    assert claims_of(last)["aud"] == ["till"]
    assert desk.meter.issued == 2


async def test_the_largest_that_is_allowed_is_a_token_that_everybody_here_reads() -> None:
    longest = entry("/" + "x" * (MAX_ID_BYTES - len("spiffe://a.test/")))
    issued = await Desk(longest).token(longest, LONG, "y" * (MOST_BYTES - MAX_ID_BYTES - 8))
    assert len(issued.token) <= MAX_TOKEN_BYTES
    assert len(claims_of(issued)["aud"]) == 2


async def test_a_batch_without_a_good_item_reserves_nothing() -> None:
    desk = Desk(WEB)
    (refused,) = await desk.issue(("no-such-entry", ["shop"]))
    assert isinstance(refused, CitadelError)
    assert desk.signers.reserved == []


async def test_nothing_is_answered_before_the_latest_end_of_the_batch_is_durable() -> None:
    short, long = entry("/short", jwt_svid_ttl=MINUTE), entry("/long", jwt_svid_ttl=30 * MINUTE)
    desk = Desk(short, long)
    desk.signers.gate.clear()
    answer = asyncio.create_task(desk.issue((short, ["shop"]), (long, ["shop"]), (short, ["shop"])))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not answer.done()
    desk.signers.gate.set()
    await answer
    assert desk.signers.reserved == [NOW + 30 * MINUTE]


async def test_where_that_fails_nothing_was_issued() -> None:
    desk = Desk(WEB)
    desk.signers.refusal = Unavailable(Reason.STORE_UNAVAILABLE, "the disk is full")
    with pytest.raises(Unavailable):
        await desk.issue((WEB, ["shop"]))
    assert desk.meter.issued == 0


def revocation_of(revoked: Entry) -> Revocation:
    return Revocation(
        id="r" * 32,
        kind=RevocationKind.IDENTITY,
        target=str(revoked.spiffe_id),
        reason="stolen",
        code=ReasonFlags.unspecified,
        revoked_at=NOW,
        revoked_by="local:uid:0",
    )


@pytest.mark.parametrize("comes", ["before", "meanwhile"])
async def test_a_revoked_identity_gets_no_token_also_when_it_is_revoked_meanwhile(comes: str) -> None:
    other = entry("/other")
    desk = Desk(WEB, other)
    if comes == "before":
        desk.bars.replace([revocation_of(WEB)])
    desk.signers.gate.clear()
    answer = asyncio.create_task(desk.issue((WEB, ["shop"]), (other, ["shop"])))
    await asyncio.sleep(0)
    desk.bars.replace([revocation_of(WEB)])
    desk.signers.gate.set()
    refused, issued = await answer
    assert isinstance(refused, CitadelError)
    assert refused.reason is Reason.IDENTITY_REVOKED
    assert isinstance(issued, IssuedJwt)
    assert desk.meter.issued == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (None, Reason.ENTRY_NOT_AUTHORIZED),
        ({"parent_id": NODE_2}, Reason.ENTRY_NOT_AUTHORIZED),
        ({"spiffe_id": A_TEST.member("renamed")}, Reason.ENTRY_CHANGED),
        ({"expires_at": NOW + MINUTE}, Reason.ENTRY_CHANGED),
        ({"expires_at": NOW}, Reason.ENTRY_EXPIRED),
    ],
)
async def test_an_entry_that_is_taken_away_or_changed_meanwhile_gives_no_token(
    change: dict[str, Any] | None, reason: Reason
) -> None:
    other = entry("/other")
    desk = Desk(WEB, other)
    desk.signers.gate.clear()
    answer = asyncio.create_task(desk.issue((WEB, ["shop"]), (other, ["shop"])))
    await asyncio.sleep(0)
    if change is None:
        desk.directory.remove(WEB.id, revision=9)
    else:
        desk.directory.put(replace(WEB, **change), revision=9)
    desk.directory.put(replace(other, hint="a change that matters to no token"), revision=10)
    desk.signers.gate.set()
    refused, issued = await answer
    assert isinstance(refused, CitadelError)
    assert refused.reason is reason
    assert isinstance(issued, IssuedJwt)
    assert desk.meter.issued == 1


async def test_limits_refuse_the_whole_batch() -> None:
    desk = Desk(WEB)
    with pytest.raises(InvalidArgument) as too_large:
        await desk.issue(*[(WEB, ["shop"])] * 21)
    assert too_large.value.reason is Reason.BATCH_TOO_LARGE
    for _ in range(2):
        await desk.issue(*[(WEB, ["shop"])] * 20)
    with pytest.raises(ResourceExhausted) as too_many:
        await desk.issue((WEB, ["shop"]))
    assert too_many.value.reason is Reason.TOO_MANY_REQUESTS
    desk.clock.leap(1)
    assert len(await desk.issue((WEB, ["shop"]))) == 1


@pytest.mark.parametrize(("key", "number", "is_apart"), [(EC_KEY, 8, False), (EC_KEY, 9, True), (RSA_KEY, 2, True)])
async def test_signing_in_bulk_does_not_hold_up_the_loop(key: JwtPrivateKey, number: int, *, is_apart: bool) -> None:
    threads: set[int] = set()

    class Watching(Bars):
        def refuse(self, *args: Any, **more: Any) -> None:
            threads.add(threading.get_ident())
            super().refuse(*args, **more)

    desk = Desk(WEB, key=key)
    desk.issuer._bars = Watching()
    issued = await desk.issue(*[(WEB, ["shop"])] * number)
    desk.issuer.close()
    assert len(issued) == number
    assert (len(threads) == 2) == is_apart, "the last look, before the answer, is on the loop"


@pytest.mark.invariant(10)
async def test_a_token_does_not_show_itself() -> None:
    issued = await Desk(WEB).token(WEB)
    assert issued.token not in repr(issued)
    assert issued.token.split(".")[2] not in repr(issued)
    payload = issued.token.split(".")[1]
    assert json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"] == str(WEB.spiffe_id)


@pytest.mark.spec("JWT-02")
@pytest.mark.parametrize("number", [1, 12])
@pytest.mark.parametrize("where", ["here", "elsewhere"])
@pytest.mark.parametrize("kind", KeyKind)
async def test_a_key_of_any_kind_signs_wherever_it_is(kind: KeyKind, where: str, number: int) -> None:
    key, other = KEYS[kind], entry("/other")
    remote = LocalRemoteKey(key)
    desk = Desk(WEB, other, key=remote if where == "elsewhere" else key)
    results = await desk.issue((WEB, []), (other, ["till"]), *[(WEB, ["shop"])] * number)
    issued = [each for each in results if isinstance(each, IssuedJwt)]
    assert len(issued) == number + 1
    for each in issued:
        parsed = Jws.read(each.token)
        parsed.check_signature(key.public_key())
        assert (parsed.algorithm, parsed.claims["sub"]) == (ALGORITHMS[kind], str(each.spiffe_id))
    if where == "elsewhere":
        assert len(remote.elsewhere.calls) == 1
        assert len(remote.elsewhere.calls[0]) == 2, "what is asked for twice in one second is one token"


async def test_where_the_key_is_away_nothing_is_issued_or_reserved() -> None:
    remote = LocalRemoteKey(EC_KEY)
    desk = Desk(WEB, key=remote)
    remote.elsewhere.failure = Unavailable(Reason.VAULT_UNAVAILABLE, "sealed")
    with pytest.raises(Unavailable) as refused:
        await desk.issue((WEB, ["shop"]))
    assert refused.value.reason is Reason.VAULT_UNAVAILABLE
    assert (desk.signers.reserved, desk.meter.issued) == ([], 0)
    remote.elsewhere.failure = None
    await desk.token(WEB)


async def test_what_is_revoked_while_a_slow_key_signs_is_refused() -> None:
    remote, other = LocalRemoteKey(EC_KEY), entry("/other")
    desk = Desk(WEB, other, key=remote)
    remote.elsewhere.gate.clear()
    answer = asyncio.create_task(desk.issue((WEB, ["shop"]), (other, ["shop"])))
    while not remote.elsewhere.calls:
        await asyncio.sleep(0)
    desk.bars.replace([revocation_of(WEB)])
    remote.elsewhere.gate.set()
    refused, issued = await answer
    assert isinstance(refused, CitadelError)
    assert refused.reason is Reason.IDENTITY_REVOKED
    assert isinstance(issued, IssuedJwt)
