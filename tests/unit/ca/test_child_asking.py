"""What a child may ask for in an issuing authority: the refusals as a table."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca.clusters.asking import check_request
from citadel._wire import clusters_pb2 as pb
from citadel.errors import CitadelError, Reason
from citadel.wire import to_duration
from tests.children import A_TEST, child_csr
from tests.csrs import new_key, with_wrong_signature

WEEK = timedelta(days=7)
CA = x509.BasicConstraints
REFUSED, MALFORMED = Reason.DOWNSTREAM_REFUSED, Reason.REQUEST_MALFORMED


def _request(
    *, trust_domain: str = "a.test", csr: bytes | None = None, lifetime: timedelta | None = None, **csr_asks: Any
) -> pb.SignIssuerRequest:
    request = pb.SignIssuerRequest(
        trust_domain=trust_domain, csr=child_csr(new_key(), **csr_asks) if csr is None else csr
    )
    if lifetime is not None:
        request.lifetime.CopyFrom(to_duration(lifetime))
    return request


@pytest.mark.parametrize(
    ("asked", "reason", "words"),
    [
        ({"trust_domain": "b.test"}, REFUSED, "set trust_domain of the child to that of its parent"),
        ({"trust_domain": ""}, REFUSED, "this parent is of a.test"),
        ({"uris": ["spiffe://b.test"]}, REFUSED, "names 'spiffe://b.test'"),
        ({"uris": ["spiffe://a.test", "spiffe://b.test"]}, REFUSED, "names 'spiffe://b.test'"),
        ({"uris": ["spiffe://a.test/web"]}, REFUSED, "names 'spiffe://a.test/web'"),
        ({"constraints": CA(ca=True, path_length=1)}, REFUSED, "a path length of 1 is asked for"),
        ({"constraints": CA(ca=True, path_length=None)}, REFUSED, "a path length of any length is asked for"),
        ({"lifetime": WEEK + timedelta(seconds=1)}, REFUSED, "set authorities.issuer_lifetime of the child to 7d"),
        ({"lifetime": timedelta(0)}, MALFORMED, "longer than nothing"),
        ({"lifetime": -WEEK}, MALFORMED, "longer than nothing"),
        ({"csr": b"none"}, Reason.CSR_MALFORMED, "not a PKCS#10 request"),
        ({"csr": bytes(70_000)}, Reason.CSR_TOO_LARGE, "70000 bytes"),
        ({"csr": child_csr(new_key(ec.SECP224R1()))}, Reason.CSR_KEY_REFUSED, "secp224r1"),
        ({"csr": with_wrong_signature(child_csr(new_key()))}, Reason.CSR_BAD_SIGNATURE, "not signed by the key"),
    ],
    ids=range(14),
)
def test_what_does_not_fit_is_refused_with_what_to_do(asked: dict[str, Any], reason: Reason, words: str) -> None:
    with pytest.raises(CitadelError) as refused:
        check_request(_request(**asked), trust_domain=A_TEST, longest=WEEK)
    assert refused.value.reason is reason
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("asked", "lifetime"),
    [
        ({}, WEEK),
        ({"lifetime": timedelta(hours=1)}, timedelta(hours=1)),
        ({"lifetime": WEEK}, WEEK),
        ({"uris": ["spiffe://a.test"], "constraints": CA(ca=True, path_length=0)}, WEEK),
        ({"constraints": CA(ca=False, path_length=None)}, WEEK),
    ],
    ids=range(5),
)
def test_what_fits_is_taken(asked: dict[str, Any], lifetime: timedelta) -> None:
    request = _request(**asked)
    found = check_request(request, trust_domain=A_TEST, longest=WEEK)
    assert (found.csr, found.lifetime) == (request.csr, lifetime)
