"""PodCertificateRequests, where the API server has them, and in the version that it has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ca.authority.model import IssuingAuthority
from ca.kubernetes.discovery import GROUP
from ca.kubernetes.signers.pod_certificates import PodCertificates
from ca.kubernetes.signers.pod_request import RESOURCE
from ca.kubernetes.signers.refusing import Refusing
from ca.kubernetes.signers.signing import Signing
from citadel.errors import PermissionDenied, Reason, Unavailable
from citadel.tally import Tally
from tests.clock import FakeClock
from tests.kube_fake import FakeKubernetes
from tests.unit.ca.kubernetes.signing import DOMAIN, FakeIssuer, KnownPods, terms
from tests.unit.ca.kubernetes.test_pod_rules import found


@dataclass
class Issuers:
    """Who signs, and until when."""

    clock: FakeClock
    left: timedelta = timedelta(days=7)

    def issuing(self) -> IssuingAuthority:
        now = self.clock.now()
        authority = SimpleNamespace(not_before=now - timedelta(days=1), not_after=now + self.left)
        return cast("IssuingAuthority", SimpleNamespace(authority=authority))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def issuers(clock: FakeClock) -> Issuers:
    return Issuers(clock)


@pytest.fixture
def issuer(clock: FakeClock) -> FakeIssuer:
    return FakeIssuer(clock)


@pytest.fixture
def api() -> FakeKubernetes:
    return FakeKubernetes()


@asynccontextmanager
async def answering(
    api: FakeKubernetes, issuers: Issuers, issuer: FakeIssuer, clock: FakeClock, pods: KnownPods | None = None
) -> AsyncIterator[PodCertificates]:
    certificates = PodCertificates(
        api,
        terms=terms(),
        issuers=issuers,
        signing=Signing(issuer, clock=clock),
        pods=pods or KnownPods(),
        refusing=Refusing(Tally(clock=clock), door=DOMAIN.member("citadel", "k8s", "main", "test"), what="test"),
        clock=clock,
        draw=lambda: 0.5,
    )
    running = asyncio.create_task(certificates.run())
    try:
        await clock.advance(0)
        yield certificates
    finally:
        running.cancel()


def serve(api: FakeKubernetes, version: str) -> str:
    """Have such objects in this version; the path of the request `one`."""
    api.objects[f"{GROUP}/{version}"] = {"resources": [{"name": RESOURCE}, {"name": f"{RESOURCE}/status"}]}
    return f"{GROUP}/{version}/namespaces/shop/{RESOURCE}/one"


def answer(api: FakeKubernetes, at: str) -> tuple[str, str]:
    condition = api.objects[at]["status"]["conditions"][0]
    return condition["type"], condition["reason"]


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
async def test_it_is_answered_in_the_version_that_there_is(
    api: FakeKubernetes, issuers: Issuers, issuer: FakeIssuer, clock: FakeClock, version: str
) -> None:
    at = serve(api, version)
    api.put(at, found())
    async with answering(api, issuers, issuer, clock) as certificates:
        assert answer(api, at) == ("Issued", "Issued")
        status: dict[str, Any] = api.objects[at]["status"]
        begin, refresh, end = (datetime.fromisoformat(status[each]) for each in DATES)
        assert (refresh - begin, end - begin) == (timedelta(hours=12), timedelta(hours=24))
        assert not list(certificates.notes())


async def test_that_there_are_none_is_said_and_looked_for_again(
    api: FakeKubernetes, issuers: Issuers, issuer: FakeIssuer, clock: FakeClock
) -> None:
    async with answering(api, issuers, issuer, clock) as certificates:
        assert [(note.text, note.is_trouble) for note in certificates.notes()] == [
            ("no PodCertificateRequest is answered: this API server has no such objects", False)
        ]
        at = serve(api, "v1beta1")
        api.put(at, found())
        await clock.advance(600)
        assert answer(api, at) == ("Issued", "Issued")
        newer = serve(api, "v1")  # the API server was updated
        del api.objects[f"{GROUP}/v1beta1"]
        api.put(newer, found())
        await clock.advance(600)
        assert answer(api, newer) == ("Issued", "Issued")


async def test_an_api_server_that_is_away_at_first_is_asked_again(
    api: FakeKubernetes, issuers: Issuers, issuer: FakeIssuer, clock: FakeClock
) -> None:
    at = serve(api, "v1")
    api.put(at, found())
    api.fails = Unavailable(Reason.KUBERNETES_UNAVAILABLE, "away")
    async with answering(api, issuers, issuer, clock) as certificates:
        await clock.advance(600)
        assert len(api.calls) < 40
        assert not list(certificates.notes())  # nothing is known of what it has
        api.fails = None
        await clock.advance(30)
        assert answer(api, at) == ("Issued", "Issued")


async def test_an_authority_near_its_end_does_not_sign_for_less_than_kubernetes_takes(
    api: FakeKubernetes, issuers: Issuers, issuer: FakeIssuer, clock: FakeClock
) -> None:
    at = serve(api, "v1")
    issuers.left = timedelta(minutes=59)
    api.put(at, found())
    async with answering(api, issuers, issuer, clock) as certificates:
        await clock.advance(3)
        assert "status" not in api.objects[at]
        assert issuer.signed == []
        assert [note.is_trouble for note in certificates.notes()] == [True]
        issuers.left = timedelta(days=7)
        await clock.advance(10)
        assert answer(api, at) == ("Issued", "Issued")


async def test_what_was_revoked_fails_and_what_is_not_the_pods_is_denied(
    api: FakeKubernetes, issuers: Issuers, issuer: FakeIssuer, clock: FakeClock
) -> None:
    at = serve(api, "v1")
    api.put(at, found(serviceAccountName="api"))
    async with answering(api, issuers, issuer, clock) as certificates:
        assert answer(api, at) == ("Denied", "k8s_pod_unknown")
        issuer.outcome = PermissionDenied(Reason.IDENTITY_REVOKED, "it was revoked")
        other = found()
        other["metadata"] |= {"name": "two", "uid": "u-two"}
        api.put(at.replace("/one", "/two"), other)
        await clock.advance(0)
        assert answer(api, at.replace("/one", "/two")) == ("Failed", "identity_revoked")
        assert certificates.standing.outcomes == {"denied": 1, "failed": 1}


async def test_a_pod_that_is_never_told_of_is_asked_for_before_anybody_is_refused(
    api: FakeKubernetes, issuers: Issuers, issuer: FakeIssuer, clock: FakeClock
) -> None:
    pods = KnownPods(fails=Unavailable(Reason.KUBERNETES_DENIED, "may not get pods"))
    pods.untold["u-pod"] = pods.known.pop("u-pod")
    at = serve(api, "v1")
    api.put(at, found())
    async with answering(api, issuers, issuer, clock, pods) as certificates:
        await clock.advance(60)
        assert "status" not in api.objects[at]
        assert [note.is_trouble for note in certificates.notes()] == [True]
        pods.fails = None
        await clock.advance(60)
        assert answer(api, at) == ("Issued", "Issued")


DATES = ("notBefore", "beginRefreshAt", "notAfter")


async def test_what_they_rest_on_is_known_where_there_are_none_and_not_while_it_is_refused(
    api: FakeKubernetes, issuers: Issuers, issuer: FakeIssuer, clock: FakeClock
) -> None:
    refused = Unavailable(Reason.KUBERNETES_DENIED, "it is forbidden")
    api.fails = refused
    async with answering(api, issuers, issuer, clock) as certificates:
        followed = certificates.basis.followed
        assert (followed.has_synced, followed.trouble) == (False, refused)
        api.fails = None
        await clock.advance(60)
        assert (followed.has_synced, followed.trouble) == (True, None)  # there are none
        serve(api, "v1")
        await clock.advance(600)
        assert (followed.has_synced, followed.trouble) == (True, None)
        api.fails = refused
        api.break_watches(refused)
        await clock.advance(1)
        assert (followed.has_synced, followed.trouble) == (True, refused)
