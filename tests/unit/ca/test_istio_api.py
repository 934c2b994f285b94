"""The door for Istio's proxies: whose refusals are whose."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ca.api.istio import IstioCertificateService
from ca.api.refusals import ProvenCallers
from ca.kubernetes.accounts import ProvenAccount
from ca.kubernetes.istio.chain import Answers
from ca.kubernetes.istio.clusters import IstioCluster, IstioClusters
from ca.kubernetes.istio.gathering import Gathering
from ca.kubernetes.room import Room
from citadel._wire import istio_ca_pb2 as pb
from citadel.bundle import TrustBundle
from citadel.errors import CitadelError, Reason, ResourceExhausted
from citadel.tally import Tally
from tests.clock import FakeClock
from tests.unit.ca.kubernetes.test_istio_clusters import WEB, Tokens, cluster
from tests.unit.ca.kubernetes.test_istio_issuing import Recording
from tests.unit.ca.values import A_TEST


def call(*named: tuple[str, str]) -> SimpleNamespace:
    metadata = (("authorization", "Bearer a.b.c"), *named)
    return SimpleNamespace(invocation_metadata=lambda: metadata, peer=lambda: "ipv4:10.0.0.7:41234")


def service_of(*clusters: IstioCluster, proven: ProvenCallers | None = None) -> IstioCertificateService:
    return IstioCertificateService(
        clusters=IstioClusters(clusters),
        issuing=Gathering(Recording()),
        answers=Answers(lambda: TrustBundle(trust_domain=A_TEST)),
        room=Room(8, clusters=len(clusters)),
        proven=proven or ProvenCallers(),
        tally=Tally(clock=FakeClock()),
    )


CALL = call()


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
    service = service_of(cluster(None, account), proven=proven)
    assert str(proven.caller_of(CALL)) == "anonymous:ipv4:10.0.0.7"
    with pytest.raises(CitadelError) as refused:
        await service.CreateCertificate(pb.IstioCertificateRequest(csr="x"), CALL)
    assert refused.value.reason is reason
    assert str(proven.caller_of(CALL)) == f"spiffe:spiffe://a.test/ns/{account.namespace}/sa/web"


class NeverAnswers(Tokens):
    """Of a cluster whose API server hangs."""

    async def account(self, token: str) -> ProvenAccount:
        await asyncio.Event().wait()
        return await super().account(token)


async def test_a_cluster_whose_api_server_does_not_answer_keeps_proxies_of_no_other_out() -> None:
    service = service_of(cluster(None), cluster(None, name="west", tokens=NeverAnswers(WEB)))
    asked, of_west = pb.IstioCertificateRequest(csr="x"), call(("clusterid", "west"))
    waiting = [asyncio.create_task(service.CreateCertificate(asked, of_west)) for _ in range(20)]
    await asyncio.sleep(0)
    refused = [task.exception() for task in waiting if task.done()]
    assert [type(each) for each in refused] == [ResourceExhausted] * 14
    with pytest.raises(CitadelError) as judged:
        await service.CreateCertificate(asked, call(("clusterid", "main")))
    assert judged.value.reason is Reason.CSR_MALFORMED  # it had its turn
    for task in waiting:
        task.cancel()
