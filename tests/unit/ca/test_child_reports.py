"""What is believed of a child's report, and what is not: a child speaks for itself alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from ca.authority.certificates import authority_key_identifier, build_issuer, build_root
from ca.clusters.reports import Reading, kept_report, read_report
from ca.revocation.crl import build_crl, is_as_built
from ca.revocation.model import RevokedCertificate
from citadel._wire import clusters_pb2 as pb
from citadel._wire import types_pb2
from citadel.bundle import TrustBundle
from citadel.errors import InvalidArgument, Reason
from citadel.jwk import JwtKey
from tests.children import A_TEST, ChildIssuer
from tests.csrs import new_key
from tests.odd_lists import odd_lists, plain_list

NOW = datetime(2026, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)
_ROOT_KEY = new_key()
_ROOT = build_root(trust_domain=A_TEST, key=_ROOT_KEY, now=NOW, lifetime=_DAY, backdate=timedelta(0))


def _issuer() -> ChildIssuer:
    key = new_key()
    made = build_issuer(
        trust_domain=A_TEST,
        public_key=key.public_key(),
        root=_ROOT,
        root_key=_ROOT_KEY,
        not_before=NOW,
        not_after=NOW + _DAY,
    )
    return ChildIssuer(key, (made,), _ROOT)


OWN, FOREIGN = _issuer(), _issuer()
CrlBuilder = x509.CertificateRevocationListBuilder


def _read(*issuers: pb.IssuerReport, keys: dict[str, JwtKey] | None = None, taken: tuple[str, ...] = ()) -> Reading:
    report = pb.ClusterReport(issuers=issuers)
    if keys is not None:
        bundle = TrustBundle(trust_domain=A_TEST, jwt_authorities=keys)
        report.jwt_keys.CopyFrom(types_pb2.Bundle(trust_domain="a.test", json=bundle.to_json()))
    return read_report(report, trust_domain=A_TEST, signed=[OWN.certificate], taken=taken, at=NOW)


def _crl(
    change: Callable[[CrlBuilder], CrlBuilder] = lambda builder: builder,
    *,
    begin: datetime = NOW,
    end: datetime = NOW + _DAY,
    signer: ChildIssuer = OWN,
) -> pb.IssuerReport:
    """A list in the name of `OWN`, as it should be but for the change."""
    builder = (
        CrlBuilder()
        .issuer_name(OWN.certificate.subject)
        .last_update(begin)
        .next_update(end)
        .add_extension(authority_key_identifier(OWN.certificate), critical=False)
        .add_extension(x509.CRLNumber(7), critical=False)
    )
    made = change(builder).sign(signer.key, hashes.SHA256())
    return pb.IssuerReport(certificate=OWN.certificate.public_bytes(Encoding.DER), crl=made.public_bytes(Encoding.DER))


def _entry(*extensions: tuple[x509.ExtensionType, bool]) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(7).revocation_date(NOW)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical=critical)
    return builder.build()


def test_its_own_authorities_lists_and_keys_are_believed_and_kept_as_they_are() -> None:
    key = new_key().public_key()
    reading = _read(_crl(lambda builder: builder.add_revoked_certificate(_entry())), keys={"east-1": key})
    said = reading.said
    assert reading.ignored == []
    assert (said.issuers, said.without_list, said.jwt_keys) == ({OWN.certificate}, frozenset(), {"east-1": key})
    assert [each.issuer for each in said.lists] == [OWN.certificate]
    again = read_report(kept_report(said, A_TEST), trust_domain=A_TEST, signed=[OWN.certificate], taken=(), at=NOW)
    assert again.said.says_the_same(said)
    assert not again.said.says_the_same(_read(_crl()).said)


@pytest.mark.parametrize(
    ("reported", "why"),
    [
        (FOREIGN.reported(), "was not signed for it here"),
        (pb.IssuerReport(certificate=_ROOT.public_bytes(Encoding.DER)), "was not signed for it here"),
        (pb.IssuerReport(certificate=b"none"), "was not signed for it here"),
        (_crl(signer=FOREIGN), "a revocation list was not signed by"),
        (pb.IssuerReport(certificate=OWN.reported().certificate, crl=FOREIGN.crl()), "was not signed by"),
        (pb.IssuerReport(certificate=OWN.reported().certificate, crl=b"none"), "cannot be read"),
        (_crl(end=NOW + timedelta(hours=1)), "not in the form"),
        (_crl(begin=NOW - _DAY), "not in the form"),
        (_crl(lambda b: b.add_extension(x509.DeltaCRLIndicator(1), critical=True)), "not in the form"),
        (
            _crl(
                lambda b: b.add_revoked_certificate(
                    _entry((x509.CertificateIssuer([x509.DNSName("somebody.else")]), True))
                )
            ),
            "not in the form",
        ),
    ],
    ids=range(10),
)
@pytest.mark.invariant(9)
def test_what_is_not_its_own_or_could_break_a_proxy_is_ignored(reported: pb.IssuerReport, why: str) -> None:
    reading = _read(reported)
    assert reading.said.lists == ()
    (told,) = reading.ignored
    assert why in told
    assert reading.said.without_list == reading.said.issuers  # as if there were none


@pytest.mark.invariant(9)
@pytest.mark.parametrize("crl", [pytest.param(crl, id=odd) for odd, crl in odd_lists(OWN.certificate, OWN.key)])
def test_a_list_is_believed_only_in_the_form_that_every_verifier_takes(crl: bytes) -> None:
    """One that the agents or Envoy refuse would withhold the lists, and then the roots, of everybody."""
    reading = _read(pb.IssuerReport(certificate=OWN.certificate.public_bytes(Encoding.DER), crl=crl))
    assert reading.said.lists == ()
    assert reading.said.without_list == {OWN.certificate}


def test_what_does_not_fit_beside_the_rest_is_as_if_there_were_none_and_is_said() -> None:
    """What all clusters and agents are told together has an end."""
    report, room = OWN.reported(), 4 << 20
    long = pb.IssuerReport(certificate=report.certificate, crl=bytes(room + 1))
    assert _read(long).said.without_list == {OWN.certificate}
    assert _read(long).ignored == [f"revocation lists of more than {room} bytes together"]
    twice = _read(report, report)
    assert (len(twice.said.lists), twice.ignored) == (1, ["an issuing authority twice"])


def test_an_authority_is_known_however_many_are_named_before_it_and_of_too_many_keys_it_is_said() -> None:
    foreign = [pb.IssuerReport(certificate=bytes([1, number // 256, number % 256])) for number in range(1001)]
    assert _read(*foreign, OWN.reported()).said.issuers == {OWN.certificate}
    key = new_key().public_key()
    reading = _read(keys={f"east-{number}": key for number in range(1001)})
    assert (len(reading.said.jwt_keys), reading.ignored) == (1000, ["more than 1000 JWT keys"])


def test_every_list_that_is_built_here_is_in_that_form() -> None:
    plain = pb.IssuerReport(
        certificate=OWN.certificate.public_bytes(Encoding.DER), crl=plain_list(OWN.certificate, OWN.key)
    )
    assert len(_read(plain).said.lists) == 1
    moments = (NOW, NOW + timedelta(milliseconds=3), NOW + timedelta(milliseconds=1))
    lines = [
        RevokedCertificate(serial=f"{number:02x}", issuer_id="i", not_after=NOW + _DAY, revoked_at=moment, code=code)
        for number, (moment, code) in enumerate(product(moments, x509.ReasonFlags), start=1)
        if code is not x509.ReasonFlags.remove_from_crl
    ]
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        issuer = build_issuer(
            trust_domain=A_TEST,
            public_key=key.public_key(),
            root=_ROOT,
            root_key=_ROOT_KEY,
            not_before=NOW,
            not_after=NOW + _DAY,
        )
        crl = build_crl(issuer=issuer, key=key, number=1, revoked=lines)
        assert is_as_built(crl, issuer)


def test_an_authority_without_a_list_is_known_as_such() -> None:
    reading = _read(OWN.reported(with_list=False))
    assert (reading.ignored, reading.said.without_list) == ([], {OWN.certificate})


def test_key_ids_of_others_are_theirs() -> None:
    key = new_key().public_key()
    reading = _read(keys={"ours": key, "east-1": key}, taken=("ours",))
    assert reading.said.jwt_keys == {"east-1": key}
    assert reading.ignored == ["the JWT key 'ours': another one has this id"]


def test_keys_of_another_trust_domain_are_ignored_and_what_is_no_bundle_ends_the_stream() -> None:
    report = pb.ClusterReport(jwt_keys=types_pb2.Bundle(trust_domain="b.test", json=b'{"keys":[]}'))
    reading = read_report(report, trust_domain=A_TEST, signed=(), taken=(), at=NOW)
    assert reading.ignored == ["JWT keys of another trust domain"]
    report.jwt_keys.CopyFrom(types_pb2.Bundle(trust_domain="a.test", json=b"{"))
    with pytest.raises(InvalidArgument) as refused:
        read_report(report, trust_domain=A_TEST, signed=(), taken=(), at=NOW)
    assert refused.value.reason is Reason.BUNDLE_MALFORMED
