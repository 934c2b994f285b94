"""Requests that are objects in Kubernetes, answered once whatever goes wrong meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from ca.kubernetes.signers.certificate_request import PATH
from ca.kubernetes.signers.certificate_requests import CertificateRequests
from ca.kubernetes.signers.refusing import Refusing
from ca.kubernetes.signers.signing import Signing
from citadel.errors import FailedPrecondition, PermissionDenied, Reason, Unavailable
from citadel.kubernetes.ports import ApiUnavailable, KubeObject, WatchEvent
from citadel.tally import Tally
from tests.clock import FakeClock
from tests.kube_fake import FakeKubernetes
from tests.unit.ca.kubernetes.signing import DOMAIN, FakeIssuer, KnownPods, terms
from tests.unit.ca.kubernetes.test_certificate_rules import extra, found

AT = f"{PATH}/one"


class Answers(FakeKubernetes):
    """An API server on which writing a status can fail, before it is done or after."""

    def __init__(self) -> None:
        super().__init__()
        self.before: list[Exception] = []
        self.after: list[Exception] = []

    async def replace(self, path: str, body: KubeObject) -> KubeObject:
        if path.endswith("/status") and self.before:
            raise self.before.pop(0)
        done = await super().replace(path, body)
        if path.endswith("/status") and self.after:
            raise self.after.pop(0)
        return done


class Late(FakeKubernetes):
    """An API server that tells of approvals at once, and of certificates never."""

    def _tell(self, path: str, event: WatchEvent) -> None:
        if not event.object.get("status", {}).get("certificate"):
            super()._tell(path, event)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def api() -> Answers:
    return Answers()


@pytest.fixture
def issuer(clock: FakeClock) -> FakeIssuer:
    return FakeIssuer(clock)


@pytest.fixture
def tally(clock: FakeClock) -> Tally:
    return Tally(clock=clock)


@asynccontextmanager
async def answering(
    api: FakeKubernetes,
    issuer: FakeIssuer,
    tally: Tally,
    clock: FakeClock,
    *,
    approves: bool = True,
    pods: KnownPods | None = None,
) -> AsyncIterator[CertificateRequests]:
    requests = CertificateRequests(
        api,
        terms=terms(),
        approves=approves,
        signing=Signing(issuer, clock=clock),
        pods=pods or KnownPods(),
        refusing=Refusing(tally, door=DOMAIN.member("citadel", "k8s", "main", "test"), what="test"),
        clock=clock,
    )
    running = asyncio.create_task(requests.run())
    try:
        await clock.advance(0)
        yield requests
    finally:
        running.cancel()


def status(api: FakeKubernetes) -> dict[str, Any]:
    told = api.objects[AT].get("status", {})
    kinds = [each["type"] for each in told.get("conditions", ())]
    return {"kinds": kinds, "has_certificate": bool(told.get("certificate"))}


SIGNED = {"kinds": ["Approved"], "has_certificate": True}


async def test_it_is_approved_and_then_signed(api: Answers, issuer: FakeIssuer, tally: Tally, clock: FakeClock) -> None:
    api.put(AT, found())
    async with answering(api, issuer, tally, clock) as requests:
        assert status(api) == SIGNED
        assert [call for call in api.calls if call[0] == "replace"] == [
            ("replace", f"{AT}/approval"),
            ("replace", f"{AT}/status"),
        ]
        assert requests.standing.outcomes == {"issued": 1}
        assert tally.issued == 1


@pytest.mark.parametrize(
    "error",
    [
        FailedPrecondition(Reason.KUBERNETES_CONFLICT, "modified"),
        ApiUnavailable("the API server does not answer"),
        Unavailable(Reason.KUBERNETES_DENIED, "may not"),
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_cannot_be_written_is_written_later_and_signed_once(
    api: Answers, issuer: FakeIssuer, tally: Tally, clock: FakeClock, error: Exception, when: str
) -> None:
    """An answer that got lost may have been taken nevertheless."""
    getattr(api, when).extend([error] * 3)
    api.put(AT, found())
    async with answering(api, issuer, tally, clock):
        await clock.advance(20)
        assert status(api) == SIGNED
        assert len(issuer.signed) == 1


async def test_what_was_answered_is_not_answered_again_before_that_is_seen(
    issuer: FakeIssuer, tally: Tally, clock: FakeClock
) -> None:
    api = Late()
    api.put(AT, found())
    async with answering(api, issuer, tally, clock) as requests:
        await clock.advance(300)
        assert status(api) == SIGNED
        assert api.calls.count(("replace", f"{AT}/status")) == 1
        assert not requests.standing.failing


async def test_a_change_in_the_same_moment_is_no_obstacle(
    api: Answers, issuer: FakeIssuer, tally: Tally, clock: FakeClock
) -> None:
    api.put(AT, found())
    async with answering(api, issuer, tally, clock, approves=False):
        api.put(AT, found() | {"status": {"conditions": [{"type": "Approved", "status": "True"}]}})
        # Somebody labels it before its approval is seen.
        api.put(AT, api.objects[AT] | {"metadata": {**api.objects[AT]["metadata"], "labels": {"a": "b"}}})
        await clock.advance(5)
        assert status(api) == SIGNED
        assert api.objects[AT]["metadata"]["labels"] == {"a": "b"}
        assert len(issuer.signed) == 1


async def test_what_the_issuer_cannot_do_now_is_tried_again(
    api: Answers, issuer: FakeIssuer, tally: Tally, clock: FakeClock
) -> None:
    issuer.outcome = Unavailable(Reason.ISSUER_UNAVAILABLE, "none")
    api.put(AT, found())
    async with answering(api, issuer, tally, clock) as requests:
        await clock.advance(2)
        assert status(api) == {"kinds": ["Approved"], "has_certificate": False}
        assert [note.text for note in requests.notes()] == [
            "1 CertificateSigningRequests cannot be answered yet, such as one (issuer_unavailable: none)"
        ]
        issuer.outcome = None
        await clock.advance(10)
        assert status(api) == SIGNED
        assert not list(requests.notes())


async def test_what_was_revoked_fails(api: Answers, issuer: FakeIssuer, tally: Tally, clock: FakeClock) -> None:
    issuer.outcome = PermissionDenied(Reason.IDENTITY_REVOKED, "it was revoked")
    api.put(AT, found())
    async with answering(api, issuer, tally, clock):
        assert status(api) == {"kinds": ["Approved", "Failed"], "has_certificate": False}
        assert tally.refused == {Reason.IDENTITY_REVOKED: 1}


async def test_a_refusal_is_told_once_with_the_request(
    api: Answers, issuer: FakeIssuer, tally: Tally, clock: FakeClock
) -> None:
    api.put(AT, found(usages=["cert sign"]))
    async with answering(api, issuer, tally, clock):
        await clock.advance(60)
        assert status(api) == {"kinds": ["Denied"], "has_certificate": False}
        assert tally.refused == {Reason.CSR_WISH_REFUSED: 1}
        assert issuer.signed == []


async def test_a_pod_that_is_not_known_is_waited_for_and_then_refused(
    api: Answers, issuer: FakeIssuer, tally: Tally, clock: FakeClock
) -> None:
    pods = KnownPods()
    late = pods.known.pop("u-pod")
    api.put(AT, found(**extra()))
    async with answering(api, issuer, tally, clock, pods=pods):
        await clock.advance(3)
        assert status(api) == {"kinds": [], "has_certificate": False}
        pods.known["u-pod"] = late
        await clock.advance(5)
        assert status(api) == SIGNED
        api.put(f"{PATH}/two", found(**extra(uid="u-gone")) | {"metadata": {"name": "two", "uid": "u-two"}})
        await clock.advance(30)
        assert [each["type"] for each in api.objects[f"{PATH}/two"]["status"]["conditions"]] == ["Denied"]


async def test_a_pod_that_is_never_told_of_is_asked_for_before_anybody_is_refused(
    api: Answers, issuer: FakeIssuer, tally: Tally, clock: FakeClock
) -> None:
    pods = KnownPods(fails=ApiUnavailable("the API server does not answer"))
    pods.untold["u-pod"] = pods.known.pop("u-pod")
    api.put(AT, found(**extra()))
    async with answering(api, issuer, tally, clock, pods=pods):
        await clock.advance(60)
        assert status(api) == {"kinds": [], "has_certificate": False}
        pods.fails = None
        await clock.advance(120)  # longer than the pause by then
        assert status(api) == SIGNED


@pytest.mark.parametrize("says", ["it is bound", "it is bound to another node", "it is bound to none"])
async def test_a_pod_whose_node_is_not_told_yet_is_waited_for_and_then_asked_for(
    api: Answers, issuer: FakeIssuer, tally: Tally, clock: FakeClock, says: str
) -> None:
    """A pod is told of before it is bound to its node, and its kubelet can be ahead of the watch."""
    pods = KnownPods(fails=ApiUnavailable("the API server does not answer"))
    bound = pods.known["u-pod"]
    unbound = pods.known["u-pod"] = replace(bound, node="")
    others = {"it is bound to another node": replace(bound, node="n2"), "it is bound to none": unbound}
    pods.untold["u-pod"] = others.get(says, bound)
    api.put(AT, found(**extra()))
    async with answering(api, issuer, tally, clock, pods=pods):
        await clock.advance(60)
        assert status(api) == {"kinds": [], "has_certificate": False}
        pods.fails = None
        await clock.advance(120)  # longer than the pause by then
        assert status(api) == ({"kinds": ["Denied"], "has_certificate": False} if says in others else SIGNED)


async def test_a_pod_whose_node_is_told_in_a_moment_is_not_asked_for(
    api: Answers, issuer: FakeIssuer, tally: Tally, clock: FakeClock
) -> None:
    pods = KnownPods(fails=ApiUnavailable("the API server does not answer"))
    bound = pods.known["u-pod"]
    pods.known["u-pod"] = replace(bound, node="")
    api.put(AT, found(**extra()))
    async with answering(api, issuer, tally, clock, pods=pods):
        await clock.advance(2)
        pods.known["u-pod"] = bound
        await clock.advance(5)
        assert status(api) == SIGNED


async def test_one_that_is_deleted_meanwhile_is_forgotten(
    api: Answers, issuer: FakeIssuer, tally: Tally, clock: FakeClock
) -> None:
    issuer.outcome = Unavailable(Reason.ISSUER_UNAVAILABLE, "none")
    api.put(AT, found())
    async with answering(api, issuer, tally, clock) as requests:
        api.drop(AT)
        issuer.outcome = None
        await clock.advance(60)
        assert issuer.signed == []
        assert not requests.standing.failing


async def test_nothing_is_answered_before_the_pods_are_known(
    api: Answers, issuer: FakeIssuer, tally: Tally, clock: FakeClock
) -> None:
    class Unknown(KnownPods):
        async def until_synced(self) -> None:
            await asyncio.Event().wait()

    api.put(AT, found(usages=["cert sign"]))
    async with answering(api, issuer, tally, clock, pods=Unknown()):
        await clock.advance(60)
        assert status(api) == {"kinds": [], "has_certificate": False}


async def test_requests_that_cannot_be_followed_are_told_of(
    api: Answers, issuer: FakeIssuer, tally: Tally, clock: FakeClock
) -> None:
    api.fails = Unavailable(Reason.KUBERNETES_DENIED, "it is forbidden")
    async with answering(api, issuer, tally, clock) as requests:
        followed = requests.basis.followed
        assert (followed.has_synced, followed.trouble) == (False, api.fails)
        api.fails = None
        await clock.advance(60)
        assert (followed.has_synced, followed.trouble) == (True, None)
