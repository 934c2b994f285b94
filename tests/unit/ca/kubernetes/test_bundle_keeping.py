"""The trust bundle in a cluster: what is written when, and when a rotation may go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from ca.kubernetes.bundles.keeping import BundleKeeping
from ca.kubernetes.discovery import GROUP
from ca.kubernetes.settings import BundleSettings
from citadel.bundle import TrustBundle
from citadel.errors import Reason, Unavailable
from citadel.kubernetes.ports import Each, KubeObject, Listed, as_it_is
from tests.certificates import bundle, root
from tests.clock import FakeClock
from tests.kube_fake import FakeKubernetes

ONE, TWO = root("one"), root("two")
HOLDER = "kubernetes/main/bundles"


@dataclass
class Own:
    """The own bundle."""

    current: TrustBundle
    callbacks: list[Callable[[], None]] = field(default_factory=list)

    def bundle(self) -> TrustBundle:
        return self.current

    def watch(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def becomes(self, bundle: TrustBundle) -> None:
        self.current = bundle
        for callback in self.callbacks:
            callback()


class Cluster(FakeKubernetes):
    """An API server. `refuses` says in which namespaces nothing can be written, `closed` what nobody may read.

    `during_write` happens while an object is written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refuses: set[str] = set()
        self.closed = ""
        self.during_write: Callable[[], None] = lambda: None
        self.objects[f"{GROUP}/v1"] = {"resources": [{"name": "clustertrustbundles"}]}

    async def get(self, path: str) -> KubeObject:
        self._check_open(path)
        return await super().get(path)

    async def list(self, path: str, *, labels: str = "", fields: str = "", each: Each = as_it_is) -> Listed:
        self._check_open(path)
        return await super().list(path, labels=labels, fields=fields, each=each)

    def _check_open(self, path: str) -> None:
        if self.closed and path.startswith(self.closed):
            raise Unavailable(Reason.KUBERNETES_DENIED, "not allowed")

    async def apply(self, path: str, body: KubeObject, *, force: bool = True) -> KubeObject:
        if self.refuses & {*path.split("/")}:
            self.calls.append(("apply", path))
            raise Unavailable(Reason.KUBERNETES_DENIED, "exceeded quota")
        self.during_write()
        return await super().apply(path, body, force=force)

    def namespace(self, name: str, **status: str) -> None:
        self.put(f"/api/v1/namespaces/{name}", {"metadata": {"name": name}, "status": status})

    def holds(self, namespace: str, name: str = "roots") -> dict[str, str]:
        return dict(self.objects[at(namespace, name)]["data"])

    def written(self) -> list[str]:
        """The namespaces that were written to, in order."""
        return [path.split("/")[4] for verb, path in self.calls if verb == "apply"]


def at(namespace: str, name: str = "roots") -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps/{name}"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def own() -> Own:
    return Own(bundle(ONE, sequence=1))


@asynccontextmanager
async def keeping(
    cluster: Cluster, own: Own, clock: FakeClock, *config_maps: dict[str, Any], **more: Any
) -> AsyncIterator[BundleKeeping]:
    maps = config_maps or ({"name": "roots", "key": "roots.pem"},)
    settings = BundleSettings.model_validate({"config_maps": maps, "writes_per_second": 1000, **more})
    keeper = BundleKeeping(cluster, settings, own, cluster="main", clock=clock)
    running = asyncio.create_task(keeper.run())
    try:
        await clock.advance(1)
        yield keeper
    finally:
        running.cancel()


PEM_OF_ONE = bundle(ONE).to_pem().decode()
PEM_OF_BOTH = bundle(ONE, TWO).to_pem().decode()


async def test_what_is_right_is_not_written_and_what_is_not_is(cluster: Cluster, own: Own, clock: FakeClock) -> None:
    for name in ("right", "wrong", "empty"):
        cluster.namespace(name)
    cluster.put(at("right"), {"metadata": {"namespace": "right", "name": "roots"}, "data": {"roots.pem": PEM_OF_ONE}})
    cluster.put(at("wrong"), {"metadata": {"namespace": "wrong", "name": "roots"}, "data": {"roots.pem": "x"}})
    async with keeping(cluster, own, clock):
        assert sorted(cluster.written()) == ["empty", "wrong"]
        assert cluster.holds("wrong") == {"roots.pem": PEM_OF_ONE}


