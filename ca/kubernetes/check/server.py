"""From what a running server says of itself to findings (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ca.kubernetes.check.facts import Seen, ServerFacts, Worked
from ca.kubernetes.check.subject import Subject
from ca.kubernetes.settings import ClusterSettings
from citadel.errors import CitadelError
from citadel.finding import Finding, failed, good, unknown, warning

_SHOWN: Final = 3


def server_findings(server: Seen[ServerFacts] | None, cluster: ClusterSettings) -> Iterator[Finding]:
    """Whether the server that runs knows this cluster and works there. Before an install none runs."""
    if server is None:
        return
    if isinstance(server, CitadelError):
        yield unknown(Subject.SERVER, f"not asked how it fares, nor what it trusts: {server.message}")
        return
    worked = server.clusters.get(cluster.name)
    if worked is None:
        fix = "restart it with these settings, or name the admin socket of another one (--socket)"
        yield warning(Subject.SERVER, f"the one that runs knows no cluster {cluster.name}", fix)
        return
    if worked.trouble is not None:
        yield failed(Subject.SERVER, worked.trouble, "do what is said above, or look at /ready and its log")
    else:
        yield good(Subject.SERVER, "it reaches the API server")
    if worked.admitted is not None:
        yield _entries(worked, worked.admitted)


def _entries(worked: Worked, admitted: int) -> Finding:
    if worked.problems:
        shown = "; ".join(worked.shown[:_SHOWN])
        found = f"{worked.problems} of {admitted} pods have no entry, or not all of one: {shown}"
        return warning(Subject.SERVER, found, "rename what is said, or narrow `workloads` so that it is not admitted")
    if worked.entries != admitted:
        found = f"{worked.entries} entries for {admitted} pods that are to have one"
        return warning(Subject.SERVER, found, "ask again: they follow within seconds, or its log says why not")
    return good(Subject.SERVER, f"all {admitted} pods that are to have an entry have one")
