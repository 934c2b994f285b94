"""From the entries that people registered to findings (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from ca.kubernetes.check.pods import shown
from ca.kubernetes.check.subject import Subject
from citadel.entry import Entry
from citadel.finding import Finding, warning
from citadel.reserved import k8s_agent_id, server_id
from citadel.selector import Selector

_OF_PODS: Final = "k8s"  # the type of the selectors that only a pod has
_CLUSTER: Final = "node:k8s-cluster"


def entry_findings(entries: Iterable[Entry], cluster: str) -> Iterator[Finding]:
    """Which of them no pod of the cluster is given, as they ask for nothing of pods."""
    entries = [each for each in entries if not each.origin]
    aliases = {each.spiffe_id for each in entries if _is_alias(each) and _names(each, cluster)}
    of_nodes = [
        f"{each.id} ({each.spiffe_id})"
        for each in entries
        if (each.parent_id in aliases or _is_of_agent(each, cluster))
        and not any(selector.type == _OF_PODS for selector in each.selectors)
    ]
    if of_nodes:
        found = f"no pod is given {len(of_nodes)} of the entries, which ask for nothing of pods: {shown(of_nodes)}"
        fix = "add a selector such as k8s:ns:shop where they are for pods; for processes of the node they are right"
        yield warning(Subject.ENTRIES, found, fix)


def _is_alias(entry: Entry) -> bool:
    return entry.parent_id == server_id(entry.parent_id.trust_domain)


def _names(alias: Entry, cluster: str) -> bool:
    """Whether it may be one of nodes of this cluster, by what only nodes of Kubernetes have."""
    named = {each for each in alias.selectors if each.kind == _CLUSTER}
    if named:
        return named == {Selector.parse(f"{_CLUSTER}:{cluster}")}
    return any(each.kind.startswith("node:k8s-") for each in alias.selectors)


def _is_of_agent(entry: Entry, cluster: str) -> bool:
    *_, node = entry.parent_id.path.split("/")
    return entry.parent_id == k8s_agent_id(entry.parent_id.trust_domain, cluster, node)