async def test_keys_of_one_name_are_one_object_and_each_has_its_own_namespaces(
    cluster: Cluster, own: Own, clock: FakeClock
) -> None:
    """Applying one of them alone would take the other away."""
    cluster.namespace("shop")
    cluster.namespace("bank")
    pem = {"name": "roots", "key": "roots.pem"}
    spiffe = {"name": "roots", "key": "roots.json", "format": "spiffe", "namespaces": {"include": ["bank"]}}
    async with keeping(cluster, own, clock, pem, spiffe):
        assert cluster.holds("shop") == {"roots.pem": PEM_OF_ONE}
        assert cluster.holds("bank") == {"roots.pem": PEM_OF_ONE, "roots.json": own.bundle().to_json().decode()}


async def test_a_namespace_on_its_way_out_is_left_alone(cluster: Cluster, own: Own, clock: FakeClock) -> None:
    cluster.namespace("going", phase="Terminating")
    cluster.namespace("shop")
    async with keeping(cluster, own, clock) as keeper:
        assert cluster.written() == ["shop"]
        cluster.namespace("shop", phase="Terminating")
        await clock.advance(1)
        cluster.drop(at("shop"))
        await clock.advance(60)
        assert cluster.written() == ["shop"]
        assert not list(keeper.notes())


async def test_a_namespace_that_refuses_is_tried_again_and_named(cluster: Cluster, own: Own, clock: FakeClock) -> None:
    cluster.refuses = {"full"}
    for name in ("full", "shop"):
        cluster.namespace(name)
    async with keeping(cluster, own, clock) as keeper:
        assert "shop" in cluster.written()
        (note,) = keeper.notes()
        assert note.is_trouble
        assert note.text == (
            "ConfigMap roots cannot be kept in 1 of 2 namespaces, such as full (kubernetes_denied: exceeded quota)"
        )
        await clock.advance(3600)
        assert cluster.written().count("full") < 25
        cluster.refuses.clear()
        await clock.advance(300)
        assert cluster.holds("full") == {"roots.pem": PEM_OF_ONE}
        assert not list(keeper.notes())


async def test_two_who_write_the_same_do_not_race_each_other(cluster: Cluster, own: Own, clock: FakeClock) -> None:
    """Another program that keeps the same ConfigMap puts its own back at once, each time."""
    cluster.namespace("shop")
    other = {"metadata": {"namespace": "shop", "name": "roots"}, "data": {"roots.pem": "another root"}}
    async with keeping(cluster, own, clock):
        cluster.put(at("shop"), other)
        await clock.advance(0.1)
        assert cluster.holds("shop") == {"roots.pem": PEM_OF_ONE}  # the first time at once
        before = len(cluster.written())
        for _ in range(600):
            if cluster.holds("shop") != other["data"]:
                cluster.put(at("shop"), other | {"data": {"roots.pem": "half written"}})
                cluster.put(at("shop"), other)
            await clock.advance(1)
        assert len(cluster.written()) - before < 20
        await clock.advance(60)
        assert cluster.holds("shop") == {"roots.pem": PEM_OF_ONE}


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("roots", "let one of the two write it, or give ours another name"),
        (
            "istio-ca-root-cert",
            "set ENABLE_CA_SERVER=false for istiod, or leave it out of `bundles.config_maps`",
        ),
    ],
)
async def test_who_writes_the_same_is_told_with_how_to_end_it_for_as_long_as_it_lasts(
    cluster: Cluster, own: Own, clock: FakeClock, name: str, fix: str
) -> None:
    cluster.namespace("shop")
    cluster.namespace("bank")
    managed = [{"manager": "pilot-discovery", "fieldsV1": {"f:data": {}}}, {"manager": "kubectl", "fieldsV1": {}}]
    meta = {"namespace": "shop", "name": name, "managedFields": managed}
    other = {"metadata": meta, "data": {"roots.pem": "another root"}}
    cluster.objects[f"/api/v1/namespaces/shop/configmaps?fieldSelector=metadata.name%3D{name}"] = {"items": [other]}
    async with keeping(cluster, own, clock, {"name": name, "key": "roots.pem"}) as keeper:
        cluster.put(at("shop", name), other)
        await clock.advance(1)
        assert not list(keeper.notes())  # once may be by hand, and is put back
        with capture_logs() as logs:
            for _ in range(200):
                if cluster.holds("shop", name) != other["data"]:
                    cluster.put(at("shop", name), other)
                await clock.advance(1)
        (note,) = keeper.notes()
        assert note.is_trouble
        assert note.text == (
            f"ConfigMap {name} is written by pilot-discovery too, in 1 of 2 namespaces, such as shop, "
            f"and is wrong there most of the time: {fix}"
        )
        (logged,) = [each for each in logs if "somebody else" in each["event"]]
        assert (logged["namespace"], logged["managers"], logged["fix"]) == ("shop", ["pilot-discovery"], fix)
        await clock.advance(400)
        assert not list(keeper.notes())


