"""From what is installed to run the server and the agents to findings (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ca.kubernetes.check.facts import Caller, ClusterFacts, Maker, Pod, Seen
from ca.kubernetes.check.subject import Subject
from citadel.errors import CitadelError, Reason
from citadel.finding import Finding, bad, good, unknown, warning

_SHOWN: Final = 3
_SECRETS: Final = "make it, as the page of the chart says (deploy/helm/README.md); who has lost one restores it"
ANOTHER: Final = "ask as an administrator of the cluster (--kubeconfig)"


def shown(names: Iterator[str] | list[str] | set[str]) -> str:
    """A few of them, and how many more there are."""
    ordered = sorted(names)
    more = len(ordered) - _SHOWN
    return ", ".join(ordered[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def account_findings(facts: ClusterFacts, account: str) -> Iterator[Finding]:
    """Whether the service account of the server is there: without it nothing is installed, and nothing bad about it.

    Unless something is installed: then it has another name, and nothing of what was to be looked at is.
    """
    if (server := facts.server) is None:
        return
    if isinstance(server.exists, CitadelError):
        yield unknown(Subject.ACCOUNT, f"whether {account} is there is not looked at: {server.exists.message}")
    elif server.exists:
        yield good(Subject.ACCOUNT, f"{account} is there")
    else:
        fix = f"name the right one: `kubectl get serviceaccounts -n {account.partition('/')[0]}`"
        if left := facts.left_by_one:
            found = f"{account} is not there, but {left} is: the server has another account, or was taken away"
            yield bad(Subject.ACCOUNT, Reason.KUBERNETES_NOT_FOUND, found, f"{fix}; or delete what an install has left")
        else:
            found = f"{account} is not there: nothing is installed yet, or it has another name"
            yield warning(Subject.ACCOUNT, found, f"after an install {fix}")
        yield unknown(Subject.PERMISSION, f"what {account} may is not asked for before it is there")


def server_pod_findings(facts: ClusterFacts, account: str) -> Iterator[Finding]:
    """Whether what runs as the server's account could start, and did."""
    server, caller = facts.server, facts.caller
    if server is None:
        # The server itself, where it asks, has started.
        if isinstance(caller, Caller) and not caller.name.startswith("system:serviceaccount:"):
            yield unknown(
                Subject.PODS, "the server's, and their secrets, are not looked at: name its --service-account"
            )
        return
    if server.exists is False:
        return
    yield from maker_findings(server.makers)
    makers = server.makers if isinstance(server.makers, tuple) else ()
    if isinstance(server.pods, CitadelError):
        yield unknown(Subject.PODS, f"the server's are not looked at: {server.pods.message}; {ANOTHER}")
    elif not server.pods and any(each.wanted for each in makers):
        yield no_pods(makers, Subject.PODS)
    elif not server.pods:
        yield unknown(Subject.PODS, f"none has {account}: the server runs elsewhere, or not at all")
    elif not any(each.is_ready for each in server.pods):
        yield none_ready(server.pods, Subject.PODS)
    elif not_ready := [each for each in server.pods if not each.is_ready]:
        yield warning(Subject.PODS, f"not ready: {told(not_ready)}", _look(not_ready))
    else:
        yield good(Subject.PODS, f"the server is ready: {shown([each.name for each in server.pods])}")


def maker_findings(makers: Seen[tuple[Maker, ...]]) -> Iterator[Finding]:
    """Whether what makes pods has the secrets that they need."""
    if isinstance(makers, CitadelError):
        yield unknown(Subject.SECRETS, f"what pods need of secrets is not looked at: {makers.message}; {ANOTHER}")
        return
    for each in makers:
        if isinstance(each.lacking, CitadelError):
            found = f"whether those of {each.namespace}/{each.name} are there is not looked at: {each.lacking.message}"
            yield unknown(Subject.SECRETS, f"{found}; {ANOTHER}")
        elif each.lacking:
            found = f"{each.namespace} lacks {shown(list(each.lacking))}: no pod of {each.name} starts without"
            yield bad(Subject.SECRETS, Reason.KUBERNETES_NOT_FOUND, found, _SECRETS)


def no_pods(makers: tuple[Maker, ...], subject: Subject) -> Finding:
    """Where there should be some: the API server takes the Deployment or DaemonSet, and then not its pods."""
    one = next((each for each in makers if each.wanted), makers[0])
    it = f"{one.kind} {one.namespace}/{one.name}"
    look = f"`kubectl -n {one.namespace} describe {one.kind} {one.name}` has the reason"
    if not one.wanted:
        return bad(subject, Reason.NOT_READY, f"{it} wants none", f"compare its nodeSelector with the nodes: {look}")
    why = one.refused or "pod security, a quota or a webhook refuses them, or they were not made yet"
    return bad(subject, Reason.KUBERNETES_REFUSED, f"{it} has none of its {one.wanted} pods: {why}", look)


def none_ready(pods: tuple[Pod, ...], subject: Subject) -> Finding:
    """Where there are some."""
    return bad(subject, Reason.NOT_READY, f"none is ready of {told(list(pods))}", _look(list(pods)))


def told(pods: list[Pod]) -> str:
    """Their names, each with what it waits for."""
    return shown([each.name + (f" ({each.waits_for})" if each.waits_for else "") for each in pods])


def _look(pods: list[Pod]) -> str:
    namespace, _, name = min(each.name for each in pods).partition("/")
    return f"`kubectl -n {namespace} describe pod {name}`, and `kubectl -n {namespace} logs {name} --all-containers`"
