"""Requests of many proxies share batches; and what a proxy makes of an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from OpenSSL import crypto
from sqlalchemy import select

from ca.issuance.press import IssuedSvid
from ca.issuance.proven import ProvenRequest
from ca.kubernetes.istio.chain import Answers
from ca.kubernetes.istio.gathering import Gathering
from ca.revocation.bars import Bars
from ca.store.database import Database
from ca.store.schema import ledger as ledger_rows
from citadel.bundle import TrustBundle
from citadel.errors import CitadelError, PermissionDenied, Reason, Unavailable
from citadel.serial import serial_hex
from citadel.spiffe import SpiffeId
from tests import certificates
from tests.csrs import new_key
from tests.remote_keys import LocalRemoteKey
from tests.unit.ca.records import writing
from tests.unit.ca.test_issuer import ROOT, Desk, revocation_of
from tests.unit.ca.test_issuer_proven import asked
from tests.unit.ca.values import A_TEST, NOW, entry

REVOKED = PermissionDenied(Reason.IDENTITY_REVOKED, "revoked")


class Recording:
    """Signs by a desk's issuer, as soon as it is let."""

    def __init__(self) -> None:
        self.desk = Desk()
        self.batches: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails: Exception | None = None

    async def issue_proven(self, requests: Sequence[ProvenRequest]) -> list[IssuedSvid | CitadelError]:
        self.batches.append(len(requests))
        await self.gate.wait()
        if self.fails is not None:
            raise self.fails
        answers = await self.desk.issuer.issue_proven(requests)
        return [
            REVOKED if request.charged_to == "bad" else answer
            for request, answer in zip(requests, answers, strict=True)
        ]


def named(number: int) -> ProvenRequest:
    return asked(spiffe_id=SpiffeId(A_TEST, f"/ns/shop/sa/a{number}"), charged_to=number)


async def test_those_that_come_while_a_batch_is_under_way_are_signed_together_and_each_gets_its_own() -> None:
    issuer = Recording()
    gathering = Gathering(issuer)
    wanted = [named(number) for number in range(30)]
    svids = await asyncio.gather(*map(gathering.issue, wanted))
    assert [svid.spiffe_id for svid in svids] == [each.spiffe_id for each in wanted]
    issuer.gate.clear()
    first = asyncio.create_task(gathering.issue(named(30)))
    while sum(issuer.batches) < 31:
        await asyncio.sleep(0)
    later = [asyncio.create_task(gathering.issue(named(number))) for number in range(31, 41)]
    await asyncio.sleep(0)
    issuer.gate.set()
    assert [(await each).spiffe_id for each in (first, *later)] == [named(n).spiffe_id for n in range(30, 41)]
    assert issuer.batches == [30, 1, 10]
    assert len(issuer.desk.ledger.rows) == 41


async def test_who_asks_again_at_once_is_not_forgotten() -> None:
    gathering = Gathering(Recording())
    async with asyncio.timeout(10):
        for number in range(3):
            assert (await gathering.issue(named(number))).spiffe_id == named(number).spiffe_id


