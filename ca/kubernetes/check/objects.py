"""From the namespaces, service accounts and agents of a cluster to findings (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ca.kubernetes.check.access import lacking_findings
from ca.kubernetes.check.facts import Account, AgentPod, ClusterFacts, Seen
from ca.kubernetes.check.subject import Subject
from ca.kubernetes.permissions import AGENT, grants
from ca.kubernetes.settings import ClusterSettings, NodeJoiningSettings
from citadel.errors import CitadelError, Reason
from citadel.finding import Finding, bad, failed, good, unknown, warning
from citadel.kubernetes.settings import NamespaceSettings

_SHOWN: Final = 3
_ANOTHER: Final = "ask as an administrator of the cluster (--kubeconfig)"


def shown(names: Iterator[str] | list[str] | set[str]) -> str:
    """A few of them, and how many more there are."""
    ordered = sorted(names)
    more = len(ordered) - _SHOWN
    return ", ".join(ordered[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def namespace_findings(facts: ClusterFacts, cluster: ClusterSettings) -> Iterator[Finding]:
    """Whether the namespaces that settings name are there."""
    meant = dict(_meant(cluster))
    if not meant or facts.namespaces is None:
        return
    if isinstance(facts.namespaces, CitadelError):
        yield unknown(Subject.NAMESPACE, f"not looked at: {facts.namespaces.message}; {_ANOTHER}")
        return
    is_good = True
    for setting, namespaces in meant.items():
        lacking = [each for each in namespaces.listed or () if each not in facts.namespaces]
        if lacking:
            is_good = False
            yield _lacking(setting, lacking)
        elif not any(namespaces.admits(each) for each in facts.namespaces):
            is_good = False
            found = f"`{setting}` admits none of the {len(facts.namespaces)} namespaces"
            yield warning(Subject.NAMESPACE, found, "compare its patterns with `kubectl get namespaces`")
    if is_good:
        yield good(Subject.NAMESPACE, "those that the settings mean are there")


def _lacking(setting: str, namespaces: list[str]) -> Finding:
    found = f"`{setting}` names {shown(namespaces)}, which is not there"
    if setting == "gateways.namespaces":
        fix = "create it first, or correct the setting: the chart puts a Role there, and its install ends half way"
        return bad(Subject.NAMESPACE, Reason.KUBERNETES_NOT_FOUND, found, fix)
    return warning(Subject.NAMESPACE, found, "correct it")


def agent_findings(facts: ClusterFacts, cluster: ClusterSettings) -> Iterator[Finding]:
    """Whether agents could join, and on how many nodes they are."""
    if cluster.joining is None:
        return
    for name, account in facts.accounts.items():
        yield from _account(name, account, cluster.joining)
    if facts.agents is not None:
        yield from _agents(facts, facts.agents, cluster.joining)


def _meant(cluster: ClusterSettings) -> Iterator[tuple[str, NamespaceSettings]]:
    for name, section in (
        ("workloads", cluster.workloads),
        ("istio", cluster.istio),
        ("signers", cluster.signers),
        ("gateways", cluster.gateways),
    ):
        if section is not None:
            yield f"{name}.namespaces", section.namespaces
    for each in cluster.bundles.config_maps if cluster.bundles is not None else ():
        yield f"bundles.config_maps ({each.name})", each.namespaces


def _account(name: str, account: Account, joining: NodeJoiningSettings) -> Iterator[Finding]:
    if isinstance(account.exists, CitadelError):
        yield unknown(Subject.ACCOUNT, f"whether {name} is there is not looked at: {account.exists.message}")
    elif not account.exists:
        fix = "install the agents, or correct `joining.service_accounts`"
        yield bad(Subject.ACCOUNT, Reason.KUBERNETES_NOT_FOUND, f"{name} of the agents is not there", fix)
        return
    else:
        yield good(Subject.ACCOUNT, f"{name} is there")
        yield _trial(name, account.trial, joining.audience)
    if isinstance(account.allowed, CitadelError):
        yield unknown(Subject.PERMISSION, f"what {name} may is not looked at: {account.allowed.message}; {_ANOTHER}")
    else:
        yield from lacking_findings(account.allowed, grants(AGENT), who=name)


def _trial(name: str, error: CitadelError | None, audience: str) -> Finding:
    if error is None:
        return good(Subject.AUDIENCE, f"a token of {name} for {audience} is good")
    if error.reason is Reason.KUBERNETES_DENIED:
        return unknown(Subject.AUDIENCE, f"not tried: nobody but an administrator makes a token of {name}")
    return failed(Subject.AUDIENCE, error, "look at --service-account-issuer and --api-audiences of the API server")


def _agents(facts: ClusterFacts, agents: Seen[tuple[AgentPod, ...]], joining: NodeJoiningSettings) -> Iterator[Finding]:
    if isinstance(agents, CitadelError):
        yield unknown(Subject.AGENTS, f"not looked at: {agents.message}; {_ANOTHER}")
        return
    if not agents:
        yield warning(Subject.AGENTS, "there is none", "install the agents, where pods are to get identities from them")
        return
    if wrong := [each.name for each in agents if joining.audience not in each.audiences]:
        found = f"no token for {joining.audience} is projected into {shown(wrong)}"
        fix = f"project a serviceAccountToken with the audience {joining.audience}, as the chart does"
        yield bad(Subject.AUDIENCE, Reason.K8S_TOKEN_AUDIENCE, found, fix)
    if blind := [each.name for each in agents if not each.sees_processes]:
        found = f"{shown(blind)} cannot see the processes of other pods"
        yield bad(Subject.AGENTS, Reason.POD_UNSEEN, found, "set `hostPID: true` for its pods, as the chart does")
    yield _coverage(facts.nodes, agents)


def _coverage(nodes: Seen[frozenset[str]] | None, agents: tuple[AgentPod, ...]) -> Finding:
    ready = {each.node for each in agents if each.is_ready}
    look = "look at the agents' pods there, and at taints that keep them away"
    if nodes is None or isinstance(nodes, CitadelError):
        if not ready:
            return warning(Subject.AGENTS, f"none of {len(agents)} is ready", look)
        return good(Subject.AGENTS, f"ready on {len(ready)} nodes; how many there are is not looked at")
    lacking = nodes - ready
    if lacking:
        found = f"none is ready on {len(lacking)} of {len(nodes)} nodes: {shown(set(lacking))}"
        return warning(Subject.AGENTS, found, look)
    return good(Subject.AGENTS, f"ready on all {len(nodes)} nodes")
