"""From the namespaces, service accounts and agents of a cluster to findings (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from ca.kubernetes.check.access import lacking_findings
from ca.kubernetes.check.facts import Account, ClusterFacts, Maker, Pod, Seen
from ca.kubernetes.check.pods import ANOTHER, maker_findings, no_pods, none_ready, shown, told
from ca.kubernetes.check.subject import Subject
from ca.kubernetes.permissions import AGENT, grants
from ca.kubernetes.settings import ClusterSettings, NodeJoiningSettings
from citadel.errors import CitadelError, Reason
from citadel.finding import Finding, bad, failed, good, unknown, warning
from citadel.kubernetes.settings import NamespaceSettings

_TOO_STRICT: Final = frozenset({"baseline", "restricted"})  # neither admits the host's processes and folders


def namespace_findings(facts: ClusterFacts, cluster: ClusterSettings) -> Iterator[Finding]:
    """Whether the namespaces that settings name are there."""
    meant = dict(_meant(cluster))
    if not (meant or facts.accounts) or facts.namespaces is None:
        return
    if isinstance(facts.namespaces, CitadelError):
        yield unknown(Subject.NAMESPACE, f"not looked at: {facts.namespaces.message}; {ANOTHER}")
        return
    yield from _pod_security(facts.namespaces, facts.accounts)
    is_good = bool(meant)
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
        yield from _account(name, account, cluster.joining, is_installed=facts.is_installed)
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


def _pod_security(namespaces: Mapping[str, str], accounts: Iterable[str]) -> Iterator[Finding]:
    """Whether those of the agents admit agents."""
    for name in dict.fromkeys(each.partition("/")[0] for each in accounts):
        if (enforced := namespaces.get(name)) in _TOO_STRICT:
            found = f"pod security of {name} enforces {enforced}, which refuses agents: they see processes of the node"
            fix = f"`kubectl label --overwrite namespace {name} pod-security.kubernetes.io/enforce=privileged`"
            yield bad(Subject.NAMESPACE, Reason.KUBERNETES_REFUSED, found, fix)


def _account(name: str, account: Account, joining: NodeJoiningSettings, *, is_installed: bool) -> Iterator[Finding]:
    if isinstance(account.exists, CitadelError):
        yield unknown(Subject.ACCOUNT, f"whether {name} is there is not looked at: {account.exists.message}")
    elif not account.exists:
        fix = "install the agents, or correct `joining.service_accounts`"
        if not is_installed:
            yield warning(Subject.ACCOUNT, f"{name} of the agents is not there yet", fix)
            return
        yield bad(Subject.ACCOUNT, Reason.KUBERNETES_NOT_FOUND, f"{name} of the agents is not there", fix)
        return
    else:
        yield good(Subject.ACCOUNT, f"{name} is there")
        yield _trial(name, account.trial, joining.audience)
    if isinstance(account.allowed, CitadelError):
        yield unknown(Subject.PERMISSION, f"what {name} may is not looked at: {account.allowed.message}; {ANOTHER}")
    else:
        yield from lacking_findings(account.allowed, grants(AGENT), who=name)


def _trial(name: str, error: CitadelError | None, audience: str) -> Finding:
    if error is None:
        return good(Subject.AUDIENCE, f"a token of {name} for {audience} is good")
    if error.reason is Reason.KUBERNETES_DENIED:
        return unknown(Subject.AUDIENCE, f"not tried: nobody but an administrator makes a token of {name}")
    return failed(Subject.AUDIENCE, error, "look at --service-account-issuer and --api-audiences of the API server")


def _agents(facts: ClusterFacts, agents: Seen[tuple[Pod, ...]], joining: NodeJoiningSettings) -> Iterator[Finding]:
    if isinstance(agents, CitadelError):
        yield unknown(Subject.AGENTS, f"not looked at: {agents.message}; {ANOTHER}")
        return
    makers = facts.agent_makers
    if isinstance(makers, tuple):  # the server itself may not look, and needs not where there are agents
        yield from maker_findings(makers)
    if not agents:
        yield _no_agent(makers, is_installed=facts.is_installed)
        return
    if wrong := [each.name for each in agents if joining.audience not in each.audiences]:
        found = f"no token for {joining.audience} is projected into {shown(wrong)}"
        fix = f"project a serviceAccountToken with the audience {joining.audience}, as the chart does"
        yield bad(Subject.AUDIENCE, Reason.K8S_TOKEN_AUDIENCE, found, fix)
    if blind := [each.name for each in agents if not each.sees_processes]:
        found = f"{shown(blind)} cannot see the processes of other pods"
        yield bad(Subject.AGENTS, Reason.POD_UNSEEN, found, "set `hostPID: true` for its pods, as the chart does")
    yield _coverage(facts.nodes, agents)


def _no_agent(makers: Seen[tuple[Maker, ...]], *, is_installed: bool) -> Finding:
    if isinstance(makers, tuple) and makers:
        return no_pods(makers, Subject.AGENTS)
    fix = "install the agents, or set `joining` to null where no pod is to get an identity from one"
    if not is_installed:
        return warning(Subject.AGENTS, "there is none yet", fix)
    return bad(Subject.AGENTS, Reason.NOT_READY, "there is none, and `joining` is set", fix)


def _coverage(nodes: Seen[frozenset[str]] | None, agents: tuple[Pod, ...]) -> Finding:
    ready = {each.node for each in agents if each.is_ready}
    if not ready:
        return none_ready(agents, Subject.AGENTS)
    if nodes is None or isinstance(nodes, CitadelError):
        return good(Subject.AGENTS, f"ready on {len(ready)} nodes; how many there are is not looked at")
    if lacking := nodes - ready:
        waiting = [each for each in agents if each.node in lacking and each.waits_for]
        why = f"; {told(waiting)}" if waiting else ""
        found = f"none is ready on {len(lacking)} of {len(nodes)} nodes: {shown(set(lacking))}{why}"
        return warning(Subject.AGENTS, found, "look at the agents' pods there, and at taints that keep them away")
    return good(Subject.AGENTS, f"ready on all {len(nodes)} nodes")
