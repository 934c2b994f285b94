"""Whether a cluster has the bundle of another trust domain, and how it comes by it (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from citadel.bundle import TrustBundle
from citadel.errors import Reason
from citadel.grade import Grade
from cli.trust.check import Check, Subject, Way
from cli.trust.facts import ClusterFacts, ForeignFacts, Source
from cli.trust.shared import counted

_ENDPOINT_FIXES: Final = {
    Reason.ENDPOINT_UNREACHABLE: "see that the address can be reached from the server, and that the other serves it",
    Reason.ENDPOINT_UNTRUSTED: "compare profile and endpoint SPIFFE ID with what the other serves; https_web needs an "
    "authority that is believed (federation.ca_file)",
    Reason.BUNDLE_OLDER: "ask its owner whether its server runs on an old copy of its data; if so, refresh with "
    "--force",
}


def federation_checks(believer: ClusterFacts, peer: ClusterFacts, way: Way) -> Iterator[Check]:
    """Everything about the foreign bundle; there is nothing to say of a folder, which knows of none."""
    if believer.source is Source.FOLDER or peer.trust_domain is None:
        return
    domain = peer.trust_domain
    known = believer.foreign.get(domain, ForeignFacts(bundle=None))

    def check(subject: Subject, grade: Grade, finding: str, fix: str = "") -> Check:
        return Check(subject=subject, way=way, grade=grade, finding=finding, fix=fix, at=way.believer)

    if known.bundle is None:
        told = f"that of {domain} was never fetched" if known.endpoint_url else f"there is none of {domain}"
        fix = "mend what the endpoint's finding says"
        if not known.endpoint_url:
            fix = (
                f"`citadel-cli federation create {domain} --url ... --bundle FILE`, or `citadel-cli bundle set "
                f"{domain} FILE --reason TEXT`: FILE of `citadel-cli bundle show --format spiffe` on {way.peer}"
            )
        yield check(Subject.BUNDLE, Grade.BAD, told, fix)
    else:
        yield check(Subject.BUNDLE, Grade.GOOD, f"that of {domain} is there")
        yield check(Subject.FRESHNESS, *_freshness(known.bundle, peer))
    if known.entries:
        yield check(Subject.ENTRIES, Grade.GOOD, f"{counted(known.entries, 'federates', 'federate')} with {domain}")
    else:
        told = f"none federates with {domain}: no workload is given its bundle"
        yield check(Subject.ENTRIES, Grade.BAD, told, f"`citadel-cli entry update ID --federates-with {domain}`")
    yield from (check(Subject.ENDPOINT, *found) for found in _endpoint(known, peer))


def _freshness(known: TrustBundle, peer: ClusterFacts) -> tuple[Grade, str, str]:
    refresh = f"`citadel-cli federation refresh {peer.trust_domain}`"
    if set(known.x509_authorities) == set(peer.roots):
        return Grade.GOOD, "it has the roots that the other has now", ""
    if known.sequence is None or peer.sequence is None:
        return Grade.WARNING, "it has other roots than the other has now", refresh
    if known.sequence > peer.sequence:
        told = f"its sequence is {known.sequence}, and the other went back to {peer.sequence}: is its data an old copy?"
        return Grade.WARNING, told, f"{refresh} with --force, once its owner says that this is right"
    if known.sequence == peer.sequence:
        told = f"both are of sequence {known.sequence}, with other roots: is this the cluster that is meant?"
        return Grade.WARNING, told, "compare both with `citadel-cli bundle show`"
    told = f"its sequence is {known.sequence}, and that of the other is {peer.sequence} now"
    return Grade.WARNING, told, refresh


def _endpoint(known: ForeignFacts, peer: ClusterFacts) -> Iterator[tuple[Grade, str, str]]:
    if not known.endpoint_url:
        if known.bundle is not None:
            told = "there is none: the bundle was set by hand, and follows no rotation"
            yield Grade.WARNING, told, f"`citadel-cli federation create {peer.trust_domain}`"
        return
    if known.failures:
        fix = next((fix for reason, fix in _ENDPOINT_FIXES.items() if reason.value == known.last_reason), "see its log")
        times = counted(known.failures, "time", "times")
        told = f"{known.endpoint_url} failed {times}: {known.last_error} ({known.last_reason})"
        yield Grade.WARNING, told, fix
    elif peer.source is not Source.FOLDER and peer.endpoint_profile not in ("", known.endpoint_profile):
        told = f"it is asked as {known.endpoint_profile}, and served as {peer.endpoint_profile}"
        yield Grade.WARNING, told, "create the federation anew with the profile that is served"
    else:
        yield Grade.GOOD, f"{known.endpoint_url} answers", ""
