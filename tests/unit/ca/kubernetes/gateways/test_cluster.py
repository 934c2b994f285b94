"""Who may have which credential, and what it is, as secrets, rights and the API server change."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from ca.kubernetes.gateways.cluster import Answer, GatewayCluster
from ca.kubernetes.gateways.credential import Credential
from ca.kubernetes.gateways.followed import Followed
from ca.kubernetes.gateways.gateway import Gateway
from ca.kubernetes.gateways.rights import REVIEWS
from ca.kubernetes.gateways.secret import Part, SecretName, WatchedSecret
from ca.kubernetes.settings import GatewaySettings
from citadel.entry import Entry
from citadel.errors import (
    CitadelError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Reason,
    ResourceExhausted,
    Unavailable,
)
from citadel.kubernetes.credential_names import CredentialName
from citadel.kubernetes.ports import ApiUnavailable, Each, Listed, as_it_is
from citadel.places import Asker
from citadel.selector import Selector
from citadel.spiffe import SpiffeId
from tests.certificates import NOW
from tests.clock import FakeClock
from tests.kube_fake import FakeKubernetes
from tests.secrets_of_gateways import CA, crl, key_pem, secret, served, tls

GATEWAY = Gateway("main", "shop", "gw-1", "uid-of-gw")
DAY = timedelta(days=1)
SECRET = "the words of a key"
WEB = served(not_after=NOW + 9 * DAY)
NEXT = served(not_after=NOW + 9 * DAY)


@dataclass(frozen=True)
class FakePod:
    service_account: str


@dataclass
class FakePods:
    has_synced: bool = True
    pods: dict[str, FakePod] = field(default_factory=lambda: {GATEWAY.uid: FakePod("gateway")})

    def with_uid(self, uid: str) -> FakePod | None:
        return self.pods.get(uid)


@dataclass
class Desk:
    """A cluster with a gateway that looks."""

    api: FakeKubernetes
    clock: FakeClock
    pods: FakePods
    cluster: GatewayCluster
    allowed: set[str] = field(default_factory=lambda: {"shop/*"})
    asked: list[dict[str, Any]] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def review(self, body: Any) -> dict[str, Any]:
        self.asked.append(body["spec"])
        what = body["spec"]["resourceAttributes"]
        allowed = {f"{what['namespace']}/*", f"{what['namespace']}/{what['name']}"} & self.allowed
        return {"status": {"allowed": bool(allowed)}}

    def put(self, name: str, data: dict[str, bytes], namespace: str = "shop") -> None:
        self.api.put(f"/api/v1/namespaces/{namespace}/secrets/{name}", with_namespace(secret(name, data), namespace))

    def look(self, name: str = "web") -> Answer | None:
        try:
            return self.cluster.look(GATEWAY, CredentialName.parse(f"kubernetes://{name}"), self.wake)
        finally:
            self.cluster.settle(self.wake)

    async def found(self, name: str = "web") -> Answer:
        """As soon as something is known. Threads read certificates, so time alone does not tell when."""
        async with asyncio.timeout(10):
            while (answer := self.look(name)) is None:
                await asyncio.sleep(0.001)
        return answer

    async def until(self, name: str, **expected: bytes) -> Answer:
        async with asyncio.timeout(10):
            while True:
                answer = await self.found(name)
                if all(getattr(answer.credential, key) == value for key, value in expected.items()):
                    return answer
                await asyncio.sleep(0.001)

    async def behind(self, name: str = "web") -> Answer:
        async with asyncio.timeout(10):
            while (answer := await self.found(name)).fault is None:
                await asyncio.sleep(0.001)
        return answer

    async def refused(self, name: str = "web") -> CitadelError:
        with pytest.raises(CitadelError) as refusal:
            await self.found(name)
        return refusal.value

    async def until_refused(self, name: str, kind: type[CitadelError]) -> CitadelError:
        async with asyncio.timeout(10):
            while True:
                try:
                    await self.found(name)
                except kind as error:
                    return error
                await asyncio.sleep(0.001)

    def events(self) -> list[dict[str, Any]]:
        return [found for path, found in self.api.objects.items() if "/events/" in path]


def with_namespace(body: dict[str, Any], namespace: str) -> dict[str, Any]:
    return {**body, "metadata": {**body["metadata"], "namespace": namespace}}


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    api, clock, pods = FakeKubernetes(), FakeClock(NOW), FakePods()
    settings = GatewaySettings.model_validate({"namespaces": {"include": ["shop", "other", "tenant"]}})
    desk = Desk(api, clock, pods, GatewayCluster("main", settings, api=api, pods=pods, clock=clock, draw=lambda: 0.0))
    api.answers[REVIEWS] = desk.review
    running = asyncio.create_task(desk.cluster.run())
    yield desk
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_it_is_told_as_soon_as_it_is_there_and_again_when_it_changes(desk: Desk) -> None:
    error = await desk.refused()
    assert (type(error), error.reason) == (NotFound, Reason.CREDENTIAL_UNKNOWN)
    desk.wake.clear()
    desk.put("web", tls(WEB))
    await asyncio.wait_for(desk.wake.wait(), 10)
    await desk.until("web", certificate_chain=WEB.pem, private_key=key_pem(WEB))
    desk.put("web", tls(NEXT))
    assert (await desk.until("web", certificate_chain=NEXT.pem)).fault is None
    desk.api.drop("/api/v1/namespaces/shop/secrets/web")
    await desk.until_refused("web", NotFound)


async def test_the_api_server_is_asked_for_this_account_and_this_secret(desk: Desk) -> None:
    desk.put("web", tls(WEB))
    await desk.found()
    (asked,) = desk.asked
    assert asked["user"] == "system:serviceaccount:shop:gateway"
    assert asked["groups"] == ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"]
    attributes = asked["resourceAttributes"]
    assert (attributes["verb"], attributes["resource"]) == ("get", "secrets")
    assert (attributes["namespace"], attributes["name"]) == ("shop", "web")


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("other/web", Reason.CREDENTIAL_NOT_ALLOWED, "shop/gateway may not get the secret other/web"),
        ("other/web-cacert", Reason.CREDENTIAL_NOT_ALLOWED, "may not get the secret other/web"),
        ("kube-system/web", Reason.CREDENTIAL_NOT_ALLOWED, "admit no secrets of the namespace kube-system"),
    ],
)
async def test_who_may_not_is_refused_and_no_secret_is_read(desk: Desk, name: str, reason: Reason, words: str) -> None:
    error = await desk.refused(name)
    assert isinstance(error, PermissionDenied)
    assert (error.reason, words in error.message) == (reason, True)
    assert not any("/secrets" in path for _, path in desk.api.calls)


async def test_what_was_deleted_or_is_not_known_yet_is_not_asked_for(desk: Desk) -> None:
    desk.pods.pods.clear()
    gone = await desk.refused()
    assert (type(gone), gone.reason) == (PermissionDenied, Reason.K8S_POD_UNKNOWN)
    desk.pods.has_synced = False
    assert isinstance(await desk.refused(), Unavailable)
    assert desk.asked == []


async def test_a_right_that_is_taken_away_is_noticed_within_a_minute_and_given_back_sooner(desk: Desk) -> None:
    desk.put("web", tls(WEB))
    await desk.found()
    desk.allowed.clear()
    await desk.clock.advance(59)
    assert desk.look() is not None
    desk.wake.clear()
    await desk.clock.advance(1)
    assert desk.wake.is_set()
    error = await desk.refused()
    assert (type(error), error.reason) == (PermissionDenied, Reason.CREDENTIAL_NOT_ALLOWED)
    desk.allowed.add("shop/web")
    await desk.clock.advance(10)
    assert (await desk.found()).credential.certificate_chain == WEB.pem


async def test_a_right_that_is_not_given_is_asked_for_ever_more_rarely_and_anew_after_it_was(desk: Desk) -> None:
    async def asked_at(seconds: int) -> list[int]:
        found, before = [], len(desk.asked)
        for second in range(1, seconds + 1):
            await desk.clock.advance(1)
            if len(desk.asked) > before:
                found.append(second)
            before = len(desk.asked)
        return found

    desk.allowed.clear()
    await desk.refused()
    assert await asked_at(250) == [10, 30, 70, 130, 190, 250]
    desk.allowed.add("shop/web")
    assert await asked_at(60) == [60]
    desk.allowed.clear()
    assert await asked_at(90) == [60, 70, 90]


class TestRoom:
    """Pods of `tenant`, however many and whatever they want, and a gateway of `shop` that comes after them."""

    holder = asyncio.Event()

    async def rush(self, desk: Desk, wanted: int, *, accounts: int) -> None:
        for number in range(accounts):
            desk.pods.pods[f"u{number}"] = FakePod(f"sa-{number}")
        for number in range(wanted):
            gateway = Gateway("main", "tenant", "p", f"u{number % accounts}")
            with suppress(CitadelError):
                desk.cluster.look(gateway, CredentialName.parse(f"kubernetes://x{number}"), self.holder)
        desk.cluster.settle(self.holder)

    async def test_of_those_who_may_read_nothing(self, desk: Desk) -> None:
        desk.put("web", tls(WEB))
        await self.rush(desk, 5_000, accounts=20)
        assert (await desk.found()).credential.certificate_chain == WEB.pem

    async def test_of_those_who_may_read_what_is_not_there(self, desk: Desk) -> None:
        desk.put("web", tls(WEB))
        desk.allowed.add("tenant/*")
        for _ in range(2):
            await self.rush(desk, 600, accounts=2)
            await desk.clock.advance(1)
        assert desk.cluster.condition().counts["missing"] == 500
        assert (await desk.found()).credential.certificate_chain == WEB.pem


@pytest.mark.invariant(5)
async def test_without_the_api_server_what_is_known_stays(desk: Desk) -> None:
    desk.put("web", tls(WEB))
    await desk.found()
    desk.api.fails = ApiUnavailable("away")
    desk.api.break_watches(ApiUnavailable("away"))
    for _ in range(20):
        await desk.clock.advance(60)
        assert desk.look() is not None
    unavailable = await desk.refused("new")
    assert unavailable.reason is Reason.KUBERNETES_UNAVAILABLE
    desk.api.fails = None
    desk.put("web", tls(NEXT))
    await desk.clock.advance(40)
    await desk.until("web", certificate_chain=NEXT.pem)
    assert isinstance(await desk.refused("new"), NotFound)


@pytest.mark.invariant(5, 9)
@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param({**tls(WEB), "tls.key": key_pem(NEXT)}, "tls.key does not fit", id="another key"),
        pytest.param({**tls(WEB), "tls.key": key_pem(WEB, password=b"x")}, "tls.key is encrypted", id="encrypted"),
        pytest.param(tls(served(not_after=NOW - DAY, not_before=NOW - 2 * DAY)), "has expired", id="expired"),
        pytest.param({"tls.crt": WEB.pem}, "lacks", id="without a key"),
    ],
)
async def test_what_is_broken_takes_no_good_one_away_and_is_told(
    desk: Desk, data: dict[str, bytes], words: str
) -> None:
    desk.put("web", tls(WEB))
    await desk.found()
    desk.put("web", data)
    answer = await desk.behind()
    assert answer.credential.certificate_chain == WEB.pem
    assert words in str(answer.fault)
    await desk.clock.advance(1)
    (event,) = desk.events()
    assert words in event["message"]
    assert "gateways keep the last good one" in event["message"]
    assert (event["type"], event["reason"]) == ("Warning", "CredentialInvalid")
    assert event["involvedObject"]["name"] == "web"
    assert event["involvedObject"]["uid"] == desk.api.objects["/api/v1/namespaces/shop/secrets/web"]["metadata"]["uid"]
    assert desk.cluster.condition().counts == {"good": 0, "behind": 1, "bad": 0, "missing": 0}
    (note,) = desk.cluster.notes()
    assert words in note.text
    assert not note.is_trouble
    desk.put("web", tls(NEXT))
    assert (await desk.until("web", certificate_chain=NEXT.pem)).fault is None
    assert desk.cluster.condition().counts == {"good": 1, "behind": 0, "bad": 0, "missing": 0}


@pytest.mark.invariant(9)
async def test_a_secret_that_is_made_anew_and_broken_gives_nothing_of_the_deleted_one(desk: Desk) -> None:
    """Its key may have been withdrawn just so; both changes arrive as one."""
    desk.put("web", tls(WEB))
    await desk.found()
    desk.api.drop("/api/v1/namespaces/shop/secrets/web")
    desk.put("web", {**tls(WEB), "tls.key": key_pem(NEXT)})
    error = await desk.until_refused("web", InvalidArgument)
    assert error.reason is Reason.CREDENTIAL_INVALID
    assert desk.cluster.condition().counts["behind"] == 0


async def test_a_secret_that_never_was_good_gives_nothing(desk: Desk) -> None:
    desk.put("web", {**tls(WEB), "tls.key": key_pem(NEXT)})
    error = await desk.refused()
    assert (type(error), error.reason) == (InvalidArgument, Reason.CREDENTIAL_INVALID)
    await desk.clock.advance(1)
    (event,) = desk.events()
    assert "gateways that want it have none" in event["message"]
    assert desk.cluster.condition().counts["bad"] == 1


@pytest.mark.invariant(5)
async def test_what_expires_while_it_is_served_is_served_on_and_told(desk: Desk) -> None:
    desk.put("web", tls(served(not_after=NOW + timedelta(hours=1))))
    first = await desk.found()
    await desk.clock.advance(3599)
    assert (await desk.found()).fault is None
    for _ in range(4):
        await desk.clock.advance(30)
    answer = await desk.behind()
    assert answer.credential == first.credential
    assert "has expired" in str(answer.fault)


async def test_what_is_of_the_future_is_given_when_its_time_has_come(desk: Desk) -> None:
    desk.put("web", tls(served(not_before=NOW + timedelta(minutes=5), not_after=NOW + DAY)))
    assert (await desk.refused()).reason is Reason.CREDENTIAL_INVALID
    await desk.clock.advance(299)
    assert (await desk.refused()).reason is Reason.CREDENTIAL_INVALID
    desk.wake.clear()
    await desk.clock.advance(31)
    await asyncio.wait_for(desk.wake.wait(), 10)
    assert await desk.found()


async def test_a_fault_is_one_event_however_often_it_is_found_and_lasts_as_long(desk: Desk) -> None:
    desk.put("web", {"tls.crt": WEB.pem})
    for _ in range(5):
        await desk.refused()
        await desk.clock.advance(1)
    assert [event["count"] for event in desk.events()] == [1]
    assert sum("/events/" in path for _, path in desk.api.calls) == 1
    await desk.clock.advance(900)
    await desk.refused()
    await desk.clock.advance(1)
    (event,) = desk.events()
    assert (event["count"], event["firstTimestamp"]) == (2, "2026-01-01T00:00:00Z")


async def test_an_event_that_cannot_be_written_stops_nothing(desk: Desk) -> None:
    desk.put("web", {"tls.crt": WEB.pem})
    await desk.refused()
    desk.api.fails = Unavailable(Reason.KUBERNETES_DENIED, "no events")
    await desk.clock.advance(1)
    desk.api.fails = None
    desk.put("other", {"tls.crt": WEB.pem})
    await desk.refused("other")
    await desk.clock.advance(1)
    assert [event["involvedObject"]["name"] for event in desk.events()] == ["other"]


class TestAuthorities:
    async def test_their_own_secret_goes_before_that_of_the_certificate(self, desk: Desk) -> None:
        desk.put("web", tls(WEB, **{"ca.crt": CA.pem}))
        assert (await desk.found("web-cacert")).credential.trusted_ca == CA.pem
        desk.put("web-cacert", {"cacert": CA.pem, "crl": crl(CA)})
        assert (await desk.until("web-cacert", crl=crl_of(desk))).credential.private_key == b""

    async def test_a_broken_one_of_their_own_is_not_passed_over(self, desk: Desk) -> None:
        desk.put("web", tls(WEB, **{"ca.crt": CA.pem}))
        desk.put("web-cacert", {"cacert": b"broken"})
        assert (await desk.refused("web-cacert")).reason is Reason.CREDENTIAL_INVALID

    async def test_the_right_must_be_to_the_secret_that_has_them(self, desk: Desk) -> None:
        desk.allowed = {"shop/web"}
        desk.put("web", tls(WEB, **{"ca.crt": CA.pem}))
        assert (await desk.found("web-cacert")).credential.trusted_ca == CA.pem
        desk.put("web-cacert", {"cacert": CA.pem})
        assert "shop/web-cacert" in (await desk.until_refused("web-cacert", PermissionDenied)).message

    async def test_what_nobody_wants_of_a_secret_is_nobodys_fault(self, desk: Desk) -> None:
        desk.put("web", tls(WEB, **{"ca.crt": b"broken"}))
        await desk.found()
        await desk.clock.advance(1)
        assert desk.events() == []
        assert list(desk.cluster.notes()) == []


def crl_of(desk: Desk) -> bytes:
    return base64.b64decode(desk.api.objects["/api/v1/namespaces/shop/secrets/web-cacert"]["data"]["crl"])


async def test_what_many_want_is_followed_once_and_given_up_when_nobody_does(desk: Desk) -> None:
    desk.put("web", tls(WEB))
    others = [asyncio.Event() for _ in range(5)]
    name = CredentialName.parse("kubernetes://shop/web")
    await desk.found()
    for other in others:
        assert desk.cluster.look(GATEWAY, name, other) is not None
        desk.cluster.settle(other)
    assert sum(verb == "watch" for verb, _ in desk.api.calls) == 1
    watched = desk.api.watchers["/api/v1/namespaces/shop/secrets"]
    desk.cluster.settle(desk.wake)  # wants nothing any more
    await desk.clock.advance(120)
    assert len(watched) == 1
    for other in others:
        desk.cluster.settle(other)
    await desk.clock.advance(60)
    assert watched == []
    asked = len(desk.asked)
    await desk.clock.advance(120)
    assert len(desk.asked) == asked


async def test_no_more_are_followed_than_the_limit_and_the_unwanted_make_room() -> None:
    class Quiet:
        is_of_use = None

        async def run(self, changed: Any) -> None:
            del changed
            await asyncio.Event().wait()

    followed: Followed[str, Quiet] = Followed(
        lambda _: Quiet(), asker=Asker, most=2, share=1, what="secrets", clock=FakeClock()
    )
    one, two = asyncio.Event(), asyncio.Event()
    followed.get("a", one)
    followed.get("b", two)
    with pytest.raises(ResourceExhausted):
        followed.get("c", two)
    followed.settle(one)
    followed.settle(one)
    followed.get("c", two)
    assert followed.get("b", two) is followed.get("b", one)
    with pytest.raises(ResourceExhausted):
        followed.get("a", one)


async def test_what_is_of_use_stays_and_what_turned_out_to_be_of_none_makes_room() -> None:
    class Known:
        def __init__(self, name: str) -> None:
            self.name = name
            self.is_of_use: bool | None = None

        async def run(self, changed: Callable[[], None]) -> None:
            self.is_of_use = self.name.startswith("good")
            changed()
            await asyncio.Event().wait()

    followed: Followed[str, Known] = Followed(
        Known, asker=lambda name: Asker(name[:-1]), most=5, share=3, what="secrets", clock=FakeClock()
    )
    holder = asyncio.Event()
    kept = [followed.get(name, holder) for name in ("good1", "good2", "good3", "bad1", "bad2")]
    await asyncio.wait_for(holder.wait(), 10)
    followed.get("late1", holder)
    assert [thing.name for thing in followed.held()] == ["good1", "good2", "good3", "bad1", "late1"]
    assert [followed.get(f"good{number}", holder) for number in (1, 2, 3)] == kept[:3]
    with pytest.raises(ResourceExhausted):
        followed.get("bad2", holder)


async def test_what_goes_by_two_names_has_places_for_both_where_all_are_of_use_however_many_there_are() -> None:
    class Known:
        def __init__(self, name: str) -> None:
            self.name = name
            self.is_of_use: bool | None = None

        async def run(self, changed: Callable[[], None]) -> None:
            self.is_of_use = not self.name.endswith("-cacert")
            changed()
            await asyncio.Event().wait()

    followed: Followed[str, Known] = Followed(
        Known, asker=lambda name: Asker(name[:4]), most=20, share=8, what="secrets", clock=FakeClock()
    )
    busy, late = asyncio.Event(), asyncio.Event()
    for number in range(20):
        followed.get(f"busy{number}", busy)
    await asyncio.wait_for(busy.wait(), 10)
    pairs = [("late1-cacert", "late1"), ("late2-cacert", "late2"), ("late3-cacert", "late3")]
    for _ in range(10):
        for pair in pairs:
            with suppress(ResourceExhausted):
                followed.get_any(pair, late)
        followed.settle(late)
        for number in range(20):
            with suppress(ResourceExhausted):
                followed.get(f"busy{number}", busy)
        followed.settle(busy)
        await asyncio.sleep(0)
    assert [[thing.name for thing in followed.get_any(pair, late)] for pair in pairs] == [[*pair] for pair in pairs]
    assert len([*followed.held()]) == 20


async def test_what_ends_unexpectedly_ends_alone_and_is_begun_anew() -> None:
    class Brittle:
        is_of_use = None

        def __init__(self, name: str) -> None:
            self.name = name

        async def run(self, changed: Any) -> None:
            del changed
            if self.name == "odd":
                raise KeyError(self.name)
            await asyncio.Event().wait()

    clock = FakeClock()
    followed: Followed[str, Brittle] = Followed(Brittle, asker=Asker, most=2, share=1, what="secrets", clock=clock)
    running = asyncio.create_task(followed.run())
    holder = asyncio.Event()
    odd, good = (followed.get(name, holder) for name in ("odd", "good"))
    await clock.advance(6)
    assert not running.done()
    assert holder.is_set()
    assert followed.get("good", holder) is good
    assert followed.get("odd", holder) is not odd
    followed.settle(holder)
    followed.settle(holder)
    running.cancel()


async def test_a_secret_that_cannot_be_read_at_all_is_at_fault_alone() -> None:
    def odd(data: Mapping[str, bytes], now: datetime) -> Credential:
        del data, now
        raise ValueError(SECRET)

    api, told = FakeKubernetes(), asyncio.Event()
    api.put("/api/v1/namespaces/shop/secrets/web", with_namespace(secret("web", tls(WEB)), "shop"))
    watched = WatchedSecret(
        SecretName("shop", "web"),
        api=api,
        turn=asyncio.Semaphore(1),
        clock=FakeClock(NOW),
        read={Part.AUTHORITIES: odd, Part.CERTIFICATE: odd},
    )
    running = asyncio.create_task(watched.run(told.set))
    await asyncio.wait_for(told.wait(), 10)
    fault = watched.ask(Part.CERTIFICATE).fault
    assert fault is not None
    assert (fault.reason, fault.message) == (
        Reason.CREDENTIAL_INVALID,
        "its certificate cannot be read (ValueError)",
    )
    running.cancel()


def test_a_gateway_is_a_pod_by_its_uid_alone() -> None:
    """Another value that has the same words in it makes it no other."""
    entry = Entry(
        id="e1",
        spiffe_id=SpiffeId.parse("spiffe://a.test/ns/shop/sa/gateway"),
        parent_id=SpiffeId.parse("spiffe://a.test/citadel/agent/k8s_psat/main/n1"),
        selectors=frozenset({Selector("k8s", "pod-uid:u-1"), Selector("k8s", "pod-label:x:pod-uid:u-2")}),
        origin="k8s:main/shop/gw-1",
    )
    assert Gateway.of(entry) == Gateway("main", "shop", "gw-1", "u-1")
    of_two = replace(entry, selectors=entry.selectors | {Selector("k8s", "pod-uid:u-2")})
    with pytest.raises(PermissionDenied) as refused:
        Gateway.of(of_two)
    assert refused.value.reason is Reason.CREDENTIAL_NOT_ALLOWED


class Closed(FakeKubernetes):
    """An API server that lets nobody list the secrets of `shop`, or never answers who does."""

    hangs = False

    async def list(self, path: str, *, labels: str = "", fields: str = "", each: Each = as_it_is) -> Listed:
        if path == "/api/v1/namespaces/shop/secrets":
            if self.hangs:
                await asyncio.Event().wait()
            raise Unavailable(Reason.KUBERNETES_DENIED, "secrets is forbidden")
        return await super().list(path, labels=labels, fields=fields, each=each)


@pytest.mark.parametrize("hangs", [False, True])
async def test_secrets_that_cannot_be_followed_are_told_of_as_long_as_somebody_wants_them(hangs: bool) -> None:
    api, clock, pods = Closed(), FakeClock(NOW), FakePods()
    api.hangs = hangs
    settings = GatewaySettings.model_validate({"namespaces": {"include": ["shop", "other"]}})
    desk = Desk(api, clock, pods, GatewayCluster("main", settings, api=api, pods=pods, clock=clock, draw=lambda: 0.0))
    api.answers[REVIEWS] = desk.review
    desk.allowed = {"shop/*", "other/*"}
    running = asyncio.create_task(desk.cluster.run())
    followed = desk.cluster.basis.followed

    def look() -> None:
        for name in ("a", "b", "c", "d", "other/e"):
            with suppress(CitadelError):
                desk.cluster.look(GATEWAY, CredentialName.parse(f"kubernetes://{name}"), desk.wake)
        desk.cluster.settle(desk.wake)

    for seconds in (0, 60, 1):
        look()
        await clock.advance(seconds)
    said = "it could not be read yet" if hangs else "secrets is forbidden"
    trouble = followed.trouble
    assert trouble is not None
    assert trouble.message == f"{said}; so it is with shop/a, shop/b, shop/c and 1 more"
    desk.cluster.settle(desk.wake)
    assert followed.trouble is None
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
