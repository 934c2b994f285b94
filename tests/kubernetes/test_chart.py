"""The chart: what it renders is what the programs take, no right is more than the code needs, nonsense is refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from ca.kubernetes.permissions import AGENT, Grant, grants, server_permissions
from ca.kubernetes.settings import ClusterSettings
from ca.settings import ServerSettings
from citadel.access.loading import load_policies
from citadel.config.loader import load
from citadel.config.types import Settings
from sds.settings import AgentSettings
from tests.chart import (
    CASES,
    CHART,
    LEAST,
    MANIFESTS,
    HelmRefusal,
    Values,
    lint,
    manifest,
    merged,
    one,
    render,
    template,
)


def written(text: str, path: Path) -> Path:
    path.write_text(text)
    return path


def server_settings(documents: list[dict[str, Any]], folder: Path) -> ServerSettings:
    config = one(documents, "ConfigMap", "citadel-server")
    return load(written(config["data"]["server.yaml"], folder / "server.yaml"), ServerSettings)


def has_agents(case: str) -> bool:
    enabled: bool = merged({"agent": {"enabled": True}}, CASES[case])["agent"]["enabled"]
    return enabled


@pytest.mark.parametrize("case", ["minimal", "sqlite", "second cluster", "everything"])
def test_helm_has_nothing_to_say_against_it(case: str) -> None:
    lint(merged(LEAST, CASES[case]))


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("second cluster", "maintenance")])
def test_the_server_takes_its_settings(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = render(CASES[case])
    settings = server_settings(documents, tmp_path)
    pod = one(documents, "Deployment", "citadel")["spec"]["template"]["spec"]
    for container in [*pod["initContainers"], *pod["containers"]]:
        monkeypatch.setenv("CITADEL_STORE_URL", "postgresql://u@h/d")
        names = {each["name"] for each in container["env"]}
        assert {settings.keys.kek_env, settings.store_url_env} - {None} == names - {"HOME"}
        mounted = [each["mountPath"] for each in container["volumeMounts"]]
        for path in (settings.data_dir, settings.listen.admin_socket, *files_of(settings)):
            assert any(path.is_relative_to(each) for each in mounted), path
    ports = {each["name"]: each["containerPort"] for each in pod["containers"][0]["ports"]}
    listen = settings.listen
    assert [ports[name] for name in ("bootstrap", "agents", "probes")] == [
        listen.bootstrap.port,
        listen.agents.port,
        listen.probes.port,
    ]
    assert settings.keys_in_database is (settings.store_url_env is not None)


def files_of(settings: ServerSettings) -> Iterator[Path]:
    if settings.kubernetes is not None:
        yield from (each.api.kubeconfig for each in settings.kubernetes.clusters if each.api.kubeconfig)
    if settings.vault is not None and settings.vault.ca_file is not None:
        yield settings.vault.ca_file


@pytest.mark.parametrize("case", [case for case in CASES if has_agents(case)])
def test_the_agent_takes_its_settings(case: str, tmp_path: Path) -> None:
    documents = render(CASES[case])
    data = one(documents, "ConfigMap", "citadel-agent")["data"]
    settings = load(written(data["agent.yaml"], tmp_path / "agent.yaml"), AgentSettings)
    pod = one(documents, "DaemonSet", "citadel-agent")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {each["name"]: Path(each["mountPath"]) for each in container["volumeMounts"]}
    assert settings.socket.parent == mounts["socket"]
    assert settings.data_dir.parent == mounts["data"]
    assert settings.admin_socket.parent == mounts["run"] != mounts["socket"], "workloads see the folder of the socket"
    assert settings.join.bundle_file is not None
    assert settings.join.bundle_file.parent == mounts["bundle"]
    assert settings.join.k8s_psat is not None
    assert settings.join.k8s_psat.token_file.parent == mounts["token"]
    assert settings.kubernetes is not None
    assert settings.kubernetes.node_name_env in {each["name"] for each in container["env"]}
    if settings.authz.policy_file is not None:
        assert settings.authz.policy_file.parent == mounts["policies"]
        load_policies(written(data["policies.yaml"], tmp_path / "policies.yaml"))


@pytest.mark.parametrize("case", [case for case in CASES if has_agents(case) and case != "second cluster"])
def test_agents_are_whom_the_server_lets_join(case: str, tmp_path: Path) -> None:
    documents = render(CASES[case])
    settings = server_settings(documents, tmp_path)
    assert settings.kubernetes is not None
    own = settings.kubernetes.clusters[0]
    pods = one(documents, "DaemonSet", "citadel-agent")
    account = f"{pods['metadata']['namespace']}/{pods['spec']['template']['spec']['serviceAccountName']}"
    assert own.joining is not None
    assert account in own.joining.service_accounts
    (token,) = (v for v in pods["spec"]["template"]["spec"]["volumes"] if v["name"] == "token")
    assert token["projected"]["sources"][0]["serviceAccountToken"]["audience"] == own.joining.audience
    joins = yaml.safe_load(one(documents, "ConfigMap", "citadel-agent")["data"]["agent.yaml"])["join"]
    assert joins["k8s_psat"]["cluster"] == own.name
    assert own.bundles is not None
    assert Path(joins["bundle_file"]).name in {each.key for each in own.bundles.config_maps}
    service = one(documents, "Service", "citadel")["metadata"]
    host = f"{service['name']}.{service['namespace']}.svc"
    assert joins["servers"] == [f"{host}:8443"]
    assert host in settings.advertise.dns_names


def granted(documents: Iterable[dict[str, Any]], account: str) -> set[Grant]:
    """What the roles that are bound to this service account allow."""
    known = {(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]): each for each in documents}
    found = set()
    for (kind, namespace, _), binding in known.items():
        if kind not in ("ClusterRoleBinding", "RoleBinding") or binding["subjects"][0]["name"] != account:
            continue
        role = known[(binding["roleRef"]["kind"], namespace, binding["roleRef"]["name"])]
        found |= {
            Grant(verb, group, resource, name, namespace or "")
            for rule in role["rules"]
            for verb in rule["verbs"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for name in rule.get("resourceNames", [""])
        }
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_roles_allow_what_the_code_calls_and_nothing_else(case: str, tmp_path: Path) -> None:
    documents = render(CASES[case])
    agent = granted(documents, "citadel-agent")
    assert agent == (set(grants(AGENT)) if has_agents(case) else set())
    needed = server_permissions(followed(case, tmp_path))
    assert granted(documents, "citadel") == set(grants(needed))


def followed(case: str, folder: Path) -> ClusterSettings:
    """The settings of the server that comes with these roles; of one in another cluster, where it has none here."""
    if CASES[case].get("remoteServer"):
        remote = {"name": "remote", "kubeconfigSecret": "x", "joining": {}, "workloads": {}, "bundles": {}}
        settings = server_settings(render({"remoteClusters": [remote]}), folder)
    else:
        settings = server_settings(render(CASES[case]), folder)
    clusters = settings.kubernetes.clusters if settings.kubernetes is not None else ()
    return clusters[-1 if CASES[case].get("remoteServer") else 0] if clusters else ClusterSettings(name="none")


REFUSED: Mapping[str, Values] = {
    "/trustDomain": {"trustDomain": "spiffe://example.org"},
    "/image": {"image": {"repository": ""}},
    "additional properties 'trustdomain'": {"trustdomain": "example.org"},
    "additional properties 'replica'": {"server": {"replica": 2}},
    "/image/tag": {"image": {"tag": "sha256:abc"}},
    "/image/digest": {"image": {"digest": "sha256:abc"}},
    "/server/replicas": {"server": {"replicas": 0}},
    "/server/kek/secretName": {"server": {"kek": {"secretName": "Bad_Name"}}},
    "/server/store/secretName": {"server": {"store": {"secretName": "Bad_Name"}}},
    "/server/store/kind": {"server": {"store": {"kind": "mysql"}}},
    "a standby needs PostgreSQL": {"server": {"store": {"kind": "sqlite"}, "replicas": 2}},
    "the disk of a pod goes with it": {"server": {"settings": {"keys": {"store": "disk"}}}},
    "server.kek.secretName is needed": {"server": {"kek": {"secretName": None}}},
    "/server/settings": {"server": {"settings": {"trust_domain": "other.example"}}},
    "/server/settings/keys": {"server": {"settings": {"keys": {"kek_file": "/etc/citadel/kek"}}}},
    "/server/extraPorts/0/port": {"server": {"extraPorts": [{"name": "x", "port": 8443}]}},
    "/server/advertise/agents": {"server": {"advertise": {"agents": "citadel.example.org"}}},
    "/cluster/name": {"cluster": {"name": "Main_1"}},
    "/cluster/workloads": {"cluster": {"workloads": {"template": "ns/{namespace}"}}},
    "/cluster/istio": {"cluster": {"istio": {"audiences": ["istio-ca"]}}},
    "/cluster/signers": {"cluster": {"signers": {}}},
    "/cluster/gateways": {"cluster": {"gateways": {"namespaces": ["a"]}}},
    "agents join by cluster.joining": {"cluster": {"joining": None}},
    "agent.namespace must not be that of the release": {"agent": {"namespace": "citadel"}},
    "/cluster/bundles/config_maps": {"cluster": {"bundles": {"config_maps": None}}},
    "none of cluster.bundles.config_maps": {"agent": {"bundle": {"name": "other"}}},
    "every cluster needs a name of its own": {"remoteClusters": [{"name": "main", "kubeconfigSecret": "x"}]},
    "/remoteClusters/0": {"remoteClusters": [{"name": "west"}]},
    "remoteServer is for a server in another cluster": {"remoteServer": True},
    "agent.servers.bootstrap and agent.servers.agents": {"server": {"enabled": False}},
    "/agent/settings": {"agent": {"settings": {"socket": "/run/citadel/s"}}},
    "/agent/socketDir": {"agent": {"socketDir": "run/citadel"}},
    "/server/extraPorts/0/name": {"server": {"extraPorts": [{"name": "--", "port": 9000}]}},
    "at '/server/extraPorts/0/name': 'not' failed": {"server": {"extraPorts": [{"name": "90", "port": 9000}]}},
    "/server/secrets/0/name": {"server": {"secrets": [{"name": "a" * 57, "secretName": "a"}]}},
    "two of the name vault": {"server": {"secrets": [{"name": "vault", "secretName": each} for each in "ab"]}},
    "federation (8447) is there twice": {
        "server": {"extraPorts": [{"name": "federation", "port": port} for port in (8446, 8447)]}
    },
    "other (8446) is there twice": {
        "server": {"extraPorts": [{"name": name, "port": 8446} for name in ("federation", "other")]}
    },
    "federation.listen is 0.0.0.0:8446, where the chart lets nobody in": {
        "server": {"settings": {"federation": {"listen": "0.0.0.0:8446"}}}
    },
    "oidc.listen is [::]:8447, where the chart lets nobody in": {
        "server": {
            "settings": {"oidc": {"listen": "[::]:8447"}},
            "extraPorts": [{"name": "federation", "port": 8446}],
        }
    },
    "/server/resources/limits/memory": {"server": {"resources": {"limits": {"memory": "lots"}}}},
    "/server/store/sqlite/size": {"server": {"store": {"sqlite": {"size": "10 GB"}}}},
    "/remoteClusters/0/name": {"remoteClusters": [{"name": "w" * 56, "kubeconfigSecret": "x"}]},
    "/cluster/bundles/config_maps/0/name": {
        "cluster": {"bundles": {"config_maps": [{"name": "Bad_Name", "key": "a"}]}}
    },
    "/cluster/bundles/config_maps/0/key": {"cluster": {"bundles": {"config_maps": [{"name": "a", "key": "a/b"}]}}},
    "spiffe://other.org/x is of another trust domain": {"cluster": {"workloads": {"template": "spiffe://other.org/x"}}},
    "/networkPolicy/clients/0": {"networkPolicy": {"clients": [{"foo": "bar"}]}},
    "/networkPolicy/metrics/0": {"networkPolicy": {"metrics": [{}]}},
    "there is a volume data already": {"server": {"extraVolumes": [{"name": "data", "emptyDir": {}}]}},
    "there is a volume secret-a already": {
        "server": {
            "secrets": [{"name": "a", "secretName": "a"}],
            "extraVolumes": [{"name": "secret-a", "emptyDir": {}}],
        }
    },
    "there is no volume parent": {"server": {"extraVolumeMounts": [{"name": "parent", "mountPath": "/run/parent"}]}},
    "mounted at /run/citadel/ already": {
        "server": {
            "extraVolumes": [{"name": "parent", "emptyDir": {}}],
            "extraVolumeMounts": [{"name": "parent", "mountPath": "/run/citadel/"}],
        }
    },
    "/server/extraVolumes/0": {"server": {"extraVolumes": [{"name": "parent"}]}},
    "/server/podLabels": {"server": {"podLabels": {"app.kubernetes.io/name": "other"}}},
    "/agent/podLabels": {"agent": {"podLabels": {"team": "a b"}}},
    "/server/topologySpreadConstraints/0": {"server": {"topologySpreadConstraints": [{"maxSkew": 1}]}},
    "/agent/seLinuxOptions": {"agent": {"seLinuxOptions": "spc_t"}},
    "/agent/maxUnavailable": {"agent": {"maxUnavailable": "0%"}},
    "/csi/resources": {"csi": {"resources": {"memory": "32Mi"}}},
    "/listenHost": {"listenHost": "127.0.0.1"},
    "/networkPolicy/enabled": {"networkPolicy": {"enabled": "yes"}},
}


@pytest.mark.parametrize("problem", REFUSED)
def test_nonsense_is_refused(problem: str) -> None:
    with pytest.raises(HelmRefusal) as refused:
        render(REFUSED[problem])
    assert problem in str(refused.value)


def own_cluster(values: Values) -> dict[str, Any]:
    config = one(render(values), "ConfigMap", "citadel-server")
    own: dict[str, Any] = yaml.safe_load(config["data"]["server.yaml"])["kubernetes"]["clusters"][0]
    return own


@pytest.mark.parametrize(
    ("cluster", "kept"),
    [
        ({}, ["citadel-bundle"]),
        ({"istio": {"cluster_id": "Kubernetes"}, "bundles": {}}, ["citadel-bundle", "istio-ca-root-cert"]),
        ({"istio": {}, "bundles": {"writes_per_second": 5}}, ["citadel-bundle", "istio-ca-root-cert"]),
        ({"bundles": {"config_maps": [{"name": "other", "key": "bundle.pem"}]}}, ["other"]),
        ({"istio": {}, "bundles": {"config_maps": [{"name": "other", "key": "bundle.pem"}]}}, ["other"]),
    ],
)
def test_proxies_of_istio_find_their_roots_wherever_istio_is_on_unless_they_are_left_to_others(
    cluster: Values, kept: list[str]
) -> None:
    values: Values = {"cluster": cluster, "agent": {"bundle": {"name": kept[0]}}}
    assert [each["name"] for each in own_cluster(values)["bundles"]["config_maps"]] == kept


@pytest.mark.parametrize(
    ("agents", "accounts"), [(True, ["citadel-agents/citadel-agent", "mesh/agent"]), (False, ["mesh/agent"])]
)
def test_further_agents_do_not_shut_out_those_of_the_release(agents: bool, accounts: list[str]) -> None:
    values: Values = {
        "cluster": {"joining": {"service_accounts": ["mesh/agent"]}},
        "agent": {"enabled": agents},
    }
    assert own_cluster(values)["joining"]["service_accounts"] == accounts


@pytest.mark.parametrize(
    ("values", "kind"), [(None, None), ({}, "LoadBalancer"), ({"annotations": {"a/b": "c"}}, "LoadBalancer")]
)
def test_callers_from_outside_get_a_service_where_it_is_set(values: Values | None, kind: str | None) -> None:
    services = [each for each in render({"server": {"external": values}}) if each["kind"] == "Service"]
    found = [each for each in services if each["metadata"]["name"] == "citadel-external"]
    assert [each["spec"]["type"] for each in found] == ([kind] if kind else [])


def test_a_child_has_the_socket_of_its_parents_agent_in_every_container() -> None:
    volume = {"name": "parent", "csi": {"driver": "parent.csi.example.org", "readOnly": True}}
    mount = {"name": "parent", "mountPath": "/run/citadel-parent", "readOnly": True}
    for maintenance in (False, True):
        server: Values = {"extraVolumes": [volume], "extraVolumeMounts": [mount], "maintenance": maintenance}
        spec = pod_template(render({"server": server}), "Deployment", "citadel")["spec"]
        assert volume in spec["volumes"]
        assert all(mount in each["volumeMounts"] for each in (*spec.get("initContainers", ()), *spec["containers"]))


@pytest.mark.parametrize(
    ("who", "kind", "name"), [("server", "Deployment", "citadel"), ("agent", "DaemonSet", "citadel-agent")]
)
def test_pods_and_accounts_carry_what_others_look_for(who: str, kind: str, name: str) -> None:
    documents = render({who: {"podLabels": {"team": "mesh"}, "serviceAccountAnnotations": {"a/b": "c"}}})
    assert pod_template(documents, kind, name)["metadata"]["labels"]["team"] == "mesh"
    assert "team" not in one(documents, kind, name)["spec"]["selector"]["matchLabels"]
    assert one(documents, "ServiceAccount", name)["metadata"]["annotations"] == {"a/b": "c"}


def test_agents_may_be_told_what_selinux_lets_them_do() -> None:
    pods = pod_template(render({"agent": {"seLinuxOptions": {"type": "spc_t"}}}), "DaemonSet", "citadel-agent")
    assert pods["spec"]["securityContext"]["seLinuxOptions"] == {"type": "spc_t"}


def test_an_image_can_be_held_to_its_digest() -> None:
    digest = "sha256:" + "0a" * 32
    pod = pod_template(render({"image": {"tag": "1.2.3", "digest": digest}}), "Deployment", "citadel")
    assert pod["spec"]["containers"][0]["image"] == f"registry.example.org/citadel:1.2.3@{digest}"


@pytest.mark.parametrize("size", ["10G", "10Gi", "1.5Gi", 1073741824])
def test_sizes_are_what_kubernetes_takes(size: str | int) -> None:
    documents = render({"server": {"store": {"kind": "sqlite", "sqlite": {"size": size}}}})
    asked = one(documents, "PersistentVolumeClaim", "citadel-data")["spec"]["resources"]["requests"]["storage"]
    assert asked == (size if isinstance(size, str) else float(size))


def test_servers_are_spread_by_what_tells_them_from_other_pods_where_nothing_else_is_said() -> None:
    zones: Values = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    named: Values = {**zones, "labelSelector": {"matchLabels": {"a": "b"}}}
    pods = pod_template(render({"server": {"topologySpreadConstraints": [zones, named]}}), "Deployment", "citadel")
    own, given = pods["spec"]["topologySpreadConstraints"]
    assert given == named
    assert own.items() >= zones.items()
    assert own["labelSelector"]["matchLabels"].items() <= pods["metadata"]["labels"].items()


@pytest.mark.parametrize("name", ["citadel-agent", "citadel-csi"])
def test_no_pod_is_made_for_a_node_that_could_not_run_it(name: str) -> None:
    """It would count as unavailable, and an upgrade would wait for it before all others."""
    spec = pod_template(render({"csi": {"enabled": True}}), "DaemonSet", name)["spec"]
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux"}
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert {each["key"]: (each["operator"], each["values"]) for each in term["matchExpressions"]} == {
        "eks.amazonaws.com/compute-type": ("NotIn", ["fargate"]),
        "type": ("NotIn", ["virtual-kubelet"]),
    }


def test_what_is_said_of_agents_and_of_the_registry_goes_for_the_csi_driver_too() -> None:
    values: Values = {
        "csi": {"enabled": True},
        "imagePullSecrets": [{"name": "registry"}],
        "image": {"pullPolicy": "Always"},
        "agent": {"priorityClassName": "", "maxUnavailable": "10%", "affinity": {"podAffinity": {}}},
    }
    for name in ("citadel-agent", "citadel-csi"):
        daemon_set = one(render(values), "DaemonSet", name)["spec"]
        assert daemon_set["updateStrategy"]["rollingUpdate"]["maxUnavailable"] == "10%"
        spec = daemon_set["template"]["spec"]
        assert spec["imagePullSecrets"] == [{"name": "registry"}]
        assert spec["affinity"]["podAffinity"] == {}
        assert "priorityClassName" not in spec
        for container in spec["containers"]:
            assert container["imagePullPolicy"] == "Always"
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()


def sections_of(model: type[Settings]) -> Iterator[tuple[str, type[Settings]]]:
    for name, field in model.model_fields.items():
        kinds = [each for each in (field.annotation, *get_args(field.annotation)) if isinstance(each, type)]
        yield from ((name, each) for each in kinds if issubclass(each, Settings))


def test_values_have_every_setting_of_a_cluster_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def resolved(node: dict[str, Any]) -> dict[str, Any]:
        for choice in node.get("anyOf", [node]):
            if "$ref" in choice:
                return resolved(schema["$defs"][choice["$ref"].rpartition("/")[2]])
            if choice.get("type") in ("object", "array"):
                return resolved(choice["items"]) if choice["type"] == "array" else choice
        raise AssertionError(node)

    def compare(node: dict[str, Any], model: type[Settings], *, without: Iterable[str] = ()) -> None:
        assert set(node["properties"]) == set(model.model_fields) - set(without), model
        assert node["additionalProperties"] is False
        for name, section in sections_of(model):
            if name not in without:
                compare(resolved(node["properties"][name]), section)

    compare(schema["properties"]["cluster"], ClusterSettings, without=["api"])


def test_settings_that_the_chart_makes_are_told_from_those_of_the_user() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    made = {
        "server": {"trust_domain", "data_dir", "store_url", "store_url_env", "listen", "advertise", "kubernetes"},
        "agent": {"trust_domain", "data_dir", "socket", "admin_socket", "servers", "join", "authz"}
        | {"probes", "probes_outside"},
    }
    for who, model in (("server", ServerSettings), ("agent", AgentSettings)):
        taken = set(schema["properties"][who]["properties"]["settings"]["properties"])
        assert taken == set(model.model_fields) - made[who]


def pod_template(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = one(documents, kind, name)["spec"]["template"]
    return found


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        ("Deployment", "citadel", {"server": {"settings": {"svids": {"default_lifetime": "30m"}}}}),
        ("DaemonSet", "citadel-agent", {"agent": {"settings": {"renewal": {"at": 0.4}}}}),
    ],
)
def test_a_change_of_settings_makes_new_pods_and_nothing_else_does(kind: str, name: str, values: Values) -> None:
    before = pod_template(render({}), kind, name)
    assert pod_template(render(values), kind, name) != before
    unrelated: Values = {"serviceMonitor": {"enabled": True}}
    assert pod_template(render(unrelated), kind, name) == before


@pytest.mark.parametrize("case", CASES)
def test_no_secret_is_made_that_another_rendering_would_change(case: str) -> None:
    documents = render(CASES[case])
    assert list(yaml.safe_load_all(template(merged(LEAST, CASES[case])))) == documents
    secrets = [each for each in documents if each["kind"] == "Secret"]
    # The token of a service account alone, which the cluster fills in.
    assert [each.get("data") for each in secrets] == ([None] if case == "second cluster" else [])


@pytest.mark.parametrize("name", ["postgresql", "sqlite"])
def test_the_plain_manifests_are_those_of_the_chart(name: str) -> None:
    assert (MANIFESTS / f"{name}.yaml").read_text() == manifest(name), "they are stale: make manifests"
