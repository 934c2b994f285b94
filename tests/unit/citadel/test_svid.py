"""X.509-SVIDs as values, and what must hold of every chain of bytes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from citadel.errors import CitadelError, InvalidArgument, Reason
from citadel.spiffe import SpiffeId
from citadel.svid import MAX_CHAIN_LENGTH, SvidVerifier, X509Svid, verify_x509_svid
from tests.certificates import A_TEST, NOW, UNNAMED_FEATURE, WORKLOAD, bundle, intermediate, leaf, root, san

TOP = root()
MID = intermediate(TOP)
LEAF = leaf(MID)
BUNDLES = {A_TEST: bundle(TOP)}


def test_the_parts_of_an_svid() -> None:
    svid = X509Svid.from_der([LEAF.der, MID.der])
    assert svid.spiffe_id == SpiffeId.parse(WORKLOAD)
    assert svid.leaf == LEAF.certificate
    assert svid.chain == (LEAF.certificate, MID.certificate)
    assert svid.chain_der == (LEAF.der, MID.der)
    assert svid.chain_pem == LEAF.pem + MID.pem
    assert svid.not_before == NOW - timedelta(minutes=1)
    assert svid.not_after == NOW + timedelta(hours=1)
    assert svid.not_before.tzinfo is UTC
    assert svid.not_after.tzinfo is UTC


def test_pem_and_der_give_the_same() -> None:
    from_pem = X509Svid.from_pem(LEAF.pem + MID.pem)
    assert from_pem == X509Svid.from_der([LEAF.der, MID.der])
    assert hash(from_pem) == hash(X509Svid.from_der([LEAF.der, MID.der]))
    assert from_pem != X509Svid.from_der([LEAF.der])


@pytest.mark.parametrize(
    ("number", "printed"),
    [(1, "01"), (0xAB, "ab"), (0xABC, "0abc"), (0x80, "80"), (2**159 - 1, "7f" + "ff" * 19)],
)
def test_a_serial_is_lowercase_hex_in_whole_bytes(number: int, printed: str) -> None:
    assert X509Svid.from_der([leaf(TOP, serial=number).der]).serial == printed


@pytest.mark.parametrize(
    ("chain", "why"),
    [
        ([], "empty"),
        ([b""], "cannot be read"),
        ([LEAF.pem], "cannot be read"),
        ([LEAF.der + b"\0"], "cannot be read"),
        ([LEAF.der + MID.der], "cannot be read"),
        ([LEAF.der, b"garbage"], "cannot be read"),
        ([leaf(MID, "spiffe://a.test/web", extra=[(UNNAMED_FEATURE, False)]).der, MID.der], "cannot be read"),
        ([LEAF.der] + [MID.der] * MAX_CHAIN_LENGTH, "more than 16"),
        ([MID.der, LEAF.der], "cA TRUE"),
    ],
)
def test_what_is_no_chain_is_refused(chain: list[bytes], why: str) -> None:
    for parse in (X509Svid.from_der, lambda ders: verify_x509_svid(ders, BUNDLES, NOW)):
        with pytest.raises(InvalidArgument, match=why) as refusal:
            parse(chain)
        assert refusal.value.reason == Reason.SVID_MALFORMED


@pytest.mark.parametrize("data", [b"", b"garbage", LEAF.der, LEAF.pem[:-40], b"-----BEGIN CERTIFICATE-----\n!\n"])
def test_what_is_no_pem_chain_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        X509Svid.from_pem(data)
    assert refusal.value.reason == Reason.SVID_MALFORMED


def test_the_longest_chain_is_taken() -> None:
    chain = [LEAF.der] + [MID.der] * (MAX_CHAIN_LENGTH - 1)
    assert verify_x509_svid(chain, BUNDLES, NOW).leaf == LEAF.certificate


def test_a_moment_without_a_time_zone_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no time zone") as refusal:
        verify_x509_svid([LEAF.der, MID.der], BUNDLES, datetime(2026, 1, 1))  # noqa: DTZ001 - what is refused
    assert refusal.value.reason == Reason.REQUEST_MALFORMED


@pytest.mark.parametrize("hours", [-12, 12])
def test_a_moment_is_the_same_in_every_time_zone(hours: int) -> None:
    zone = timezone(timedelta(hours=hours))
    verify_x509_svid([LEAF.der, MID.der], BUNDLES, NOW.astimezone(zone))
    with pytest.raises(CitadelError, match="expired"):
        verify_x509_svid([LEAF.der, MID.der], BUNDLES, (NOW + timedelta(hours=2)).astimezone(zone))


def test_what_was_made_ready_once_judges_each_chain_and_each_moment_anew() -> None:
    verifier, other = SvidVerifier(bundle(TOP)), root()
    for _ in range(2):
        assert verifier.verify([LEAF.der, MID.der], NOW).leaf == LEAF.certificate
        with pytest.raises(CitadelError, match="expired"):
            verifier.verify([LEAF.der, MID.der], NOW + timedelta(hours=2))
        with pytest.raises(CitadelError, match="not yet valid"):
            verifier.verify([LEAF.der, MID.der], NOW - timedelta(minutes=2))
        with pytest.raises(CitadelError, match="local issuer"):
            verifier.verify([LEAF.der], NOW)  # who was seen before helps nobody
        with pytest.raises(CitadelError, match="is not trusted"):
            verifier.verify([leaf(other).der], NOW)
        with pytest.raises(CitadelError, match="no bundle"):
            verifier.verify([leaf(TOP, names=san("spiffe://b.test/w")).der], NOW)


def test_a_refusal_says_who_and_which_certificate_and_why() -> None:
    with pytest.raises(CitadelError) as refusal:
        verify_x509_svid([LEAF.der, MID.der], BUNDLES, NOW + timedelta(days=8))
    assert str(refusal.value).startswith(f"the X509-SVID of {WORKLOAD} is not trusted: certificate ")
    assert str(refusal.value).endswith("above the leaf: certificate has expired")


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_any_bytes_are_refused_in_order(chain: list[bytes]) -> None:
    with pytest.raises(CitadelError):
        verify_x509_svid(chain, BUNDLES, NOW)


@given(st.integers(0, len(LEAF.der) - 1), st.integers(1, 255), st.booleans())
def test_a_chain_with_one_byte_changed_is_refused(position: int, change: int, in_leaf: bool) -> None:
    changed = bytearray(LEAF.der if in_leaf else MID.der)
    changed[position % len(changed)] ^= change
    chain = [bytes(changed), MID.der] if in_leaf else [LEAF.der, bytes(changed)]
    with pytest.raises(CitadelError):
        verify_x509_svid(chain, BUNDLES, NOW)


def test_an_svid_that_was_not_signed_by_the_next_certificate_is_well_formed_all_the_same() -> None:
    stranger = root("stranger")
    assert X509Svid.from_der([LEAF.der, stranger.der]).chain == (LEAF.certificate, stranger.certificate)
    assert isinstance(X509Svid.from_der([LEAF.der]).leaf, x509.Certificate)
