"""Entries of pods: which pod gets which, and how they come, change and go with the pods and services of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import structlog
from sqlalchemy import select, text

from ca.audit.model import Actor
from ca.entries.directory import EntryDirectory
from ca.entries.registry import EntryRegistry
from ca.kubernetes.pods import Pod, Pods
from ca.kubernetes.settings import WorkloadSettings
from ca.kubernetes.workloads.abandoned import remove_abandoned
from ca.kubernetes.workloads.reconciler import WorkloadReconciler
from ca.kubernetes.workloads.rules import Left, PodRules, Verdict
from ca.kubernetes.workloads.services import SERVICES, Services, service_of
from ca.store.database import Database
from ca.store.entries import SqlEntryStore
from ca.store.schema import audit
from citadel.entry import Entry
from citadel.errors import CitadelError, FailedPrecondition, Reason, Unavailable
from citadel.kubernetes.informer import Informer
from citadel.kubernetes.ports import ApiUnavailable, Each, Listed, as_it_is
from citadel.spiffe import SpiffeId, TrustDomain
from tests.clock import FakeClock
from tests.kube_fake import FakeKubernetes
from tests.unit.ca.values import A_TEST, NOW, entry, selectors

ROOT = Actor.local(0)


def a_pod(**changes: Any) -> Pod:
    pod = Pod(
        namespace="shop",
        name="web-0",
        uid="u1",
        node="n1",
        service_account="web",
        labels=(("app", "web"), ("tier", "front")),
        owners=(),
        phase="Running",
        ips=(),
    )
    return replace(pod, **changes)


def judged(pod: Pod, services: Sequence[str] = (), **settings: Any) -> Verdict:
    rules = PodRules(WorkloadSettings(**settings), trust_domain=A_TEST, cluster="main")
    return rules.judge(pod, services, NOW)


def test_an_admitted_pod_gets_an_entry_for_itself_alone_on_its_node() -> None:
    verdict = judged(
        a_pod(),
        x509_svid_ttl=timedelta(minutes=5),
        jwt_svid_ttl=timedelta(minutes=1),
        federates_with=(TrustDomain("b.test"),),
    )
    assert verdict == Verdict(
        entry=Entry(
            id="",
            spiffe_id=SpiffeId.parse("spiffe://a.test/ns/shop/sa/web"),
            parent_id=SpiffeId.parse("spiffe://a.test/citadel/agent/k8s_psat/main/n1"),
            selectors=selectors("k8s:pod-uid:u1"),
            x509_svid_ttl=timedelta(minutes=5),
            jwt_svid_ttl=timedelta(minutes=1),
            federates_with=frozenset({TrustDomain("b.test")}),
            origin="k8s:main/shop/web-0",
        )
    )


@pytest.mark.parametrize(
    ("pod", "settings", "left"),
    [
        (a_pod(), {"namespaces": {"include": ["s*"], "exclude": ["shop"]}}, Left.NAMESPACE),
        (a_pod(namespace="kube-system"), {}, Left.NAMESPACE),
        (a_pod(), {"pod_labels": "app=web,tier!=front"}, Left.LABELS),
        (a_pod(labels=()), {"pod_labels": "app"}, Left.LABELS),
        (a_pod(node=""), {}, Left.UNBOUND),
        # A kubelet writes such pods into any namespace, so that not even their names may earn an identity.
        (a_pod(service_account=""), {}, Left.ACCOUNT),
        (a_pod(service_account=""), {"template": "spiffe://a.test/pod/{pod}"}, Left.ACCOUNT),
        (a_pod(phase="Succeeded"), {}, Left.ENDED),
        (a_pod(phase="Failed"), {}, Left.ENDED),
    ],
)
def test_others_get_none_and_nothing_is_wrong_with_that(pod: Pod, settings: dict[str, Any], left: Left) -> None:
    assert judged(pod, **settings) == Verdict(left=left)


@pytest.mark.parametrize("phase", ["Pending", "Running", "Unknown", ""])
def test_a_pod_gets_it_as_soon_as_it_is_bound(phase: str) -> None:
    assert judged(a_pod(phase=phase)).entry is not None


@pytest.mark.parametrize(
    ("pod", "said"),
    [
        (a_pod(namespace="shop/../x"), "the namespace 'shop/../x'"),
        (a_pod(service_account="wéb"), "the service_account 'wéb'"),
        (a_pod(service_account="x" * 2048), "longer than 2048 bytes"),
        (a_pod(uid="u1 "), "can never match"),
        (a_pod(uid="a:b"), "can never match"),
        (a_pod(uid="\0"), "unprintable"),
        (a_pod(node="N1"), "reserved and neither an agent"),
        (a_pod(node="n/1"), "reserved and neither an agent"),
        (a_pod(node="n 1"), "path character"),
    ],
)
def test_what_makes_no_valid_entry_is_a_problem_of_this_pod(pod: Pod, said: str) -> None:
    verdict = judged(pod)
    assert verdict.entry is None
    assert said in verdict.problem


def names(services: Sequence[str], **settings: Any) -> tuple[tuple[str, ...], str]:
    verdict = judged(a_pod(), services, service_dns_names=True, **settings)
    assert verdict.entry is not None
    return verdict.entry.dns_names, verdict.problem


def test_names_of_services_stand_in_the_entry_only_where_that_is_asked_for() -> None:
    found = ("api.shop.svc", "api.shop.svc.cluster.local", "web.shop.svc", "web.shop.svc.cluster.local")
    assert names(["api", "web"]) == (found, "")
    without = judged(a_pod(), ["api"]).entry
    assert without is not None
    assert without.dns_names == ()


def test_more_services_than_a_certificate_takes_are_left_out_and_told() -> None:
    found, problem = names([f"s{number:03}" for number in range(51)])
    assert (len(found), found[-1]) == (100, "s049.shop.svc.cluster.local")
    assert problem.startswith("2 names of services are left out")


def test_a_name_that_is_too_long_is_left_out() -> None:
    assert names(["w" * 63], cluster_domain=".".join(["d" * 60] * 4)) == ((f"{'w' * 63}.shop.svc",), "")


@pytest.mark.parametrize(
    ("spec", "selects"),
    [
        ({"selector": {"app": "web"}}, True),
        ({"selector": {"app": "web"}, "clusterIP": "None"}, True),
        ({"selector": {"app": "web", "tier": "front"}}, True),
        ({"selector": {"app": "web", "tier": "back"}}, False),
        ({"selector": {}}, False),
        ({"selector": None}, False),
        ({}, False),
        ({"selector": {"app": "web"}, "type": "ExternalName", "externalName": "web.example.org"}, False),
    ],
)
async def test_a_service_is_named_where_it_selects_the_pod(spec: dict[str, Any], selects: bool) -> None:
    api, clock = FakeKubernetes(), FakeClock()
    services = Services(Informer(api, SERVICES, keep=service_of, clock=clock))
    api.put("/api/v1/namespaces/shop/services/s", {"metadata": {"namespace": "shop", "name": "s"}, "spec": spec})
    running = asyncio.create_task(services.run())
    await services.until_synced()
    assert services.selecting(a_pod()) == (["s"] if selects else [])
    assert services.selecting(a_pod(namespace="other")) == []
    running.cancel()


class HiddenServices(FakeKubernetes):
    """An API server that does not let its services be read while they are `hidden`."""

    hidden = False

    async def list(self, path: str, *, labels: str = "", fields: str = "", each: Each = as_it_is) -> Listed:
        if self.hidden and path == SERVICES:
            raise Unavailable(Reason.KUBERNETES_DENIED, "services may not be listed")
        return await super().list(path, labels=labels, fields=fields, each=each)


class Cluster:
    """A fake API server, and all of the server that follows it: informers, reconciler, registry and store."""

    def __init__(self, database: Database, clock: FakeClock) -> None:
        self.api = HiddenServices()
        self.clock = clock
        self.directory = EntryDirectory(trust_domain=A_TEST)
        self.registry = EntryRegistry(
            trust_domain=A_TEST, store=SqlEntryStore(database=database), directory=self.directory, clock=clock
        )
        self.rules = PodRules
        self._running: list[asyncio.Task[None]] = []

    async def start(self, **settings: Any) -> None:
        if not self.directory.revision:
            await self.registry.start()
        chosen = WorkloadSettings(**settings)
        pods = Pods(self.api, clock=self.clock)
        services = None
        if chosen.service_dns_names:
            services = Services(Informer(self.api, SERVICES, keep=service_of, clock=self.clock))
            self._running.append(asyncio.create_task(services.run()))
        self.reconciler = WorkloadReconciler(
            cluster="main",
            rules=self.rules(chosen, trust_domain=A_TEST, cluster="main"),
            pods=pods,
            services=services,
            directory=self.directory,
            registry=self.registry,
            clock=self.clock,
        )
        self._running += [asyncio.create_task(pods.run()), asyncio.create_task(self.reconciler.run())]

    async def stop(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()

    def pod(self, name: str, *, uid: str = "", node: str = "n1", phase: str = "Running", account: str = "web") -> None:
        self.api.put(
            f"/api/v1/namespaces/shop/pods/{name}",
            {
                "metadata": {"namespace": "shop", "name": name, "uid": uid or f"uid-{name}", "labels": {"app": name}},
                "spec": {"nodeName": node, "serviceAccountName": account},
                "status": {"phase": phase},
            },
        )

    def service(self, name: str, **selector: str) -> None:
        meta = {"namespace": "shop", "name": name}
        self.api.put(f"/api/v1/namespaces/shop/services/{name}", {"metadata": meta, "spec": {"selector": selector}})

    def drop(self, name: str, kind: str = "pods") -> None:
        self.api.drop(f"/api/v1/namespaces/shop/{kind}/{name}")

    @property
    def found(self) -> Mapping[str, Sequence[Entry]]:
        """The entries of pods, by pod."""
        managed = self.directory.managed
        return {each.rpartition("/")[2]: list(managed.of(each).values()) for each in managed.origins()}

    async def until(self, *pods: str) -> Mapping[str, Sequence[Entry]]:
        """What there is once these pods, and no others, have an entry each."""
        async with asyncio.timeout(10):
            while sorted(self.found) != sorted(pods) or any(len(each) != 1 for each in self.found.values()):
                await self.pass_time()
        return self.found

    async def pass_time(self) -> None:
        await self.clock.advance(0.1)
        await asyncio.sleep(0.01)  # of the store's threads

    async def long_enough(self) -> None:
        """Time in which everything that is under way, and could go wrong, is done."""
        for _ in range(10):
            await self.pass_time()


@pytest.fixture
async def cluster(database: Database, clock: FakeClock) -> AsyncIterator[Cluster]:
    made = Cluster(database, clock)
    yield made
    await made.stop()


async def test_entries_come_and_go_with_their_pods(cluster: Cluster) -> None:
    cluster.pod("a")
    cluster.pod("waits", node="")
    await cluster.start()
    await cluster.until("a")
    cluster.pod("b")
    cluster.pod("waits")
    await cluster.until("a", "b", "waits")
    cluster.drop("a")
    cluster.pod("b", phase="Succeeded")
    await cluster.until("waits")
    condition = cluster.reconciler.condition()
    assert (condition.admitted, condition.entries, condition.problems) == (1, 1, {})


class Unprepared(PodRules):
    """Does not know what to make of the pod `odd`."""

    def judge(self, pod: Pod, services: Sequence[str], now: datetime) -> Verdict:
        if pod.name == "odd":
            raise KeyError(pod.key)
        return super().judge(pod, services, now)


@pytest.mark.invariant(8)
async def test_a_pod_that_the_rules_cannot_judge_keeps_no_other_from_its_entry(cluster: Cluster) -> None:
    cluster.rules = Unprepared
    for name in ("a", "odd", "b"):
        cluster.pod(name)
    await cluster.start()
    await cluster.until("a", "b")
    assert cluster.reconciler.condition().problems == {"shop/odd": "the server's own fault, KeyError: see its log"}


async def test_a_pod_of_the_same_name_is_another_one_with_another_entry(cluster: Cluster) -> None:
    cluster.pod("a", uid="u1")
    await cluster.start()
    [first] = (await cluster.until("a"))["a"]
    cluster.drop("a")
    cluster.pod("a", uid="u2", node="n2")
    async with asyncio.timeout(10):
        while (found := cluster.found.get("a", [first])) == [first]:
            await cluster.pass_time()
    [second] = found
    assert second.id != first.id
    assert second.selectors == selectors("k8s:pod-uid:u2")
    assert second.parent_id.path.endswith("/main/n2")


async def test_every_change_is_audited_as_the_cluster_s(cluster: Cluster, database: Database) -> None:
    cluster.pod("a")
    await cluster.start()
    [made] = (await cluster.until("a"))["a"]
    cluster.drop("a")
    await cluster.until()
    async with database.reading() as connection:
        rows = await connection.execute(select(audit).order_by(audit.c.number))
        told = [(row.actor_kind, row.actor, row.what, row.target) for row in rows]
    assert told == [
        ("server", "kubernetes:main", "entry.create", made.id),
        ("server", "kubernetes:main", "entry.delete", made.id),
    ]


async def test_a_burst_is_one_transaction(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.long_enough()
    for number in range(300):
        cluster.pod(f"p{number}")
    await cluster.until(*(f"p{number}" for number in range(300)))
    commits = {made.created_at for each in cluster.found.values() for made in each}
    assert len(commits) == 1


async def test_names_of_services_follow_the_services(cluster: Cluster) -> None:
    cluster.pod("web")
    cluster.pod("api")
    await cluster.start(service_dns_names=True)
    [before] = (await cluster.until("api", "web"))["web"]
    assert before.dns_names == ()

    async def named(*names: str) -> Entry:
        async with asyncio.timeout(10):
            while cluster.found["web"][0].dns_names != names:
                await cluster.pass_time()
        return cluster.found["web"][0]

    cluster.service("shop", app="web")
    after = await named("shop.shop.svc", "shop.shop.svc.cluster.local")
    assert (after.id, after.revision) == (before.id, 2)
    cluster.service("shop", app="web", tier="none")
    await named()
    cluster.service("shop", app="web")
    await named("shop.shop.svc", "shop.shop.svc.cluster.local")
    cluster.drop("shop", "services")
    await named()
    assert cluster.found["api"][0].revision == 1


async def test_nothing_is_deleted_before_the_pods_are_known(cluster: Cluster) -> None:
    cluster.pod("a")
    await cluster.start()
    await cluster.until("a")
    await cluster.stop()
    cluster.api.fails = ApiUnavailable("away")
    cluster.drop("a")
    cluster.pod("b")
    await cluster.start()
    await cluster.long_enough()
    assert list(cluster.found) == ["a"]
    cluster.api.fails = None
    await cluster.clock.advance(60)
    await cluster.until("b")


async def test_no_name_is_taken_from_a_certificate_before_the_services_are_known(cluster: Cluster) -> None:
    cluster.pod("a")
    cluster.service("shop", app="a")
    await cluster.start(service_dns_names=True)
    before = await cluster.until("a")
    assert before["a"][0].dns_names
    await cluster.stop()
    cluster.api.hidden = True
    await cluster.start(service_dns_names=True)
    await cluster.long_enough()
    assert cluster.found == before


async def test_nothing_is_deleted_while_the_api_server_is_away(cluster: Cluster) -> None:
    cluster.pod("a")
    await cluster.start()
    await cluster.until("a")
    cluster.api.fails = ApiUnavailable("away")
    cluster.api.break_watches(ApiUnavailable("away"))
    cluster.api.objects.clear()  # nobody is told
    await cluster.clock.advance(600)
    await cluster.long_enough()
    assert list(cluster.found) == ["a"]


@pytest.mark.invariant(12)
async def test_what_happened_while_no_server_ran_is_made_good(cluster: Cluster, database: Database) -> None:
    cluster.pod("a")
    cluster.pod("b")
    await cluster.start()
    await cluster.until("a", "b")
    await cluster.stop()
    again = Cluster(database, cluster.clock)
    again.api = cluster.api
    again.drop("a")
    again.pod("c")
    await again.registry.start()
    assert sorted(again.found) == ["a", "b"]
    await again.start()
    await again.until("b", "c")
    await again.stop()


async def test_another_template_changes_the_entries_in_place(cluster: Cluster) -> None:
    cluster.pod("a")
    await cluster.start()
    [before] = (await cluster.until("a"))["a"]
    await cluster.stop()
    await cluster.start(template="spiffe://a.test/pod/{pod}")
    async with asyncio.timeout(10):
        while (after := cluster.found["a"][0]) == before:
            await cluster.pass_time()
    assert (after.id, str(after.spiffe_id), after.origin) == (before.id, "spiffe://a.test/pod/a", before.origin)


async def test_what_people_registered_just_so_wins_and_is_left_alone(cluster: Cluster) -> None:
    wanted = judged(a_pod(name="a", uid="uid-a")).entry
    assert wanted is not None
    await cluster.registry.start()
    by_hand = await cluster.registry.create(replace(wanted, origin="", hint="mine"), by=ROOT)
    cluster.pod("a")
    cluster.pod("b")
    await cluster.start()
    await cluster.until("b")
    await cluster.long_enough()
    assert cluster.directory.get(by_hand.id) == by_hand
    assert cluster.reconciler.condition().admitted == 2
    await cluster.registry.delete(by_hand.id, by=ROOT)
    await cluster.clock.advance(301)
    await cluster.until("a", "b")


async def test_a_pod_with_a_problem_is_named_once_and_others_go_on(cluster: Cluster) -> None:
    with structlog.testing.capture_logs() as logs:
        cluster.pod("odd", account="wéb")
        cluster.pod("good")
        await cluster.start()
        await cluster.until("good")
        cluster.pod("odd", account="wéb", node="n2")
        cluster.pod("more")
        await cluster.until("good", "more")
        told = [line for line in logs if line.get("pod")]
    assert [(line["pod"], line["log_level"]) for line in told] == [("shop/odd", "warning")]
    assert "wéb" in told[0]["error"]
    status = cluster.reconciler.condition().status()
    assert (status.admitted, status.entries, status.problems) == (2, 2, 1)
    assert status.shown[0].startswith("shop/odd: the service_account 'wéb'")
    cluster.drop("odd")
    await cluster.long_enough()
    assert cluster.reconciler.condition().problems == {}


async def test_a_store_that_fails_is_tried_again(cluster: Cluster, database: Database) -> None:
    await cluster.start()
    await cluster.long_enough()
    async with database.transaction() as connection:
        await connection.execute(text("ALTER TABLE event RENAME TO away"))
    cluster.pod("a")
    await cluster.long_enough()
    assert not cluster.found
    async with database.transaction() as connection:
        await connection.execute(text("ALTER TABLE away RENAME TO event"))
    await cluster.clock.advance(31)
    await cluster.until("a")


@pytest.mark.parametrize("act", ["update", "delete", "apply", "prune", "unchanged"])
async def test_people_change_no_entry_of_a_pod(cluster: Cluster, act: str) -> None:
    cluster.pod("a")
    await cluster.start()
    [made] = (await cluster.until("a"))["a"]
    changed = replace(made, hint="mine")
    if act == "prune":
        plan = await cluster.registry.apply([], by=ROOT, prune=[made.parent_id])
        assert not plan.changes
    elif act == "unchanged":  # as `entry list -o json` says it
        assert not (await cluster.registry.apply([made], by=ROOT)).problems
    elif act == "apply":
        [problem] = (await cluster.registry.apply([replace(changed, revision=0)], by=ROOT)).problems
        assert problem.error.reason is Reason.ENTRY_MANAGED
    else:
        with pytest.raises(FailedPrecondition) as refused:
            await (
                cluster.registry.delete(made.id, by=ROOT)
                if act == "delete"
                else cluster.registry.update(changed, by=ROOT)
            )
        assert refused.value.reason is Reason.ENTRY_MANAGED
        assert "k8s:main/shop/a" in refused.value.message
    assert cluster.found["a"] == [made]


async def test_people_never_say_what_an_entry_was_made_from(cluster: Cluster) -> None:
    await cluster.registry.start()
    mine = await cluster.registry.create(entry("/mine"), by=ROOT)
    for attempt in (
        cluster.registry.create(entry("/web", origin="k8s:main/shop/a"), by=ROOT),
        cluster.registry.update(replace(mine, hint="x", origin="k8s:main/shop/a"), by=ROOT),
    ):
        with pytest.raises(CitadelError) as refused:
            await attempt
        assert refused.value.reason is Reason.ENTRY_MANAGED
    assert cluster.directory.all() == {mine.id: mine}


async def test_entries_of_a_cluster_that_is_not_kept_go(cluster: Cluster) -> None:
    cluster.pod("a")
    await cluster.start()
    await cluster.until("a")
    await cluster.stop()
    mine = await cluster.registry.create(entry("/mine"), by=ROOT)
    await remove_abandoned(cluster.directory, cluster.registry, kept={"main", "other"})
    assert list(cluster.found) == ["a"]
    with structlog.testing.capture_logs() as logs:
        await remove_abandoned(cluster.directory, cluster.registry, kept={"mai"})
    assert cluster.directory.all() == {mine.id: mine}
    assert [(line["cluster"], line["entries"]) for line in logs if "cluster" in line] == [("main", 1)]