async def test_a_rotation_waits_until_a_new_root_is_where_the_old_one_was(
    cluster: Cluster, own: Own, clock: FakeClock
) -> None:
    for name in ("shop", "full", "never"):
        cluster.namespace(name)
    cluster.refuses = {"never"}  # nobody there trusts anything by it
    async with keeping(cluster, own, clock) as keeper:
        assert [each.is_mere_time for each in keeper.without(is_jwt=False)] == [True]  # it was started just now
        await clock.advance(90)
        assert keeper.without(is_jwt=False) == []
        cluster.refuses |= {"full"}
        own.becomes(bundle(ONE, TWO, sequence=2))
        assert [each.name for each in keeper.without(is_jwt=False)] == [f"{HOLDER}/full", f"{HOLDER}/shop"]
        await clock.advance(1)
        holder, others = keeper.without(is_jwt=False)
        assert (holder.name, holder.agent) == (f"{HOLDER}/full", HOLDER)  # skipped alone, or with all of them
        assert (others.name, others.is_mere_time) == (HOLDER, True)  # who is skipped takes no time from the others
        assert holder.words == "the bundle is not written yet: roots in full (kubernetes_denied: exceeded quota)"
        assert holder.until is None
        assert cluster.holds("shop") == {"roots.pem": PEM_OF_BOTH}
        cluster.refuses.clear()
        await clock.advance(10)
        (holder,) = keeper.without(is_jwt=False)
        assert holder.is_mere_time  # a pod reads what its kubelet has brought it
        await clock.advance(90)
        assert keeper.without(is_jwt=False) == []


async def test_who_alters_one_again_and_again_holds_up_nobody_once_that_namespace_is_skipped(
    cluster: Cluster, own: Own, clock: FakeClock
) -> None:
    for name in ("shop", "tenant"):
        cluster.namespace(name)
    theirs = {"metadata": {"namespace": "tenant", "name": "roots"}, "data": {"roots.pem": "mine"}}
    async with keeping(cluster, own, clock) as keeper:
        await clock.advance(90)
        cluster.put(at("tenant"), theirs)  # right until now, so that even the first time is waited for by name
        own_names = set()
        for second in range(600):
            if second % 45 == 0:
                cluster.put(at("tenant"), theirs)
            if second == 100:
                own.becomes(bundle(ONE, TWO, sequence=2))
            await clock.advance(1)
            held = keeper.without(is_jwt=False)
            own_names |= {each.name for each in held} if not 100 <= second < 100 + 45 + 60 + 90 else set()
            assert len({each.name for each in held}) == len(held)
        assert own_names == {f"{HOLDER}/tenant"}
        assert {(each.agent, each.is_mere_time) for each in held} == {(HOLDER, False)}
        cluster.put(at("shop"), {**theirs, "metadata": {"namespace": "shop", "name": "roots"}})
        await clock.advance(1)
        (shop,) = [each for each in keeper.without(is_jwt=False) if each.name == f"{HOLDER}/shop"]
        assert shop.until == clock.now() + timedelta(seconds=89)  # its pods may have read what was there
        await clock.advance(180)
        assert keeper.without(is_jwt=False) == []


async def test_a_bundle_that_changes_while_it_is_written_was_altered_by_nobody(
    cluster: Cluster, own: Own, clock: FakeClock
) -> None:
    cluster.namespace("shop")
    async with keeping(cluster, own, clock) as keeper:
        await clock.advance(90)

        def changes_again() -> None:
            cluster.during_write = lambda: None
            own.becomes(bundle(TWO, sequence=3))

        cluster.during_write = changes_again
        own.becomes(bundle(ONE, TWO, sequence=2))
        await clock.advance(1)
        assert cluster.holds("shop") == {"roots.pem": bundle(TWO).to_pem().decode()}
        assert [(each.name, each.is_mere_time) for each in keeper.without(is_jwt=False)] == [(HOLDER, True)]
        await clock.advance(90)
        assert keeper.without(is_jwt=False) == []


