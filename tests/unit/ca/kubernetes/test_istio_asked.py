"""What Istio's proxies ask for: read strictly, and nothing of it says who they are."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf import struct_pb2

from ca.kubernetes.istio.asked import Asked
from ca.kubernetes.istio.credentials import Credentials
from citadel._wire import istio_ca_pb2 as pb
from citadel.errors import InvalidArgument, Reason, Unauthenticated
from tests.csrs import csr
from tests.istio_proxy import pem_of

DAY = timedelta(days=1)
DER = csr()
PEM = pem_of(DER)
BODY = "\n".join(PEM.splitlines()[1:-1])


def asked(text: str = PEM, **fields: Any) -> Asked:
    return Asked.parse(pb.IstioCertificateRequest(csr=text, **fields))


@pytest.mark.parametrize(
    "text",
    [
        PEM,
        f"\n  {PEM}\n\n",
        PEM.replace("\n", "\r\n"),
        PEM.replace("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"),
    ],
)
def test_one_request_in_pem_is_read(text: str) -> None:
    assert asked(text) == Asked(csr=DER, seconds=None, impersonated=None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Reason.CSR_MALFORMED),
        (BODY, Reason.CSR_MALFORMED),
        (PEM + PEM, Reason.CSR_MALFORMED),
        ("me\n" + PEM, Reason.CSR_MALFORMED),
        (PEM.replace("END CERTIFICATE", "END NEW CERTIFICATE"), Reason.CSR_MALFORMED),
        (PEM.replace("CERTIFICATE REQUEST", "CERTIFICATE"), Reason.CSR_MALFORMED),
        (PEM.replace(BODY, BODY[:-1]), Reason.CSR_MALFORMED),
        (PEM.replace(BODY, "=" + BODY), Reason.CSR_MALFORMED),
        (PEM.replace(BODY, BODY * 400), Reason.CSR_TOO_LARGE),
    ],
)
def test_anything_else_is_refused(text: str, reason: Reason) -> None:
    with pytest.raises(InvalidArgument) as refused:
        asked(text)
    assert refused.value.reason is reason


@pytest.mark.parametrize(
    ("seconds", "lifetime"),
    [(0, None), (-1, None), (-(2**63), None), (1, timedelta(seconds=1)), (86_400, DAY)],
)
def test_no_lifetime_and_a_negative_one_are_the_default(seconds: int, lifetime: timedelta | None) -> None:
    assert asked(validity_duration=seconds).lifetime(most=DAY) == lifetime


@pytest.mark.parametrize("seconds", [86_401, 10**12, 2**63 - 1])
def test_more_than_is_given_is_refused_however_much_it_is(seconds: int) -> None:
    with pytest.raises(InvalidArgument) as refused:
        asked(validity_duration=seconds).lifetime(most=DAY)
    assert refused.value.reason is Reason.LIFETIME_REFUSED


def metadata(**fields: Any) -> struct_pb2.Struct:
    made = struct_pb2.Struct()
    made.update(fields)
    return made


def test_of_the_metadata_only_who_is_impersonated_counts() -> None:
    found = asked(metadata=metadata(ImpersonatedIdentity="spiffe://a.test/ns/a/sa/b", CertSigner="other"))
    assert found.impersonated == "spiffe://a.test/ns/a/sa/b"
    assert asked(metadata=metadata(CertSigner="other")).impersonated is None


@pytest.mark.parametrize("wanted", ["", 7, True, ["spiffe://a.test/ns/a/sa/b"], {"a": "b"}, None])
def test_who_wants_to_be_nobody_is_not_served_as_itself(wanted: object) -> None:
    with pytest.raises(InvalidArgument) as refused:
        asked(metadata=metadata(ImpersonatedIdentity=wanted))
    assert refused.value.reason is Reason.REQUEST_MALFORMED


def test_a_token_and_a_cluster_are_read_from_the_metadata() -> None:
    found = Credentials.of([("authorization", "Bearer a.b.c"), ("clusterid", "main"), ("user-agent", "x")])
    assert (found.token, found.cluster) == ("a.b.c", "main")
    assert Credentials.of([("authorization", "Bearer a.b.c")]).cluster == ""
    assert "a.b.c" not in repr(found)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], Reason.K8S_TOKEN_REFUSED),
        ([("authorization", "a.b.c")], Reason.K8S_TOKEN_REFUSED),
        ([("authorization", "Basic a.b.c")], Reason.K8S_TOKEN_REFUSED),
        ([("authorization", "Bearer ")], Reason.K8S_TOKEN_REFUSED),
        ([("authorization", "Bearer " + "a" * 20_000)], Reason.K8S_TOKEN_REFUSED),
        ([("authorization", "Bearer a.b.c"), ("authorization", "Bearer d.e.f")], Reason.K8S_TOKEN_REFUSED),
        ([("authorization", "Bearer a.b.c"), ("clusterid", "a"), ("clusterid", "b")], Reason.K8S_CLUSTER_UNKNOWN),
    ],
)
def test_a_call_needs_one_token_and_names_one_cluster_at_most(given: list[tuple[str, str]], reason: Reason) -> None:
    with pytest.raises(Unauthenticated) as refused:
        Credentials.of(given)
    assert refused.value.reason is reason
