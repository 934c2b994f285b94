"""The sacred function for identities that a platform proved: what they get, and what nobody gets so."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from ca.issuance.lifetime import LifetimePolicy, LimitedBy
from ca.issuance.press import IssuedSvid
from ca.issuance.proven import ProvenRequest
from citadel.errors import CitadelError, Reason, Unavailable
from citadel.reserved import is_agent_id, is_k8s_door_id, is_reserved_id, k8s_agent_id, k8s_door_id
from citadel.spiffe import SpiffeId
from tests import certificates
from tests.csrs import csr, new_key
from tests.unit.ca.test_issuer import Desk, revocation_of
from tests.unit.ca.values import A_TEST, NOW, entry

HOUR = timedelta(hours=1)
WEB = SpiffeId.parse("spiffe://a.test/ns/shop/sa/web")
DOOR = k8s_door_id(A_TEST, "main", "istio")
POLICY = LifetimePolicy(default=24 * HOUR, own=HOUR, cap=48 * HOUR, backdate=timedelta(minutes=2))
ASKED = ProvenRequest(spiffe_id=WEB, key=b"", policy=POLICY, requested_by=DOOR, charged_to="pod-1")


def asked(**changes: object) -> ProvenRequest:
    return replace(ASKED, **{"key": csr(), **changes})  # type: ignore[arg-type]


def reason(outcome: IssuedSvid | CitadelError) -> Reason:
    assert isinstance(outcome, CitadelError)
    return outcome.reason


async def test_the_identity_is_the_proven_one_and_the_key_that_of_the_request() -> None:
    desk, key = Desk(), new_key()
    (svid,) = await desk.issuer.issue_proven([asked(key=csr(key, names=("spiffe://a.test/ns/shop/sa/other",)))])
    assert isinstance(svid, IssuedSvid)
    leaf = svid.chain[0]
    wanted = certificates.san(str(WEB))
    assert leaf.extensions.get_extension_for_class(type(wanted)).value == wanted
    assert leaf.public_key() == key.public_key()
    assert (svid.spiffe_id, svid.not_after, svid.limited_by) == (WEB, NOW + 24 * HOUR, LimitedBy.DEFAULT)
    assert leaf.not_valid_before_utc == NOW  # that of its issuer
    (row,) = desk.ledger.rows
    assert (row.spiffe_id, row.entry_id, row.requested_by) == (WEB, "", DOOR)


async def test_a_key_that_the_platform_has_checked_needs_no_request() -> None:
    desk, key = Desk(), new_key()
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()  # noqa: S505 - refused
    good, refused = await desk.issuer.issue_proven([asked(key=key.public_key()), asked(key=weak)])
    assert isinstance(good, IssuedSvid)
    assert good.chain[0].public_key() == key.public_key()
    assert reason(refused) is Reason.CSR_KEY_REFUSED


async def test_a_batch_is_in_order_and_a_refusal_takes_nothing_from_others() -> None:
    desk = Desk()
    desk.bars.replace([revocation_of(entry("/ns/shop/sa/bad"))])
    answers = await desk.issuer.issue_proven(
        [
            asked(key=b"none"),
            asked(),
            asked(spiffe_id=SpiffeId.parse("spiffe://a.test/ns/shop/sa/bad")),
            asked(spiffe_id=SpiffeId.parse("spiffe://a.test/citadel/server")),
            asked(spiffe_id=SpiffeId.parse("spiffe://b.test/ns/shop/sa/web")),
            asked(lifetime=72 * HOUR),
        ]
    )
    refused = [each.reason for each in answers if isinstance(each, CitadelError)]
    assert refused == [
        Reason.CSR_MALFORMED,
        Reason.IDENTITY_REVOKED,
        Reason.ENTRY_RESERVED_ID,
        Reason.ENTRY_RESERVED_ID,
    ]
    assert [isinstance(each, IssuedSvid) for each in answers] == [False, True, False, False, False, True]
    last = answers[-1]
    assert isinstance(last, IssuedSvid)
    assert (last.not_after, last.limited_by) == (NOW + 48 * HOUR, LimitedBy.CAP)
    assert len(desk.ledger.rows) == 2


async def test_each_caller_has_a_share_of_its_own() -> None:
    desk = Desk()  # 2 a second, and 40 at once
    many = [asked(key=new_key().public_key()) for _ in range(41)]
    answers = await desk.issuer.issue_proven([*many, asked(charged_to="pod-2")])
    assert [each.reason for each in answers if isinstance(each, CitadelError)] == [Reason.TOO_MANY_REQUESTS]
    assert isinstance(answers[-1], IssuedSvid)


@pytest.mark.invariant(2)
async def test_nothing_leaves_without_its_row() -> None:
    desk = Desk()
    desk.ledger.refusal = Unavailable(Reason.STORE_UNAVAILABLE, "full")
    assert await desk.issuer.issue_proven([asked(), asked()]) == [desk.ledger.refusal] * 2


def test_the_ledger_tells_a_platform_from_everybody_else() -> None:
    assert str(DOOR) == "spiffe://a.test/citadel/k8s/main/istio"
    assert is_k8s_door_id(DOOR)
    assert is_reserved_id(DOOR)
    assert not is_agent_id(DOOR)
    assert not is_k8s_door_id(k8s_agent_id(A_TEST, "main", "node-1"))