async def test_many_that_were_put_back_are_one_holder_by_a_name_of_its_own(
    cluster: Cluster, own: Own, clock: FakeClock
) -> None:
    names = [f"shop-{number:02}" for number in range(21)]
    for name in names:
        cluster.namespace(name)
    async with keeping(cluster, own, clock) as keeper:
        await clock.advance(90)
        for name in names:
            meta = {"namespace": name, "name": "roots"}
            cluster.put(at(name), {"metadata": meta, "data": {"roots.pem": "mine"}})
        await clock.advance(1)
        (holder,) = keeper.without(is_jwt=False)
        assert (holder.name, holder.agent) == (f"{HOLDER}/Altered", HOLDER)
        assert holder.words.endswith("bring it back: shop-00, shop-01, shop-02, and more")


async def test_many_that_are_behind_are_one_holder(cluster: Cluster, own: Own, clock: FakeClock) -> None:
    for number in range(21):
        cluster.namespace(f"shop-{number:02}")
    async with keeping(cluster, own, clock) as keeper:
        await clock.advance(90)
        own.becomes(bundle(ONE, TWO, sequence=2))
        (holder,) = keeper.without(is_jwt=False)
        assert (holder.name, holder.agent) == (HOLDER, "")
        assert holder.words.endswith("roots in shop-00; roots in shop-01; roots in shop-02; 18 more")


async def test_one_that_is_immutable_is_said_and_not_tried_and_made_anew_once_it_is_deleted(
    cluster: Cluster, own: Own, clock: FakeClock
) -> None:
    cluster.namespace("shop")
    held = {"metadata": {"namespace": "shop", "name": "roots"}, "data": {"roots.pem": "x"}, "immutable": True}
    cluster.put(at("shop"), held)
    words = "roots in shop (kubernetes_refused: it is immutable: delete it, and it is made anew)"
    async with keeping(cluster, own, clock) as keeper:
        await clock.advance(90)
        (holder,) = keeper.without(is_jwt=False)
        assert (holder.name, holder.words) == (f"{HOLDER}/shop", f"the bundle is not written yet: {words}")
        (note,) = keeper.notes()
        assert "immutable: delete it" in note.text
        await clock.advance(600)
        assert cluster.written() == []
        cluster.drop(at("shop"))
        await clock.advance(1)
        assert cluster.holds("shop") == {"roots.pem": PEM_OF_ONE}


async def test_what_is_not_known_is_waited_for(cluster: Cluster, own: Own, clock: FakeClock) -> None:
    cluster.fails = Unavailable(Reason.KUBERNETES_UNAVAILABLE, "away")
    async with keeping(cluster, own, clock) as keeper:
        (holder,) = keeper.without(is_jwt=False)
        assert holder.name == HOLDER
        assert holder.words == (
            "its namespaces: not read since the server was started at 2026-01-01T00:00:00Z "
            f"(kubernetes_unavailable: away); `citadel-cli rotate skip {HOLDER}` goes on without this cluster"
        )
        assert keeper.without(is_jwt=True) == ()  # no key for tokens stands in PEM


async def test_while_the_api_server_is_away_nothing_is_tried_and_then_all_is_right(
    cluster: Cluster, own: Own, clock: FakeClock
) -> None:
    for number in range(20):
        cluster.namespace(f"shop-{number}")
    async with keeping(cluster, own, clock):
        cluster.fails = Unavailable(Reason.KUBERNETES_UNAVAILABLE, "away")
        cluster.break_watches()
        await clock.advance(0)
        own.becomes(bundle(ONE, TWO, sequence=2))
        calls = len(cluster.calls)
        await clock.advance(600)
        assert len(cluster.calls) - calls < 100  # what follows asks, and nobody else
        cluster.fails = None
        await clock.advance(35)
        assert all(cluster.holds(f"shop-{number}") == {"roots.pem": PEM_OF_BOTH} for number in range(20))


TRUST_BUNDLE = {"name": "a.test:workload:roots", "signer_name": "a.test/workload"}
AT = f"{GROUP}/v1/clustertrustbundles/a.test:workload:roots"


