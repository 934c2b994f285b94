"""The fast way to make leaves writes what the builder writes, and gives way to it where it does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from ca.authority.certificates import build_issuer
from ca.issuance import fast_leaf
from ca.issuance.fast_leaf import FastLeafSigner, leaf_signer
from ca.issuance.leaf import LeafSigner, PlainLeafSigner
from ca.issuance.lifetime import LimitedBy, Validity
from citadel.spiffe import SpiffeId
from tests import certificates
from tests.certificates import rsa_key
from tests.csrs import PrivateKey, new_key
from tests.unit.ca.values import A_TEST, NOW

HOUR = timedelta(hours=1)
ROOT = certificates.root()
KEY = new_key()
ISSUER = build_issuer(
    trust_domain=A_TEST,
    public_key=KEY.public_key(),
    root=ROOT.certificate,
    root_key=ROOT.key,  # type: ignore[arg-type] # an EC key
    not_before=NOW,
    not_after=NOW + 24 * HOUR,
)
PLAIN, FAST = PlainLeafSigner(issuer=ISSUER), FastLeafSigner(issuer=ISSUER)
KEYS: list[PrivateKey] = [new_key(), new_key(ec.SECP384R1()), rsa_key()]


def spki(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def leaf(signer: LeafSigner, **changes: Any) -> x509.Certificate:
    asked: dict[str, Any] = {
        "key": KEY,
        "spiffe_id": SpiffeId(A_TEST, "/web"),
        "dns_names": (),
        "public_key": spki(KEYS[0]),
        "validity": lasting(NOW, NOW + HOUR),
        "serial": 1,
    }
    return x509.load_der_x509_certificate(signer.sign(**(asked | changes)))


def lasting(not_before: datetime, not_after: datetime) -> Validity:
    return Validity(not_before=not_before, not_after=not_after, limited_by=LimitedBy.DEFAULT)


SEGMENTS = st.text("abcXYZ019._-", min_size=1, max_size=60).filter(lambda text: text not in (".", ".."))
MOMENTS = st.datetimes(datetime(1951, 1, 1), datetime(2149, 1, 1)).map(  # noqa: DTZ001 - the zone comes next
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)


@given(
    segments=st.lists(SEGMENTS, min_size=1, max_size=20),
    dns_names=st.lists(st.sampled_from(["a.test", "*.a.test", "x" * 63 + ".test"]), unique=True).map(tuple),
    key=st.sampled_from(KEYS),
    begin=MOMENTS,
    life=st.timedeltas(timedelta(0), timedelta(days=365 * 60)),
    serial=st.integers(1, 2**159 - 1),
)
def test_both_ways_write_the_same_leaf(
    segments: list[str],
    dns_names: tuple[str, ...],
    key: PrivateKey,
    begin: datetime,
    life: timedelta,
    serial: int,
) -> None:
    asked = {
        "spiffe_id": A_TEST.member(*segments),
        "dns_names": dns_names,
        "public_key": spki(key),
        "validity": lasting(begin, begin + timedelta(days=life.days, seconds=life.seconds)),
        "serial": serial,
    }
    fast = leaf(FAST, **asked)
    assert fast.tbs_certificate_bytes == leaf(PLAIN, **asked).tbs_certificate_bytes
    fast.verify_directly_issued_by(ISSUER)
    assert fast.signature_algorithm_oid == leaf(PLAIN, **asked).signature_algorithm_oid


def test_each_extension_stands_there_once() -> None:
    oids = [extension.oid for extension in leaf(FAST, dns_names=("a.test",)).extensions]
    assert len(oids) == len(set(oids)) == 6


def test_times_of_another_zone_are_written_in_utc() -> None:
    begin = NOW.astimezone(timezone(HOUR)) + timedelta(seconds=7)
    written = leaf(FAST, validity=lasting(begin, begin + HOUR))
    assert (written.not_valid_before_utc, written.not_valid_after_utc) == (begin, begin + HOUR)


REFUSED = [
    ("serial 0", {"serial": 0}),
    ("a negative serial", {"serial": -1}),
    ("a serial of 21 octets", {"serial": 2**159}),
    ("an end before the beginning", {"validity": lasting(NOW, NOW - HOUR)}),
    ("a fraction of a second", {"validity": lasting(NOW, NOW + timedelta(microseconds=1))}),
    ("no zone", {"validity": lasting(NOW.replace(tzinfo=None), NOW.replace(tzinfo=None) + HOUR)}),
    ("no public key", {"public_key": b""}),
    ("two public keys", {"public_key": spki(KEYS[0]) * 2}),
]


@pytest.mark.parametrize("changes", [pytest.param(changes, id=name) for name, changes in REFUSED])
def test_what_no_certificate_may_say_is_not_signed(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whoever says it, it is not signed
        FAST.sign(
            **{
                "key": KEY,
                "spiffe_id": SpiffeId(A_TEST, "/web"),
                "dns_names": (),
                "public_key": spki(KEYS[0]),
                "validity": lasting(NOW, NOW + HOUR),
                "serial": 1,
            }
            | changes
        )


def test_the_fast_way_is_taken_where_both_agree() -> None:
    assert isinstance(leaf_signer(issuer=ISSUER), FastLeafSigner)


class Differing(FastLeafSigner):
    """Does what an encoder that changed its mind would do."""

    def sign(self, **asked: Any) -> bytes:
        return super().sign(**(asked | {"serial": asked["serial"] + 1}))


class SigningBadly(FastLeafSigner):
    """The right bytes under a signature by another key."""

    def sign(self, **asked: Any) -> bytes:
        return super().sign(**(asked | {"key": new_key()}))


class Failing(FastLeafSigner):
    def sign(self, **_: Any) -> bytes:
        raise SystemError("the module has changed")


class NotEvenMade(FastLeafSigner):
    def __init__(self, **_: Any) -> None:
        raise AttributeError("TLV")


@pytest.mark.parametrize("broken", [Differing, SigningBadly, Failing, NotEvenMade])
def test_the_builder_takes_over_where_they_do_not(
    broken: type[FastLeafSigner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_leaf, "FastLeafSigner", broken)
    assert isinstance(leaf_signer(issuer=ISSUER), PlainLeafSigner)
