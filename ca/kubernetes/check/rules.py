"""From all facts about the clusters of a server to findings (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ca.kubernetes.check.access import kind_findings, permission_findings, reach_findings, who_asks
from ca.kubernetes.check.entries import entry_findings
from ca.kubernetes.check.facts import ClusterFacts, Seen, ServerFacts
from ca.kubernetes.check.maps import map_findings
from ca.kubernetes.check.objects import agent_findings, namespace_findings
from ca.kubernetes.check.pods import account_findings, server_pod_findings
from ca.kubernetes.check.server import server_findings
from ca.kubernetes.check.subject import Subject
from ca.kubernetes.settings import ClusterSettings
from citadel.errors import CitadelError, Reason
from citadel.finding import Finding, bad


def findings(
    facts: ClusterFacts,
    cluster: ClusterSettings,
    *,
    account: str | None = None,
    server: Seen[ServerFacts] | None = None,
) -> Sequence[Finding]:
    """About one cluster, in the order in which to read them.

    `account` is whose permissions were asked for, where not the caller's own; `server` is the one that runs.
    """
    found = [*reach_findings(facts)]
    if isinstance(facts.version, CitadelError) or facts.kinds is None:
        return found
    who = account or who_asks(facts)
    found += kind_findings(facts.kinds, cluster)
    found += account_findings(facts, who)
    if not facts.lacks_account:
        found += permission_findings(facts.allowed, cluster, facts.kinds, who=who)
    found += namespace_findings(facts, cluster)
    found += agent_findings(facts, cluster)
    found += server_pod_findings(facts, who)
    found += map_findings(facts, cluster, server.bundle if isinstance(server, ServerFacts) else None)
    found += server_findings(server, cluster)
    if isinstance(server, ServerFacts) and cluster.joining is not None:
        found += entry_findings(server.entries, cluster.name)
    return found


def twins(all_facts: Mapping[str, ClusterFacts]) -> Mapping[str, Finding]:
    """For each cluster that is the same as one before it, by the keys that sign its tokens, a finding that says so."""
    seen: dict[frozenset[str], str] = {}
    found: dict[str, Finding] = {}
    for name, facts in all_facts.items():
        keys = facts.issuer_keys
        if isinstance(keys, CitadelError) or not keys:
            continue
        if (first := seen.setdefault(keys, name)) != name:
            told = f"{name} and {first} are one: tokens of one are good for the other"
            fix = "give each cluster an `api` of its own, or leave one of them out"
            found[name] = bad(Subject.CLUSTER, Reason.CONFIG_INVALID, told, fix)
    return found
