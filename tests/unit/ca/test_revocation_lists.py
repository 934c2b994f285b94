"""The signed lists: one of each authority, whole or not at all, the same after a restart, and never too old."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import CRLEntryExtensionOID

from ca.authority.model import AuthorityKind
from ca.issuance.ledger import LedgerRow
from ca.revocation.bars import Bars
from ca.revocation.crl import build_crl, number_of
from ca.revocation.force import force_of
from ca.revocation.model import RevokedCertificate
from ca.store.database import Database
from citadel._wire import types_pb2
from citadel.errors import PermissionDenied, Reason, Unavailable
from citadel.revocation import RevocationSet
from tests import certificates
from tests.clock import FakeClock
from tests.unit.ca.revoking import HOUR, FailingRevocations, Office
from tests.unit.ca.values import NODE_1, NOW

NewOffice = Callable[..., Office]
ROOT = certificates.root()
_RESOURCE = types_pb2.ResourceReport


@pytest.fixture
def new_office(database: Database, tmp_path: Path, clock: FakeClock) -> NewOffice:
    return lambda **more: Office(database, tmp_path / "keys", clock, **more)


@pytest.fixture
async def office(new_office: NewOffice) -> AsyncIterator[Office]:
    async with new_office().open() as opened:
        yield opened


def revoked(serial: str, code: x509.ReasonFlags = x509.ReasonFlags.unspecified) -> RevokedCertificate:
    return RevokedCertificate(serial=serial, issuer_id="i", not_after=NOW + HOUR, revoked_at=NOW, code=code)


def test_a_list_is_good_for_exactly_as_long_as_its_issuer() -> None:
    crl = build_crl(issuer=ROOT.certificate, key=ROOT.key, number=7, revoked=())  # type: ignore[arg-type] # an EC key
    assert crl.last_update_utc == ROOT.certificate.not_valid_before_utc
    assert crl.next_update_utc == ROOT.certificate.not_valid_after_utc
    assert crl.issuer == ROOT.certificate.subject
    assert number_of(crl) == 7
    assert len(crl) == 0
    assert not any(extension.critical for extension in crl.extensions)


def test_a_line_says_when_and_why_unless_that_is_not_said() -> None:
    lines = [revoked("0a"), revoked("0b", x509.ReasonFlags.key_compromise)]
    crl = build_crl(issuer=ROOT.certificate, key=ROOT.key, number=1, revoked=lines)  # type: ignore[arg-type] # an EC key
    found = {entry.serial_number: entry for entry in crl}
    assert set(found) == {0x0A, 0x0B}
    assert {entry.revocation_date_utc for entry in found.values()} == {NOW}
    assert list(found[0x0A].extensions) == []  # RFC 5280 section 5.3.1: "unspecified" is said by its absence
    code = found[0x0B].extensions.get_extension_for_oid(CRLEntryExtensionOID.CRL_REASON).value
    assert code == x509.CRLReason(x509.ReasonFlags.key_compromise)


def covered(current: RevocationSet, office: Office) -> bool:
    return {each.issuer for each in current.lists} == {each.certificate for each in office.authorities.authorities()}


async def test_every_authority_has_one_also_the_one_that_does_not_sign_yet(office: Office) -> None:
    assert covered(office.lists.current, office)
    assert office.lists.current.covers_roots_of(office.authorities.bundle())
    await office.authorities.prepare_root("2" * 32)
    assert covered(office.lists.current, office)
    assert len(office.lists.current.lists) == 4
    await office.authorities.activate_root("2" * 32, taints=False)
    old = next(each for each in office.authorities.authorities() if each.kind is AuthorityKind.ROOT)
    await office.authorities.drop_roots([old.id])
    assert covered(office.lists.current, office)
    assert set(await office.store.lists()) == {each.id for each in office.authorities.authorities()}


async def test_whoever_is_told_of_a_bundle_finds_its_lists_and_the_other_way_round(office: Office) -> None:
    seen: list[bool] = []

    def look() -> None:
        roots = set(office.authorities.bundle().x509_authorities)
        seen.append(roots == {each.issuer for each in office.lists.current.lists if each.is_of_root})

    office.lists.watch(look)
    office.authorities.watch(look)
    await office.authorities.prepare_root("2" * 32)
    await office.authorities.drop_roots(["2" * 32])
    assert len(seen) == 4
    assert all(seen)


@pytest.mark.invariant(11, 12)
async def test_a_restart_signs_nothing_that_is_signed_already(new_office: NewOffice) -> None:
    async with new_office().open() as first:
        await first.issue()
        await first.revoke("spiffe://a.test/web")
        version, message = first.lists.current.version, first.lists.message
    async with new_office().open() as second:
        assert second.lists.current.version == version
        assert second.lists.message == message


async def test_a_revocation_signs_the_list_of_that_issuer_alone_and_counts_it(office: Office) -> None:
    before = {each.issuer_key_id: each.crl for each in office.lists.current.lists}
    issued = await office.issue()
    await office.revoke(issued.serial)
    after = {each.issuer_key_id: each.crl for each in office.lists.current.lists}
    signing = office.authorities.issuing().authority.subject_key_id
    assert {key for key, crl in after.items() if crl != before[key]} == {signing}
    assert (number_of(before[signing]), number_of(after[signing])) == (1, 2)


async def test_of_an_authority_that_signs_no_more_certificates_can_still_be_taken_back(office: Office) -> None:
    issued = await office.issue()
    await office.authorities.replace_issuer()
    await office.revoke(issued.serial)
    assert office.is_listed(issued)


async def test_where_a_key_is_gone_the_last_list_stays_and_it_is_said(office: Office) -> None:
    await office.authorities.replace_issuer()
    old = office.authorities.issuers()[0]
    listed, issued = [await office.issue(issuer_id=old.id) for _ in range(2)]
    await office.revoke(listed.serial)
    before = office.lists.current
    await office.keys.delete(old.key_id)
    await office.revoke(issued.serial)
    assert office.lists.current == before
    assert (office.is_listed(listed), office.is_listed(issued)) == (True, False)
    assert (old.id in office.lists.behind, office.lists.trouble) == (True, "")
    await office.authorities.drop_issuers([old.id])
    assert office.lists.behind == ""
    assert covered(office.lists.current, office)


async def test_where_one_list_is_missing_and_cannot_be_signed_none_is_pushed_and_it_is_said(
    new_office: NewOffice,
) -> None:
    async with new_office().open() as first:
        await first.authorities.replace_issuer()
        old = first.authorities.issuers()[0]
        await first.store.forget_lists([old.id])  # as an older version had none
        await first.keys.delete(old.key_id)
    async with new_office().open() as office:
        assert office.lists.current == RevocationSet()
        assert not office.lists.message.lists
        assert old.id in office.lists.trouble
        await office.authorities.drop_issuers([old.id])
        assert office.lists.trouble == ""
        assert covered(office.lists.current, office)


SEALED = Unavailable(Reason.VAULT_UNAVAILABLE, "Vault is sealed")


@pytest.mark.invariant(12)
@pytest.mark.parametrize("is_restarted", [False, True])
async def test_while_the_keys_are_away_what_is_revoked_is_barred_and_its_list_follows(
    new_office: NewOffice, clock: FakeClock, *, is_restarted: bool
) -> None:
    async with new_office(is_remote=True).open() as office:
        issued = await office.issue()
        before = office.lists.current
        office.elsewhere.failure = SEALED
        outcome = await office.revoke(issued.spiffe_id)
        assert (outcome.was_revoked, outcome.revocation.certificates) == (False, 1)
        with pytest.raises(PermissionDenied):
            office.bars.refuse(issued.spiffe_id, entry_id=issued.entry_id, requested_by=NODE_1)
        assert office.lists.current == before
        assert "sealed" in office.lists.behind
        if not is_restarted:
            await _catches_up(office, issued, clock)
    restarted = new_office(is_remote=True)
    restarted.elsewhere.failure = SEALED
    async with restarted.open() as office:
        if is_restarted:
            await _catches_up(office, issued, clock)
        assert office.is_listed(issued)
        assert office.lists.behind == ""


async def _catches_up(office: Office, issued: LedgerRow, clock: FakeClock) -> None:
    work = asyncio.create_task(office.revoker.run())
    calls = len(office.elsewhere.calls)
    while len(office.elsewhere.calls) < calls + 2:
        await clock.advance(1)
        await asyncio.sleep(0.001)
    assert office.lists.behind
    assert not office.is_listed(issued)
    office.elsewhere.failure = None
    while not office.is_listed(issued):
        await clock.advance(1)
        await asyncio.sleep(0.001)
    assert office.lists.behind == ""
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def test_a_slow_key_holds_up_no_other_revocation(new_office: NewOffice) -> None:
    async with new_office(is_remote=True).open() as office:
        first, second = await office.issue("/first"), await office.issue("/second")
        office.elsewhere.gate.clear()
        calls, revoking = len(office.elsewhere.calls), [asyncio.create_task(office.revoke(first.spiffe_id))]
        while len(office.elsewhere.calls) == calls:
            await asyncio.sleep(0.001)
        revoking.append(asyncio.create_task(office.revoke(second.spiffe_id)))
        async with asyncio.timeout(10):
            while len(office.bars.messages[0].spiffe_ids) < 2:
                await asyncio.sleep(0.001)
        assert not any(each.done() for each in revoking)
        office.elsewhere.gate.set()
        await asyncio.gather(*revoking)
        assert office.is_listed(first)
        assert office.is_listed(second)


async def test_a_bundle_goes_in_force_with_lists_that_are_behind_and_never_without_one(new_office: NewOffice) -> None:
    async with new_office(is_remote=True).open() as office:
        issued = await office.issue()
        office.elsewhere.failure = SEALED
        await office.revoke(issued.serial)
        await office.authorities.settle_anew()
        assert office.lists.behind
        before = office.authorities.bundle()
        for _ in range(2):
            with pytest.raises(Unavailable):
                await office.authorities.prepare_root("2" * 32)
            assert office.authorities.bundle() == before
        office.elsewhere.failure = None
        await office.authorities.prepare_root("2" * 32)
        assert covered(office.lists.current, office)
        assert office.is_listed(issued)


@pytest.mark.invariant(12)
async def test_what_replaces_an_issuer_at_the_last_moment_signs_once_its_list_is_published(office: Office) -> None:
    assert isinstance(office.store, FailingRevocations)
    before = office.authorities.issuing().authority
    office.store.fails = "put_list"
    for _ in range(2):
        with pytest.raises(Unavailable):
            await office.authorities.replace_issuer()
        assert office.authorities.issuing().authority == before
    office.store.fails = ""
    await office.authorities.replace_issuer()
    assert office.authorities.issuing().authority != before
    assert len(office.authorities.issuers()) == 2, "the same one, however often it was tried"
    assert covered(office.lists.current, office)


async def test_lists_that_could_not_be_settled_are_settled_later(office: Office) -> None:
    assert isinstance(office.store, FailingRevocations)
    office.store.fails = "put_list"
    with pytest.raises(Unavailable):
        await office.authorities.prepare_issuer("1" * 32)
    office.store.fails = ""
    assert not covered(office.lists.current, office)
    await office.authorities.drop_ended(NOW)
    assert covered(office.lists.current, office)


async def test_a_root_without_a_key_leaves_out_its_own_list_only(office: Office) -> None:
    root = office.authorities.authorities()[0]
    await office.store.forget_lists([root.id])
    office.lists._kept = None
    await office.keys.delete(root.key_id)
    issued = await office.issue()
    await office.revoke(issued.serial)
    assert office.is_listed(issued)
    assert not office.lists.current.covers_roots_of(office.authorities.bundle())


def test_where_nothing_is_revoked_nothing_is_barred() -> None:
    bars = Bars()
    bars.replace([])
    bars.refuse(NODE_1, entry_id="", requested_by=NODE_1)


def stream(
    pid: int, held: str, *, protocol: str = "sds", state: Any = _RESOURCE.ACKNOWLEDGED
) -> types_pb2.StreamReport:
    bundle = _RESOURCE(name="ROOTCA", trust_domain="a.test", held_revocation_version=held, state=state, refusal="no")
    own = _RESOURCE(name="default", spiffe_id="spiffe://a.test/web")
    return types_pb2.StreamReport(stream_id="7", pid=pid, protocol=protocol, resources=[own, bundle])


@pytest.mark.parametrize(
    ("streams", "proxies", "in_force", "without"),
    [
        pytest.param([stream(1, "new"), stream(2, "new")], 2, 2, [], id="all of them"),
        pytest.param([stream(1, "new"), stream(1, "new", protocol="sds-delta")], 1, 1, [], id="one with two streams"),
        pytest.param([stream(1, "old")], 1, 0, ["node-1/7: pid 1 holds an older ROOTCA"], id="an older one"),
        pytest.param(
            [stream(1, "new"), stream(1, "old", state=_RESOURCE.SENT)],
            1,
            0,
            ["node-1/7: pid 1 has not answered ROOTCA"],
            id="one stream of two has not answered",
        ),
        pytest.param(
            [stream(1, "", state=_RESOURCE.REFUSED)], 1, 0, ["node-1/7: pid 1 refused ROOTCA: no"], id="refused"
        ),
        pytest.param([stream(1, "new", protocol="workload-api")], 0, 0, [], id="a program: nobody knows what it does"),
        pytest.param([types_pb2.StreamReport(stream_id="1", protocol="sds")], 0, 0, [], id="asks for no bundle"),
    ],
)
def test_where_the_lists_are_in_force_is_what_proxies_hold(
    streams: list[types_pb2.StreamReport], proxies: int, in_force: int, without: list[str]
) -> None:
    force = force_of({"node-1": streams}, version="new", trust_domain="a.test")
    assert (force.proxies, force.in_force, list(force.without)) == (proxies, in_force, without)
