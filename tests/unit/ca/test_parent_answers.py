"""What a parent signed is taken only if it is what was asked for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca.authority.certificates import build_issuer
from ca.issuance.csr import public_key_of
from ca.upstream.asking import issuer_request
from ca.upstream.citadel.asking import checked_answer
from citadel._wire import clusters_pb2 as pb
from citadel.errors import CitadelError, Reason
from citadel.spiffe import TrustDomain
from tests.clock import FakeClock
from tests.unit.ca.parent import Root
from tests.unit.ca.values import A_TEST

DAY: Final = timedelta(days=1)
CLOCK: Final = FakeClock()
KEY: Final = ec.generate_private_key(ec.SECP256R1())
ROOT: Final = Root.made(CLOCK)
OTHER: Final = Root.made(CLOCK)

Made = Callable[[], tuple[x509.Certificate, Root]]


def signed(root: Root = ROOT, key: ec.EllipticCurvePrivateKey = KEY, lifetime: timedelta = DAY) -> x509.Certificate:
    return root.issuer(key.public_key(), CLOCK, lifetime)


def changed(*extensions: x509.ExtensionType, without: type[x509.ExtensionType] | None = None) -> x509.Certificate:
    """A good one, but for these extensions."""
    good, new = signed(), {type(each): each for each in extensions}
    builder = x509.CertificateBuilder(
        issuer_name=good.issuer,
        subject_name=good.subject,
        public_key=good.public_key(),
        serial_number=good.serial_number,
        not_valid_before=good.not_valid_before_utc,
        not_valid_after=good.not_valid_after_utc,
    )
    for each in good.extensions:
        if type(each.value) is not without:
            builder = builder.add_extension(new.get(type(each.value), each.value), critical=each.critical)
    return builder.sign(ROOT.key, hashes.SHA256())


def of_domain(name: str) -> x509.Certificate:
    return build_issuer(
        trust_domain=TrustDomain(name),
        public_key=KEY.public_key(),
        root=ROOT.certificate,
        root_key=ROOT.key,
        not_before=CLOCK.now(),
        not_after=CLOCK.now() + DAY,
    )


def usage(*, sign: bool, crl: bool) -> x509.KeyUsage:
    off = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(key_cert_sign=sign, crl_sign=crl, **off)


def answer(issuer: x509.Certificate, root: Root = ROOT) -> pb.SignIssuerResponse:
    return pb.SignIssuerResponse(chain=[issuer.public_bytes(Encoding.DER)], root=root.der)


def check(said: pb.SignIssuerResponse) -> x509.Certificate:
    return checked_answer(
        said,
        public_key=KEY.public_key(),
        trust_domain=A_TEST,
        roots=[ROOT.certificate],
        not_after=CLOCK.now() + DAY,
        now=CLOCK.now(),
    ).chain[0]


def test_what_was_asked_for_is_taken() -> None:
    issuer = signed()
    assert check(answer(issuer)) == issuer
    assert check(answer(signed(lifetime=DAY + timedelta(seconds=20)))) is not None  # clocks differ a little


async def test_the_request_proves_the_key_and_says_what_is_wanted() -> None:
    der = await issuer_request(KEY, A_TEST)
    assert public_key_of(der) == KEY.public_key()
    wanted = x509.load_der_x509_csr(der).extensions
    names = wanted.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://a.test"]
    assert wanted.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, 0)  # noqa: FBT003 - the library's form


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (pb.SignIssuerResponse(), "a chain of 0 certificates"),
        (pb.SignIssuerResponse(chain=[b"x"] * 17, root=ROOT.der), "a chain of 17 certificates"),
        (pb.SignIssuerResponse(chain=[b"garbage"], root=ROOT.der), "cannot be read"),
        (pb.SignIssuerResponse(chain=answer(signed()).chain, root=b"garbage"), "cannot be read"),
        (answer(signed(key=ec.generate_private_key(ec.SECP256R1()))), "another key"),
        (answer(signed(lifetime=30 * DAY)), "later than it was asked for"),
        (answer(of_domain("b.test")), "an authority of spiffe://b.test, not of a.test"),
        (answer(changed(without=x509.SubjectAlternativeName)), "an authority of no trust domain"),
        (answer(changed(x509.BasicConstraints(ca=False, path_length=None))), "no authority's"),
        (answer(changed(x509.BasicConstraints(ca=True, path_length=None))), "path length None, not 0"),
        (answer(changed(x509.BasicConstraints(ca=True, path_length=1))), "path length 1, not 0"),
        (answer(changed(usage(sign=False, crl=True))), "may not sign"),
        (answer(changed(usage(sign=True, crl=False))), "may not sign"),
        (answer(changed(without=x509.KeyUsage)), "may not sign"),
        (answer(changed(without=x509.SubjectKeyIdentifier)), "without a key identifier"),
        (answer(signed(OTHER)), "its root does not vouch for"),
        (answer(signed(lifetime=timedelta(seconds=-5))), "its root does not vouch for now"),
    ],
)
def test_anything_else_is_refused(said: pb.SignIssuerResponse, words: str) -> None:
    with pytest.raises(CitadelError) as refused:
        check(said)
    assert refused.value.reason is Reason.UPSTREAM_INVALID
    assert words in refused.value.message


@pytest.mark.parametrize(("ahead", "is_taken"), [(200, True), (299, True), (320, False)])
def test_an_authority_may_begin_a_little_later_where_clocks_differ(ahead: int, *, is_taken: bool) -> None:
    issuer = ROOT.issuer(KEY.public_key(), CLOCK, DAY - timedelta(seconds=ahead), timedelta(seconds=ahead))
    if is_taken:
        assert check(answer(issuer)) == issuer
        return
    with pytest.raises(CitadelError) as refused:
        check(answer(issuer))
    assert refused.value.reason is Reason.UPSTREAM_INVALID
    assert "the clocks differ" in refused.value.message


def test_a_root_that_is_not_known_here_is_waited_for() -> None:
    with pytest.raises(CitadelError) as refused:
        check(answer(signed(OTHER), OTHER))
    assert refused.value.reason is Reason.UPSTREAM_UNAVAILABLE