async def test_a_cluster_trust_bundle_is_kept_like_the_config_maps(
    cluster: Cluster, own: Own, clock: FakeClock
) -> None:
    async with keeping(cluster, own, clock, config_maps=[], cluster_trust_bundle=TRUST_BUNDLE) as keeper:
        assert cluster.objects[AT]["spec"] == {"signerName": "a.test/workload", "trustBundle": PEM_OF_ONE}
        assert cluster.objects[AT]["apiVersion"] == "certificates.k8s.io/v1"
        own.becomes(bundle(ONE, TWO, sequence=2))
        names = [each.name for each in keeper.without(is_jwt=False)]
        assert names == [f"{HOLDER}/ClusterTrustBundle", HOLDER]
        await clock.advance(1)
        assert cluster.objects[AT]["spec"]["trustBundle"] == PEM_OF_BOTH
        cluster.drop(AT)
        await clock.advance(1)
        assert cluster.objects[AT]["spec"]["trustBundle"] == PEM_OF_BOTH


@pytest.mark.parametrize("away", ["all of it", "discovery", "the objects"])
async def test_a_cluster_trust_bundle_that_was_not_read_yet_is_waited_for(
    cluster: Cluster, own: Own, clock: FakeClock, away: str
) -> None:
    """A server that was started in the middle of a rotation must not take what it does not know for up to date."""
    cluster.put(AT, {"metadata": {"name": TRUST_BUNDLE["name"]}, "spec": {"trustBundle": PEM_OF_ONE}})
    own.current = bundle(ONE, TWO, sequence=2)
    cluster.closed = {"all of it": "/", "discovery": f"{GROUP}/v1", "the objects": f"{GROUP}/v1/clustertrustbundles"}[
        away
    ]
    async with keeping(cluster, own, clock, config_maps=[], cluster_trust_bundle=TRUST_BUNDLE) as keeper:
        await clock.advance(600)
        (holder,) = keeper.without(is_jwt=False)
        assert (holder.name, holder.is_mere_time, holder.until) == (HOLDER, False, None)
        assert holder.words == (
            "its ClusterTrustBundle a.test:workload:roots: not read since the server was started at "
            "2026-01-01T00:00:00Z (kubernetes_denied: not allowed); "
            f"`citadel-cli rotate skip {HOLDER}` goes on without this cluster"
        )
        (basis,) = keeper.bases()
        assert basis.followed.trouble is not None
        assert basis.followed.trouble.reason is Reason.KUBERNETES_DENIED
        assert keeper.without(is_jwt=True) == ()
        cluster.closed = ""
        await clock.advance(600)
        assert cluster.objects[AT]["spec"]["trustBundle"] == PEM_OF_BOTH
        await clock.advance(90)
        assert keeper.without(is_jwt=False) == []
        assert not list(keeper.notes())


async def test_a_cluster_trust_bundle_that_is_served_no_longer_is_not_waited_for(
    cluster: Cluster, own: Own, clock: FakeClock
) -> None:
    async with keeping(cluster, own, clock, config_maps=[], cluster_trust_bundle=TRUST_BUNDLE) as keeper:
        cluster.objects[f"{GROUP}/v1"] = {"resources": []}
        await clock.advance(601)
        own.becomes(bundle(ONE, TWO, sequence=2))
        await clock.advance(90)
        assert keeper.without(is_jwt=False) == []


async def test_an_api_server_without_such_objects_is_named(cluster: Cluster, own: Own, clock: FakeClock) -> None:
    del cluster.objects[f"{GROUP}/v1"]
    async with keeping(cluster, own, clock, config_maps=[], cluster_trust_bundle=TRUST_BUNDLE) as keeper:
        assert [(note.text, note.is_trouble) for note in keeper.notes()] == [
            ("no ClusterTrustBundle is kept: this API server has no such objects", False)
        ]
        await clock.advance(90)
        assert keeper.without(is_jwt=False) == []


@pytest.mark.parametrize(
    "given",
    [
        {"name": "roots", "signer_name": "a.test/workload"},
        {"name": "a.test:workload", "signer_name": "a.test/workload"},
        {"name": "a.test:workload:", "signer_name": "a.test/workload"},
        {"name": "a.test:workload:roots"},
        {"name": "Roots"},
    ],
)
def test_a_name_that_the_api_server_would_refuse_is_refused_at_the_start(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="write it like"):
        BundleSettings.model_validate({"cluster_trust_bundle": given})


def test_a_key_of_a_config_map_is_listed_once() -> None:
    with pytest.raises(ValidationError, match="once"):
        BundleSettings.model_validate({"config_maps": [{"name": "roots", "key": "a"}] * 2})
