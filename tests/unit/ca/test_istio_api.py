"""The door for Istio's proxies: whose refusals are whose."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from ca.api.istio import IstioCertificateService
from ca.api.refusals import ProvenCallers
from ca.kubernetes.accounts import ProvenAccount
from ca.kubernetes.istio.chain import Answers
from ca.kubernetes.istio.clusters import IstioClusters
from ca.kubernetes.istio.gathering import Gathering
from citadel._wire import istio_ca_pb2 as pb
from citadel.bundle import TrustBundle
from citadel.errors import CitadelError, Reason
from citadel.tally import Tally
from tests.clock import FakeClock
from tests.unit.ca.kubernetes.test_istio_clusters import WEB, cluster
from tests.unit.ca.kubernetes.test_istio_issuing import Recording
from tests.unit.ca.values import A_TEST

CALL = SimpleNamespace(
    invocation_metadata=lambda: (("authorization", "Bearer a.b.c"),), peer=lambda: "ipv4:10.0.0.7:41234"
)


@pytest.mark.invariant(10)
@pytest.mark.parametrize(
    ("account", "reason"),
    [
        (replace(WEB, namespace="kube-system"), Reason.K8S_ACCOUNT_NOT_ALLOWED),
        (WEB, Reason.CSR_MALFORMED),
    ],
)
async def test_the_refusals_of_a_proven_caller_are_its_own(account: ProvenAccount, reason: Reason) -> None:
    proven = ProvenCallers()
    service = IstioCertificateService(
        clusters=IstioClusters([cluster(None, account)]),
        issuing=Gathering(Recording()),
        answers=Answers(lambda: TrustBundle(trust_domain=A_TEST)),
        proven=proven,
        tally=Tally(clock=FakeClock()),
    )
    assert str(proven.caller_of(CALL)) == "anonymous:ipv4:10.0.0.7"
    with pytest.raises(CitadelError) as refused:
        await service.CreateCertificate(pb.IstioCertificateRequest(csr="x"), CALL)
    assert refused.value.reason is reason
    assert str(proven.caller_of(CALL)) == f"spiffe:spiffe://a.test/ns/{account.namespace}/sa/web"