async def test_many_do_not_wait_for_a_batch_that_takes_its_time_and_none_is_too_large() -> None:
    issuer = Recording()
    gathering = Gathering(issuer)
    issuer.gate.clear()
    calls = []
    for number in range(300):
        calls.append(asyncio.create_task(gathering.issue(named(number))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert len(issuer.batches) == 4
    issuer.gate.set()
    assert len(await asyncio.gather(*calls)) == 300
    assert max(issuer.batches) <= 64


async def test_a_refusal_is_one_callers_alone_and_a_failure_everybodys() -> None:
    issuer = Recording()
    gathering = Gathering(issuer)
    good, bad = await asyncio.gather(
        gathering.issue(named(1)), gathering.issue(replace(named(2), charged_to="bad")), return_exceptions=True
    )
    assert isinstance(good, IssuedSvid)
    assert (type(bad), str(bad)) == (type(REVOKED), str(REVOKED))
    for failure in (Unavailable(Reason.STORE_UNAVAILABLE, "full"), RuntimeError("defect")):
        issuer.fails = failure
        both = await asyncio.gather(*map(gathering.issue, (named(1), named(2))), return_exceptions=True)
        assert [(type(each), str(each)) for each in both] == [(type(failure), str(failure))] * 2
        assert both[0] is not both[1]  # each is raised by a task of its own
    issuer.fails = None
    assert isinstance(await gathering.issue(named(3)), IssuedSvid)


@pytest.mark.invariant(2)
async def test_who_is_revoked_while_a_batch_is_signed_is_refused_alone(database: Database) -> None:
    bars, remote = Bars(), LocalRemoteKey(new_key())
    async with writing(database, is_revoked=bars.hold) as ledger:
        gathering = Gathering(Desk(key=remote, ledger=ledger).issuer)
        remote.elsewhere.gate.clear()
        calls = [asyncio.create_task(gathering.issue(named(number))) for number in range(20)]
        while not remote.elsewhere.calls:
            await asyncio.sleep(0)
        bars.replace([revocation_of(entry("/ns/shop/sa/a7"))])
        remote.elsewhere.gate.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = outcomes.pop(7)
    assert isinstance(refused, Unavailable)
    assert refused.reason is Reason.IDENTITY_REVOKED
    svids = [outcome for outcome in outcomes if isinstance(outcome, IssuedSvid)]
    assert len(svids) == 19
    async with database.reading() as connection:
        serials = (await connection.execute(select(ledger_rows.c.serial))).scalars()
        assert set(serials) == {serial_hex(svid.chain[0].serial_number) for svid in svids}


class Short:
    """Forgets the last of each batch."""

    async def issue_proven(self, requests: Sequence[ProvenRequest]) -> list[IssuedSvid | CitadelError]:
        return [REVOKED for _ in requests[1:]]


async def test_nobody_waits_for_an_answer_that_was_forgotten() -> None:
    gathering = Gathering(Short())
    async with asyncio.timeout(10):
        first, last = await asyncio.gather(*map(gathering.issue, (named(1), named(2))), return_exceptions=True)
    assert (type(first), str(first)) == (type(REVOKED), str(REVOKED))
    assert isinstance(last, ValueError)


async def test_who_gives_up_takes_nothing_from_others() -> None:
    issuer = Recording()
    gathering = Gathering(issuer)
    gone, stays = (asyncio.create_task(gathering.issue(named(number))) for number in (1, 2))
    await asyncio.sleep(0)
    gone.cancel()
    assert (await stays).spiffe_id == named(2).spiffe_id
    assert issuer.batches == [1]


async def test_the_answer_is_leaf_authorities_and_last_all_roots() -> None:
    desk, other = Desk(), certificates.root()
    (svid,) = await desk.issuer.issue_proven([asked()])
    assert isinstance(svid, IssuedSvid)
    roots: list[TrustBundle] = [
        TrustBundle(trust_domain=A_TEST, x509_authorities=(ROOT.certificate, other.certificate))
    ]
    answers = Answers(lambda: roots[0])
    leaf, issuer, last = answers.chain_of(svid)
    assert x509.load_pem_x509_certificate(leaf.encode()) == svid.chain[0]
    assert x509.load_pem_x509_certificate(issuer.encode()) == svid.chain[1]
    assert set(x509.load_pem_x509_certificates(last.encode())) == {ROOT.certificate, other.certificate}
    store = crypto.X509Store()
    store.set_time(NOW + timedelta(hours=1))
    for root in x509.load_pem_x509_certificates(last.encode()):
        store.add_cert(crypto.X509.from_cryptography(root))
    parsed = [crypto.X509.from_cryptography(each) for each in svid.chain]
    crypto.X509StoreContext(store, parsed[0], parsed[1:]).verify_certificate()
    roots[0] = TrustBundle(trust_domain=A_TEST, x509_authorities=(other.certificate,))
    assert answers.chain_of(svid)[-1].count("BEGIN") == 1
