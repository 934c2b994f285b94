"""From the ConfigMaps with the trust bundle to findings (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from ca.kubernetes.bundles.rivals import ending
from ca.kubernetes.check.facts import ClusterFacts, Kept
from ca.kubernetes.check.pods import shown
from ca.kubernetes.check.subject import Subject
from ca.kubernetes.settings import ClusterSettings, ConfigMapSettings
from ca.kubernetes.signers.roots import KEEP_THEM, NO_ROOTS
from citadel.bundle import TrustBundle
from citadel.certification_path import UNREADABLE
from citadel.errors import CitadelError, Reason
from citadel.finding import Finding, bad, good, unknown, warning
from citadel.kubernetes.ports import FIELD_MANAGER

_OF_ISTIO: Final = ("istio-ca-root-cert", "root-cert.pem")
_NO_ROOTS_OF_ISTIO: Final = (
    "`bundles` keeps no {name: istio-ca-root-cert, key: root-cert.pem}, without which no proxy of Istio starts"
)


def map_findings(facts: ClusterFacts, cluster: ClusterSettings, bundle: TrustBundle | None) -> Iterator[Finding]:
    """Whether each is where it is meant to be, says what the server trusts, and is written by nobody else."""
    if cluster.signs_without_roots:
        yield warning(Subject.CONFIG_MAP, NO_ROOTS, KEEP_THEM)
    if cluster.istio is not None and not _keeps_those_of_istio(cluster):
        yield warning(Subject.CONFIG_MAP, _NO_ROOTS_OF_ISTIO, "list it in `bundles.config_maps`, unless others keep it")
    for each in cluster.bundles.config_maps if cluster.bundles is not None else ():
        kept = facts.maps.get(each.name)
        if kept is None:
            continue
        if isinstance(kept, CitadelError):
            yield unknown(Subject.CONFIG_MAP, f"{each.name} is not looked at: {kept.message}")
            continue
        meant = {namespace: found for namespace, found in kept.items() if each.namespaces.admits(namespace)}
        yield from _missing(each, meant, facts)
        yield from _rivals(each, meant)
        if meant and bundle is not None:
            yield _content(each, meant, bundle)


def _keeps_those_of_istio(cluster: ClusterSettings) -> bool:
    return cluster.bundles is not None and _OF_ISTIO in {(each.name, each.key) for each in cluster.bundles.config_maps}


def _missing(each: ConfigMapSettings, kept: Mapping[str, Kept], facts: ClusterFacts) -> Iterator[Finding]:
    if facts.namespaces is None or isinstance(facts.namespaces, CitadelError):
        yield unknown(Subject.CONFIG_MAP, f"{each.name} is in {len(kept)} namespaces; whether in all is not looked at")
        return
    meant = {namespace for namespace in facts.namespaces if each.namespaces.admits(namespace)}
    if lacking := meant - kept.keys():
        found = f"{each.name} is not in {len(lacking)} of {len(meant)} namespaces: {shown(lacking)}"
        yield warning(Subject.CONFIG_MAP, found, "a server that runs makes it: look at /ready and its log")
    else:
        yield good(Subject.CONFIG_MAP, f"{each.name} is in all {len(meant)} namespaces that are meant")


def _rivals(each: ConfigMapSettings, kept: Mapping[str, Kept]) -> Iterator[Finding]:
    rivals = {writer for found in kept.values() for writer in found.writers} - {FIELD_MANAGER}
    if not rivals:
        return
    where = [namespace for namespace, found in kept.items() if rivals.intersection(found.writers)]
    found = f"{each.name} is also written by {shown(rivals)}, in {shown(where)}"
    yield bad(Subject.WRITERS, Reason.KUBERNETES_CONFLICT, found, ending(each.name))


def _content(each: ConfigMapSettings, kept: Mapping[str, Kept], bundle: TrustBundle) -> Finding:
    roots = _fingerprints(bundle.x509_authorities)
    other = [namespace for namespace, found in kept.items() if _roots(found, each, bundle) != roots]
    if other:
        found = f"{each.name} is not the trust bundle of the server in {shown(other)}"
        fix = "look at /ready and the log of the server; something else may write it, or it is of another server"
        return bad(Subject.CONFIG_MAP, Reason.KUBERNETES_CONFLICT, found, fix)
    return good(Subject.CONFIG_MAP, f"{each.name} is the trust bundle of the server in all {len(kept)} namespaces")


def _roots(kept: Kept, each: ConfigMapSettings, bundle: TrustBundle) -> frozenset[bytes] | None:
    """What it trusts; None where it cannot be read."""
    text = kept.data.get(each.key, "").encode()
    try:
        if each.format == "spiffe":
            return _fingerprints(TrustBundle.from_json(bundle.trust_domain, text).x509_authorities)
        return _fingerprints(x509.load_pem_x509_certificates(text))
    except (CitadelError, *UNREADABLE):
        return None


def _fingerprints(authorities: tuple[x509.Certificate, ...] | list[x509.Certificate]) -> frozenset[bytes]:
    return frozenset(each.fingerprint(hashes.SHA256()) for each in authorities)
