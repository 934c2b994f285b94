"""Who gets which identity as a proxy of Istio, and who gets none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ca.issuance.lifetime import LifetimePolicy
from ca.kubernetes.accounts import Named, ProvenAccount
from ca.kubernetes.istio.asked import Asked
from ca.kubernetes.istio.clusters import IstioCluster, IstioClusters
from ca.kubernetes.istio.presence import Presence
from ca.kubernetes.pods import Pods
from ca.kubernetes.settings import IstioSettings
from citadel.errors import CitadelError, InvalidArgument, Reason, Unauthenticated, Unavailable
from citadel.kubernetes.ports import ApiUnavailable
from citadel.spiffe import SpiffeId
from tests.clock import FakeClock
from tests.kube_fake import FakeKubernetes
from tests.unit.ca.values import A_TEST, NOW

WEB = ProvenAccount(
    cluster="main",
    namespace="shop",
    name="web",
    uid="sa",
    pod=Named("web-1", "uid-web"),
    node=Named("n1", "uid-n1"),
    ends_at=NOW,
)
ZTUNNEL = replace(WEB, namespace="mesh", name="ztunnel", pod=Named("ztunnel-1", "uid-ztunnel"))
ASKED = Asked(csr=b"csr", seconds=None, impersonated=None)
OF_WEB = "spiffe://a.test/ns/shop/sa/web"


class Tokens:
    """Believes everybody to be `account`."""

    def __init__(self, account: ProvenAccount) -> None:
        self.account_of_all = account

    async def account(self, token: str) -> ProvenAccount:
        del token
        return self.account_of_all


def put_pod(api: FakeKubernetes, namespace: str, account: str, *, node: str = "n1", phase: str = "Running") -> None:
    name = f"{account}-1"
    api.put(
        f"/api/v1/namespaces/{namespace}/pods/{name}",
        {
            "metadata": {"namespace": namespace, "name": name, "uid": f"uid-{account}"},
            "spec": {"nodeName": node, "serviceAccountName": account},
            "status": {"phase": phase},
        },
    )


@pytest.fixture
def api() -> FakeKubernetes:
    api = FakeKubernetes()
    put_pod(api, "shop", "web")
    put_pod(api, "mesh", "ztunnel")
    put_pod(api, "shop", "far", node="n2")
    put_pod(api, "shop", "done", phase="Succeeded")
    put_pod(api, "shop", "new", phase="Pending")
    return api


@pytest.fixture
async def pods(api: FakeKubernetes) -> AsyncIterator[Pods]:
    pods = Pods(api, clock=FakeClock())
    running = asyncio.create_task(pods.run())
    await pods.until_synced()
    yield pods
    running.cancel()


def cluster(
    pods: Pods | None,
    account: ProvenAccount = WEB,
    *,
    name: str = "main",
    tokens: Tokens | None = None,
    patience: float = 0.0,
    **settings: Any,
) -> IstioCluster:
    return IstioCluster(
        name,
        IstioSettings.model_validate(
            {"trusted_node_accounts": ["mesh/ztunnel"], "max_lifetime": "48h", "namespaces": {"exclude": ["kube-*"]}}
            | settings
        ),
        trust_domain=A_TEST,
        tokens=tokens or Tokens(account),
        presence=Presence(pods, patience=patience) if pods is not None else None,
    )


async def admitted(door: IstioCluster) -> ProvenAccount:
    account = await door.proven("t")
    await door.check(account)
    return account


async def refused(call: Any) -> tuple[type[CitadelError], Reason]:
    with pytest.raises(CitadelError) as error:
        await call
    kind = Unavailable if isinstance(error.value, Unavailable) else type(error.value)
    return kind, error.value.reason


async def test_a_proxy_gets_the_identity_of_its_service_account(pods: Pods) -> None:
    door = cluster(pods)
    assert await admitted(door) == WEB
    wanted = await door.request(WEB, replace(ASKED, seconds=3600))
    assert wanted.spiffe_id == SpiffeId.parse(OF_WEB)
    assert wanted.key == b"csr"
    assert wanted.lifetime == timedelta(hours=1)
    assert wanted.policy == LifetimePolicy(
        default=timedelta(hours=24),
        own=timedelta(hours=24),
        cap=timedelta(hours=48),
        backdate=timedelta(minutes=2),
    )
    assert str(wanted.requested_by) == "spiffe://a.test/citadel/k8s/main/istio"
    assert wanted.charged_to == "uid-web"
    with pytest.raises(InvalidArgument):
        await door.request(WEB, replace(ASKED, seconds=48 * 3600 + 1))


async def test_namespaces_that_are_not_admitted_and_pods_that_are_gone_get_nothing(pods: Pods) -> None:
    for account, reason in (
        (replace(WEB, namespace="kube-system"), Reason.K8S_ACCOUNT_NOT_ALLOWED),
        (replace(WEB, pod=Named("web-0", "uid-gone")), Reason.K8S_POD_UNKNOWN),
        (replace(WEB, pod=Named("done-1", "uid-done")), Reason.K8S_POD_UNKNOWN),
    ):
        assert await refused(admitted(cluster(pods, account))) == (Unauthenticated, reason)
    assert await admitted(cluster(pods, replace(WEB, pod=None)))
    assert await admitted(cluster(None, replace(WEB, pod=Named("web-0", "uid-gone"))))


async def test_who_is_ahead_of_the_watch_is_waited_for(api: FakeKubernetes, pods: Pods) -> None:
    call = asyncio.create_task(admitted(cluster(pods, replace(WEB, pod=Named("x-1", "uid-x")), patience=60)))
    await asyncio.sleep(0)
    put_pod(api, "shop", "x")
    async with asyncio.timeout(10):
        assert (await call).pod == Named("x-1", "uid-x")


def put_untold(api: FakeKubernetes, namespace: str, account: str, *, node: str = "n1") -> None:
    """A pod that the watch has not told of, nor ever will."""
    history, watchers, api.watchers = list(api.history), api.watchers, {}
    put_pod(api, namespace, account, node=node)
    api.history, api.watchers = history, watchers


async def test_before_a_pod_that_was_not_told_of_is_refused_the_api_server_is_asked(
    api: FakeKubernetes, pods: Pods
) -> None:
    for account in ("x", "elsewhere"):
        put_untold(api, "shop", account, node="n2" if account == "elsewhere" else "n1")
    put_untold(api, "mesh", "late")
    new, other = (replace(WEB, pod=Named("x-1", uid)) for uid in ("uid-x", "uid-of-the-last-x-1"))
    assert await admitted(cluster(pods, new)) == new
    assert await refused(admitted(cluster(pods, other))) == (Unauthenticated, Reason.K8S_POD_UNKNOWN)
    door = cluster(pods, trusted_node_accounts=["mesh/ztunnel", "mesh/late"])
    late = replace(ZTUNNEL, name="late", pod=Named("late-1", "uid-late"))
    for caller in (ZTUNNEL, late):
        wanted = "spiffe://a.test/ns/shop/sa/x"
        assert str((await door.request(caller, replace(ASKED, impersonated=wanted))).spiffe_id) == wanted
        call = door.request(caller, replace(ASKED, impersonated="spiffe://a.test/ns/shop/sa/elsewhere"))
        assert await refused(call) == (Unauthenticated, Reason.K8S_IMPERSONATION_REFUSED)


async def test_a_ztunnel_whose_node_was_not_told_yet_is_asked_for(api: FakeKubernetes, pods: Pods) -> None:
    for account in ("early", "unbound"):
        put_pod(api, "mesh", account, node="")
    while pods.with_uid("uid-unbound") is None:
        await asyncio.sleep(0)
    put_untold(api, "mesh", "early")
    door = cluster(pods, trusted_node_accounts=["mesh/early", "mesh/unbound"])
    early, unbound = (
        replace(ZTUNNEL, name=name, pod=Named(f"{name}-1", f"uid-{name}")) for name in ("early", "unbound")
    )
    asked = replace(ASKED, impersonated=OF_WEB)
    assert str((await door.request(early, asked)).spiffe_id) == OF_WEB
    assert await refused(door.request(unbound, asked)) == (Unauthenticated, Reason.K8S_IMPERSONATION_REFUSED)
    api.fails = ApiUnavailable("away")
    assert await refused(door.request(early, asked)) == (Unavailable, Reason.KUBERNETES_UNAVAILABLE)


async def test_a_ztunnel_whose_node_is_told_in_a_moment_is_waited_for(api: FakeKubernetes, pods: Pods) -> None:
    put_pod(api, "mesh", "ztunnel", node="")
    while (told := pods.with_uid("uid-ztunnel")) is None or told.node:
        await asyncio.sleep(0)
    asked = replace(ASKED, impersonated=OF_WEB)
    call = asyncio.create_task(cluster(pods, patience=60).request(ZTUNNEL, asked))
    await asyncio.sleep(0)
    put_pod(api, "mesh", "ztunnel")
    async with asyncio.timeout(10):
        assert str((await call).spiffe_id) == OF_WEB
    assert ("get", "/api/v1/namespaces/mesh/pods/ztunnel-1") not in api.calls


async def test_what_the_api_server_cannot_say_of_a_pod_is_no_refusal(api: FakeKubernetes, pods: Pods) -> None:
    api.fails = ApiUnavailable("away")
    gone = replace(WEB, pod=Named("web-0", "uid-gone"))
    lost = replace(ZTUNNEL, pod=Named("ztunnel-0", "uid-gone"))
    for call in (
        admitted(cluster(pods, gone)),
        cluster(pods).request(ZTUNNEL, replace(ASKED, impersonated="spiffe://a.test/ns/shop/sa/none")),
        cluster(pods).request(lost, replace(ASKED, impersonated=OF_WEB)),
    ):
        assert await refused(call) == (Unavailable, Reason.KUBERNETES_UNAVAILABLE)


async def test_what_is_not_known_of_pods_refuses_nobody(api: FakeKubernetes) -> None:
    api.fails = ApiUnavailable("away")
    pods = Pods(api, clock=FakeClock())  # never synced
    gone = replace(WEB, pod=Named("web-0", "uid-gone"))
    assert await admitted(cluster(pods, gone)) == gone
    call = cluster(pods, ZTUNNEL).request(ZTUNNEL, replace(ASKED, impersonated=OF_WEB))
    assert await refused(call) == (Unavailable, Reason.KUBERNETES_UNAVAILABLE)


async def test_while_pods_cannot_be_followed_it_is_said_that_answers_are_old(api: FakeKubernetes, pods: Pods) -> None:
    presence = Presence(pods)
    assert not list(presence.notes())
    while not api.watchers.get("/api/v1/pods"):
        await asyncio.sleep(0)
    api.fails = ApiUnavailable("away")
    api.break_watches(ApiUnavailable("away"))
    async with asyncio.timeout(10):
        while pods.trouble is None:
            await asyncio.sleep(0)
    assert ["last told of" in note.text for note in presence.notes()] == [True]
    assert (await cluster(pods).request(ZTUNNEL, replace(ASKED, impersonated=OF_WEB))).spiffe_id.path.endswith("/web")


async def test_ztunnel_asks_for_the_pods_on_its_node_before_they_run_too(pods: Pods) -> None:
    for wanted in (OF_WEB, "spiffe://a.test/ns/shop/sa/new"):
        request = await cluster(pods).request(ZTUNNEL, replace(ASKED, impersonated=wanted))
        assert request.spiffe_id == SpiffeId.parse(wanted)
        assert str(request.requested_by) == "spiffe://a.test/citadel/k8s/main/ztunnel/n1"
        assert request.charged_to == "uid-ztunnel"


@pytest.mark.parametrize(
    ("account", "wanted"),
    [
        (WEB, OF_WEB),  # not trusted, not even for its own name
        (replace(ZTUNNEL, namespace="shop"), OF_WEB),
        (replace(ZTUNNEL, pod=None), OF_WEB),
        (replace(ZTUNNEL, pod=Named("ztunnel-0", "uid-gone")), OF_WEB),
        (replace(ZTUNNEL, pod=Named("web-1", "uid-web")), OF_WEB),  # a pod of another account
        (replace(ZTUNNEL, node=Named("n2", "uid-n2")), OF_WEB),
        (ZTUNNEL, "spiffe://a.test/ns/shop/sa/far"),
        (ZTUNNEL, "spiffe://a.test/ns/shop/sa/done"),
        (ZTUNNEL, "spiffe://a.test/ns/shop/sa/none"),
        (ZTUNNEL, "spiffe://a.test/ns/kube-system/sa/web"),
        (ZTUNNEL, "spiffe://b.test/ns/shop/sa/web"),
        (ZTUNNEL, "spiffe://a.test/ns/shop/sa/web/more"),
        (ZTUNNEL, "spiffe://a.test/citadel/server"),
        (ZTUNNEL, "spiffe://a.test"),
        (ZTUNNEL, "web"),
        (ZTUNNEL, "x" * 100_000),
    ],
)
async def test_an_impersonation_is_refused_naming_both(pods: Pods, account: ProvenAccount, wanted: str) -> None:
    with pytest.raises(Unauthenticated) as error:
        await cluster(pods).request(account, replace(ASKED, impersonated=wanted))
    assert error.value.reason is Reason.K8S_IMPERSONATION_REFUSED
    assert account.key in error.value.message
    assert wanted[:200] in error.value.message
    assert len(error.value.message) < 700


async def test_a_pod_of_a_namespace_that_is_not_admitted_is_not_asked_for_though_it_is_there(
    api: FakeKubernetes, pods: Pods
) -> None:
    put_pod(api, "kube-system", "dns")
    while pods.with_uid("uid-dns") is None:
        await asyncio.sleep(0)
    wanted = "spiffe://a.test/ns/kube-system/sa/dns"
    with pytest.raises(Unauthenticated, match="of the namespace kube-system get no certificates") as error:
        await cluster(pods).request(ZTUNNEL, replace(ASKED, impersonated=wanted))
    assert error.value.reason is Reason.K8S_IMPERSONATION_REFUSED
    open_to_all = cluster(pods, namespaces={})
    assert str((await open_to_all.request(ZTUNNEL, replace(ASKED, impersonated=wanted))).spiffe_id) == wanted


async def test_nobody_asks_for_others_where_pods_are_not_followed_or_no_account_is_trusted(pods: Pods) -> None:
    for door in (cluster(None), cluster(pods, trusted_node_accounts=[])):
        call = door.request(ZTUNNEL, replace(ASKED, impersonated=OF_WEB))
        assert await refused(call) == (Unauthenticated, Reason.K8S_IMPERSONATION_REFUSED)


def test_a_call_names_its_cluster_unless_there_is_one_alone() -> None:
    main, east = cluster(None, cluster_id="Kubernetes"), cluster(None, name="east")
    assert IstioClusters([main]).of("") is main
    assert IstioClusters([main]).of("Kubernetes") is main
    both = IstioClusters([main, east])
    assert (both.of("Kubernetes"), both.of("main"), both.of("east")) == (main, main, east)
    for known, name in ((both, ""), (both, "west"), (IstioClusters([main]), "west"), (IstioClusters([]), "")):
        with pytest.raises(Unauthenticated) as error:
            known.of(name)
        assert error.value.reason is Reason.K8S_CLUSTER_UNKNOWN
