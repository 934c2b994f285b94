"""What is made of the facts about a cluster, where those of a real one cannot be had: other versions, other clocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from ca.kubernetes.check.facts import (
    Caller,
    ClusterFacts,
    Kept,
    Maker,
    Pod,
    ServerAccount,
    ServerFacts,
    Version,
    Worked,
)
from ca.kubernetes.check.rules import findings, twins
from ca.kubernetes.permissions import grants, server_permissions
from ca.kubernetes.settings import ClusterSettings
from ca.kubernetes.signers.roots import NO_ROOTS, root_notes
from citadel.bundle import TrustBundle
from citadel.entry import Entry
from citadel.errors import NotFound, Reason, Unavailable
from citadel.finding import Finding
from citadel.grade import Grade
from citadel.selector import Selector
from citadel.spiffe import TrustDomain
from tests import certificates

DENIED = Unavailable(Reason.KUBERNETES_DENIED, "no")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
OURS, OTHER = (certificates.bundle(certificates.root(name)) for name in ("ours", "another"))
ROOTS: dict[str, Any] = {"name": "roots", "key": "roots.pem"}


def cluster(**sections: Any) -> ClusterSettings:
    return ClusterSettings.model_validate({"name": "main", **sections})


def facts(its: ClusterSettings, **given: Any) -> ClusterFacts:
    """A cluster where all is well, but for what is given."""
    fit: dict[str, Any] = {
        "version": Version(1, 37),
        "caller": Caller(name="system:serviceaccount:citadel:citadel-server", time=NOW, asked_at=NOW),
        "kinds": {"certificatesigningrequests": "v1", "clustertrustbundles": "v1", "podcertificaterequests": "v1"},
        "allowed": dict.fromkeys(grants(server_permissions(its)), True),
        "namespaces": {"default": "", "shop": ""},
    }
    return ClusterFacts(**{**fit, **given})


def not_good(
    its: ClusterSettings, seen: ClusterFacts, bundle: TrustBundle | None = None, *worked: Worked
) -> list[tuple[str, str]]:
    """Where `bundle` is given a server trusts that; without `worked` it knows the cluster, and all is well."""
    server = None
    if bundle is not None:
        server = ServerFacts(bundle=bundle, clusters=dict.fromkeys(["main"], *worked or (Worked(),)))
    found = findings(seen, its, server=server)
    return [(each.grade.value, each.found) for each in found if each.grade is not Grade.GOOD]


@pytest.mark.parametrize(
    ("version", "expected"),
    [(Version(1, 21), [("bad", "1.21")]), (Version(1, 22), []), (Version(1, 37), [])],
)
def test_versions_that_lack_what_everything_needs_are_bad(version: Version, expected: list[tuple[str, str]]) -> None:
    its = cluster(joining={})
    assert not_good(its, facts(its, version=version)) == expected


def test_older_tokens_that_name_no_node_are_good_and_said() -> None:
    its = cluster(joining={})
    [version] = [each for each in findings(facts(its, version=Version(1, 29)), its) if each.subject == "version"]
    assert (version.grade, version.found) == (
        Grade.GOOD,
        "1.29; its tokens name no node, so that pod and node are asked for",
    )


def test_kinds_that_it_does_not_have_are_said_once_and_their_permissions_not_asked_for() -> None:
    its = cluster(
        bundles={"config_maps": [], "cluster_trust_bundle": {"name": "roots"}}, signers={"signer_name": "a.test/pods"}
    )
    allowed = {
        grant: "trustbundles" not in grant.resource and "podcertificate" not in grant.resource
        for grant in grants(server_permissions(its))
    }
    assert not_good(its, facts(its, kinds={"certificatesigningrequests": "v1"}, allowed=allowed)) == [
        ("bad", "the API server has no ClusterTrustBundle in v1 or v1beta1"),
        ("warning", "the API server has no PodCertificateRequest in v1 or v1beta1: none is answered"),
    ]


def test_who_does_not_tell_its_name_or_time_is_no_reason_to_stop() -> None:
    its = cluster(joining={})
    older = facts(its, caller=NotFound(Reason.KUBERNETES_NOT_FOUND, "no such kind"))
    assert not_good(its, older) == [("unknown", "the API server does not say: no such kind")]


@pytest.mark.parametrize(
    ("bundles", "is_told"),
    [(None, True), ({"config_maps": []}, True), ({"config_maps": [ROOTS]}, False)],
)
def test_a_signer_whose_clients_have_roots_from_nowhere_is_told(bundles: Any, *, is_told: bool) -> None:
    """Its answers hold none, so that only a bundle in the cluster tells them of a new one."""
    its = cluster(signers={"signer_name": "a.test/workload"}, bundles=bundles)
    found = not_good(its, facts(its))
    assert (("warning", NO_ROOTS) in found) is is_told
    assert [(note.text.startswith(NO_ROOTS), note.is_trouble) for note in root_notes(its)] == [(True, False)] * is_told


@pytest.mark.parametrize(("section", "grade"), [("gateways", "bad"), ("workloads", "warning"), ("istio", "warning")])
def test_a_namespace_that_the_chart_puts_a_role_into_has_to_be_there(section: str, grade: str) -> None:
    its = cluster(**{section: {"namespaces": {"include": ["shop", "edge"]}}})
    assert (grade, f"`{section}.namespaces` names edge, which is not there") in not_good(its, facts(its))


@pytest.mark.parametrize(
    ("sections", "is_told"),
    [
        ({"istio": {}}, True),
        ({"istio": {}, "bundles": {"config_maps": [ROOTS]}}, True),
        ({"istio": {}, "bundles": {}}, False),
        ({"bundles": {"config_maps": [ROOTS]}}, False),
    ],
)
def test_proxies_of_istio_without_their_roots_are_told(sections: dict[str, Any], *, is_told: bool) -> None:
    its = cluster(**sections)
    assert any("no proxy of Istio starts" in found for _, found in not_good(its, facts(its))) is is_told


def kept(text: str, *writers: str) -> Mapping[str, Kept]:
    return {each: Kept(data={"roots.pem": text}, writers=writers or ("citadel",)) for each in ("default", "shop")}


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        ("pem", OURS.to_pem().decode(), []),
        ("spiffe", OURS.to_json().decode(), []),
        ("pem", OTHER.to_pem().decode(), [("bad", "roots is not the trust bundle of the server in default, shop")]),
        ("spiffe", OTHER.to_json().decode(), [("bad", "roots is not the trust bundle of the server in default, shop")]),
        ("pem", "", [("bad", "roots is not the trust bundle of the server in default, shop")]),
        ("spiffe", "{", [("bad", "roots is not the trust bundle of the server in default, shop")]),
    ],
)
def test_a_config_map_says_what_the_server_trusts(form: str, text: str, expected: list[tuple[str, str]]) -> None:
    its = cluster(bundles={"config_maps": [{**ROOTS, "format": form}]})
    assert not_good(its, facts(its, maps={"roots": kept(text)}), OURS) == expected


def test_only_the_namespaces_that_are_meant_count() -> None:
    its = cluster(bundles={"config_maps": [{**ROOTS, "namespaces": {"include": ["shop"]}}]})
    one = {"shop": kept(OURS.to_pem().decode())["shop"], "default": Kept(data={}, writers=("helm",))}
    assert not_good(its, facts(its, maps={"roots": one}), OURS) == []


def test_what_cannot_be_looked_at_is_unknown_and_nothing_else() -> None:
    its = cluster(joining={}, bundles={"config_maps": [ROOTS]})
    denied = Unavailable(Reason.KUBERNETES_DENIED, "no")
    seen = facts(its, namespaces=denied, nodes=denied, agents=denied, maps={"roots": denied})
    assert {grade for grade, _ in not_good(its, seen)} == {"unknown"}


def agent(name: str, *, is_ready: bool = True, waits_for: str = "") -> Pod:
    return Pod(
        name=f"citadel-agents/{name}",
        node=f"node-{name}",
        is_ready=is_ready,
        waits_for=waits_for,
        audiences=frozenset({"citadel"}),
        sees_processes=True,
    )


@pytest.mark.parametrize(
    ("agents", "expected"),
    [
        ((agent("a"), agent("b")), []),
        (
            (agent("a"), agent("b", is_ready=False, waits_for="ImagePullBackOff")),
            [("warning", "none is ready on 1 of 2 nodes: node-b; citadel-agents/b (ImagePullBackOff)")],
        ),
        ((agent("a"),), [("warning", "none is ready on 1 of 2 nodes: node-b")]),
        ((agent("a", is_ready=False),), [("bad", "none is ready of citadel-agents/a")]),
    ],
)
def test_agents_work_where_one_is_ready_and_nodes_without_are_named(
    agents: tuple[Pod, ...], expected: list[tuple[str, str]]
) -> None:
    its = cluster(joining={})
    assert not_good(its, facts(its, agents=agents, nodes=frozenset({"node-a", "node-b"}))) == expected


SERVER = ServerAccount(exists=True, makers=(Maker(kind="deployment", namespace="citadel", name="citadel", wanted=2),))


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (replace(SERVER, pods=(agent("a"),)), []),
        (
            replace(SERVER, pods=(agent("a"), agent("b", is_ready=False))),
            [("warning", "not ready: citadel-agents/b")],
        ),
        (
            SERVER,
            [("bad", "deployment citadel/citadel has none of its 2 pods: pod security, a quota or a webhook")],
        ),
        (
            ServerAccount(exists=True),
            [("unknown", "none has citadel/citadel: the server runs elsewhere, or not at all")],
        ),
        (
            ServerAccount(exists=True, makers=DENIED, pods=DENIED),
            [("unknown", "what pods need of secrets is not looked at: no"), ("unknown", "the server's are not looked")],
        ),
    ],
)
def test_what_runs_as_the_servers_account_is_told(server: ServerAccount, expected: list[tuple[str, str]]) -> None:
    its = cluster(workloads={})
    seen = facts(its, server=server)
    found = [each for each in findings(seen, its, account="citadel/citadel") if each.grade is not Grade.GOOD]
    assert [each.grade.value for each in found] == [grade for grade, _ in expected]
    assert all(each.found.startswith(words) for each, (_, words) in zip(found, expected, strict=True)), found


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("warning", "a/b is not there: nothing is installed yet, or it has another name")),
        ({"maps": {"roots": kept("", "trust-manager")}}, ("warning", "a/b is not there: nothing is installed yet")),
        ({"maps": {"roots": DENIED}, "agents": DENIED}, ("warning", "a/b is not there: nothing is installed yet")),
        ({"maps": {"roots": kept("")}}, ("bad", "a/b is not there, but the ConfigMap default/roots is: ")),
        ({"agents": (agent("n1"),)}, ("bad", "a/b is not there, but the agent citadel-agents/n1 is: ")),
    ],
)
def test_an_account_that_is_not_there_is_bad_where_something_is_installed(
    given: dict[str, Any], expected: tuple[str, str]
) -> None:
    its = cluster(bundles={"config_maps": [ROOTS]})
    found = findings(facts(its, server=ServerAccount(exists=False), **given), its, account="a/b")
    [account] = [each for each in found if each.subject == "service account"]
    assert account.grade.value == expected[0]
    assert account.found.startswith(expected[1])


def test_two_clusters_with_the_same_keys_for_tokens_are_one() -> None:
    its = cluster()
    one, other, unknown = frozenset({"a"}), frozenset({"b"}), Unavailable(Reason.KUBERNETES_DENIED, "no")
    keys = {"first": one, "second": other, "third": one, "fourth": unknown, "fifth": unknown}
    found: Mapping[str, Finding] = twins({name: facts(its, issuer_keys=each) for name, each in keys.items()})
    assert list(found) == ["third"]
    assert found["third"].found == "third and first are one: tokens of one are good for the other"


@pytest.mark.parametrize(
    ("worked", "expected"),
    [
        (Worked(admitted=2, entries=2), []),
        (
            Worked(admitted=3, entries=2, problems=1, shown=("shop/web-1: its name is too long",)),
            [("warning", "1 of 3 pods have no entry, or not all of one: shop/web-1: its name is too long")],
        ),
        (Worked(admitted=3, entries=2), [("warning", "2 entries for 3 pods that are to have one")]),
        (Worked(trouble=Unavailable(Reason.KUBERNETES_DENIED, "list pods")), [("bad", "list pods")]),
    ],
)
def test_how_the_server_that_runs_fares_is_told(worked: Worked, expected: list[tuple[str, str]]) -> None:
    its = cluster(workloads={})
    assert not_good(its, facts(its), OURS, worked) == expected


def test_a_server_that_runs_with_other_settings_is_told() -> None:
    its = cluster(workloads={})
    found = findings(facts(its), its, server=ServerFacts(bundle=OURS, clusters={}))
    assert [each.found for each in found if each.grade is Grade.WARNING] == ["the one that runs knows no cluster main"]


def entry(name: str, parent: str, *selectors: str, origin: str = "") -> Entry:
    domain = TrustDomain.parse("a.test")
    return Entry(
        id=name,
        spiffe_id=domain.member(name),
        parent_id=domain.member(*parent.split("/")),
        selectors=frozenset(map(Selector.parse, selectors)),
        origin=origin,
    )


def test_entries_below_agents_of_kubernetes_that_ask_for_nothing_of_pods_are_named() -> None:
    """Pods are given none of them, which who upgrades has to know before their certificates end."""
    own, other = ("citadel/agent/k8s_psat/main/n1", "citadel/agent/k8s_psat/west/n1")
    entries = (
        entry("fleet", "citadel/server", "node:k8s-cluster:main"),
        entry("system", "citadel/server", "node:k8s-ns:citadel-agents"),
        entry("far", "citadel/server", "node:k8s-cluster:west"),
        entry("bare", "citadel/server", "node:agent-name:vm"),
        entry("asks-1", own, "unix:user:web"),
        entry("asks-2", "fleet", "unix:user:web"),
        entry("asks-3", "system", "unix:user:web"),
        entry("good-1", own, "unix:user:web", "k8s:ns:shop"),
        entry("good-2", "far", "unix:user:web"),
        entry("good-3", other, "unix:user:web"),
        entry("good-4", "bare", "unix:user:web"),
        entry("good-5", "citadel/agent/vm", "unix:user:web"),
        entry("good-6", own, "unix:user:web", origin="k8s:main/shop/web-1"),
    )
    its = cluster(joining={})
    server = ServerFacts(bundle=OURS, clusters={"main": Worked()}, entries=entries)
    [told] = [each.found for each in findings(facts(its), its, server=server) if each.subject == "entries"]
    assert told == (
        "no pod is given 3 of the entries, which ask for nothing of pods: "
        "asks-1 (spiffe://a.test/asks-1), asks-2 (spiffe://a.test/asks-2), asks-3 (spiffe://a.test/asks-3)"
    )
