"""Which trust domains the authorities of a path may speak for (RFC 5280 section 4.2.1.10, names of the form URI)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from cryptography import x509

from citadel.certification_path import extension_of
from citadel.spiffe import TrustDomain


def forbidding(path: Sequence[x509.Certificate], trust_domain: TrustDomain) -> x509.Certificate | None:
    """The first authority of `path` that may not speak for identities of `trust_domain`; None where all may."""
    return next((each for each in path if not _permits(each, trust_domain)), None)


def constrains_uris(path: Sequence[x509.Certificate]) -> bool:
    """Whether an authority of `path` may speak for some URIs alone."""
    found = (extension_of(each, x509.NameConstraints) for each in path)
    return any(list(_hosts(each.permitted_subtrees)) or list(_hosts(each.excluded_subtrees)) for each in found if each)


def permitted_hosts(certificate: x509.Certificate) -> list[str]:
    """The hosts of the URIs that it may speak for; empty where it may for any."""
    constraints = extension_of(certificate, x509.NameConstraints)
    return list(_hosts(constraints.permitted_subtrees)) if constraints is not None else []


def is_one_host(trust_domain: TrustDomain) -> bool:
    """Whether a constraint to this name means itself alone: with a dot before it, it would mean all hosts below."""
    return all(trust_domain.name.split("."))


def is_refused_by_envoy(trust_domain: TrustDomain) -> bool:
    """Whether Envoy's TLS library refuses this name wherever URIs are constrained, though OpenSSL takes it.

    Measured with Envoy 1.40: an underscore, or four numbers as of an IPv4 address.
    """
    try:
        ipaddress.IPv4Address(trust_domain.name)
    except ValueError:
        return "_" in trust_domain.name
    return True


def _permits(certificate: x509.Certificate, trust_domain: TrustDomain) -> bool:
    constraints = extension_of(certificate, x509.NameConstraints)
    if constraints is None:
        return True
    permitted, excluded = list(_hosts(constraints.permitted_subtrees)), list(_hosts(constraints.excluded_subtrees))
    name = trust_domain.name
    return (not permitted or any(_fits(name, host) for host in permitted)) and not any(
        _fits(name, host) for host in excluded
    )


def _hosts(names: Iterable[x509.GeneralName] | None) -> Iterable[str]:
    return (name.value for name in names or () if isinstance(name, x509.UniformResourceIdentifier))


def _fits(name: str, host: str) -> bool:
    # With a dot before it all hosts below it are meant, and not itself; otherwise itself alone.
    host = host.lower()
    return name.endswith(host) and name != host if host.startswith(".") else name == host
