"""From how the API server is reached and what may be done there to findings (pure)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Final

from ca.kubernetes.check.facts import EVERYTHING, Allowed, Caller, ClusterFacts, Seen, Version
from ca.kubernetes.check.subject import Subject
from ca.kubernetes.permissions import AGENT, NEWER_KINDS, Grant, Permission, grants, server_permissions
from ca.kubernetes.settings import ClusterSettings
from citadel.errors import CitadelError, Reason
from citadel.finding import Finding, bad, failed, good, unknown, warning

_OLDEST: Final = Version(1, 22)  # the first with projected tokens and server-side apply for good
_NAMES_NODES: Final = Version(1, 30)  # from here tokens name the node of their pod
_TOLD_TO: Final = timedelta(seconds=1.5)  # it tells whole seconds, and the question takes a moment
_APART: Final = timedelta(seconds=10)
_TOO_FAR: Final = timedelta(minutes=1)
_ROLES: Final = "install the roles of the chart (deploy/helm/citadel) for these settings"
_KIND_NAMES: Final[Mapping[str, str]] = {
    "clustertrustbundles": "ClusterTrustBundle",
    "podcertificaterequests": "PodCertificateRequest",
}


def agent_access_findings(facts: ClusterFacts) -> Iterator[Finding]:
    """Whether an agent is let in, and may follow pods."""
    yield from reach_findings(facts)
    if isinstance(facts.version, CitadelError) or _is_unknown(facts.caller):
        return
    if isinstance(facts.allowed, CitadelError):
        yield failed(Subject.PERMISSION, facts.allowed, "look why the API server does not review access")
        return
    yield from lacking_findings(facts.allowed, grants(AGENT), who=who_asks(facts))


def who_asks(facts: ClusterFacts) -> str:
    """The caller as the API server knows it."""
    return facts.caller.name if isinstance(facts.caller, Caller) else "this caller"


def reach_findings(facts: ClusterFacts) -> Iterator[Finding]:
    """Whether it answers, what it is, and who we are there."""
    version, caller = facts.version, facts.caller
    if isinstance(version, CitadelError):
        fix = (
            "compare the kubeconfig, or the service account of this pod, with the API server, and look whether it runs"
        )
        yield failed(Subject.REACHED, version, fix)
        return
    yield good(Subject.REACHED, "its certificate verifies")
    yield _version(version)
    if isinstance(caller, CitadelError):
        if _is_unknown(caller):
            fix = "mount the token of the service account, or make a new kubeconfig"
            yield failed(Subject.CALLER, caller, fix)
        else:  # before 1.28 nobody can ask for that
            yield unknown(Subject.CALLER, f"the API server does not say: {caller.message}")
    elif caller is not None:
        yield good(Subject.CALLER, caller.name)
        yield _clock(caller)


def kind_findings(kinds: Seen[Mapping[str, str]], cluster: ClusterSettings) -> Iterator[Finding]:
    """Whether it has the kinds of objects that not every version has."""
    wanted = {
        "clustertrustbundles": cluster.bundles is not None and cluster.bundles.cluster_trust_bundle is not None,
        "podcertificaterequests": cluster.signers is not None and cluster.signers.pod_certificates,
    }
    for resource in NEWER_KINDS:
        if not wanted[resource]:
            continue
        kind = _KIND_NAMES[resource]
        if isinstance(kinds, CitadelError):
            yield failed(Subject.KINDS, kinds, "look why the API server does not list its kinds")
        elif resource in kinds:
            yield good(Subject.KINDS, f"{kind} in {kinds[resource]}")
        else:
            yield _lacks_kind(kind)


def permission_findings(
    allowed: Seen[Allowed], cluster: ClusterSettings, kinds: Seen[Mapping[str, str]], *, who: str
) -> Iterator[Finding]:
    """Whether all that the settings need is granted to `who`, and not the whole cluster."""
    needed = server_permissions(cluster)
    if isinstance(allowed, CitadelError):
        yield failed(Subject.PERMISSION, allowed, "ask as somebody who may review access (--kubeconfig)")
        return
    absent = set() if isinstance(kinds, CitadelError) else set(NEWER_KINDS) - kinds.keys()
    asked = {grant: why for grant, why in grants(needed).items() if grant.resource.partition("/")[0] not in absent}
    yield from lacking_findings(allowed, asked, who=who)
    if allowed.get(EVERYTHING):
        fix = "run the server as a service account of its own, with the roles of the chart"
        yield warning(Subject.PERMISSION, f"{who} may do everything in this cluster, and the server needs little", fix)


def lacking_findings(allowed: Allowed, asked: Mapping[Grant, tuple[Permission, ...]], *, who: str) -> Iterator[Finding]:
    """One for each thing that is denied and what for, or one that all is there."""
    lacking: dict[tuple[str, str], list[Grant]] = defaultdict(list)
    for grant, needed in asked.items():
        if not allowed.get(grant):
            settings = " and ".join(dict.fromkeys(f"`{each.setting}`" for each in needed))
            lacking[settings, needed[0].lacking].append(grant)
    for (settings, effect), denied in lacking.items():
        found = f"{who} may not {', '.join(map(str, denied))}: {effect}"
        yield bad(Subject.PERMISSION, Reason.KUBERNETES_DENIED, found, f"{_ROLES}: {settings} needs it")
    if not lacking:
        yield good(Subject.PERMISSION, f"{who} may do all {len(asked)} things that are needed")


def _is_unknown(caller: Seen[Caller] | None) -> bool:
    return isinstance(caller, CitadelError) and caller.reason is Reason.KUBERNETES_LOGIN_REFUSED


def _version(version: Version) -> Finding:
    if (version.major, version.minor) < (_OLDEST.major, _OLDEST.minor):
        return bad(Subject.VERSION, Reason.KUBERNETES_REFUSED, f"{version}", f"upgrade it to {_OLDEST} or later")
    if (version.major, version.minor) < (_NAMES_NODES.major, _NAMES_NODES.minor):
        return good(Subject.VERSION, f"{version}; its tokens name no node, so that pod and node are asked for")
    return good(Subject.VERSION, str(version))


def _clock(caller: Caller) -> Finding:
    if caller.time is None:
        return unknown(Subject.CLOCK, "the API server does not tell its time")
    ahead = caller.time - caller.asked_at
    seconds = round(ahead.total_seconds())
    told = f"that of the API server is {abs(seconds)} s {'ahead' if seconds > 0 else 'behind'}"
    fix = "set both clocks right (NTP)"
    if abs(ahead) > _TOO_FAR:
        why = "tokens and certificates are refused as expired or not valid yet"
        return bad(Subject.CLOCK, Reason.KUBERNETES_REFUSED, f"{told}: {why}", fix)
    if abs(ahead) > _APART:
        return warning(Subject.CLOCK, told, fix)
    return good(Subject.CLOCK, told if abs(ahead) > _TOLD_TO else "the same")


def _lacks_kind(kind: str) -> Finding:
    found = f"the API server has no {kind} in v1 or v1beta1"
    if kind == "ClusterTrustBundle":
        fix = "leave `bundles.cluster_trust_bundle` out, or upgrade to 1.37"
        return bad(Subject.KINDS, Reason.KUBERNETES_NOT_FOUND, found, fix)
    fix = "set `signers.pod_certificates` to false, or upgrade to 1.37"
    return warning(Subject.KINDS, f"{found}: none is answered", fix)
