"""An offline root: made once, kept away from every server, and taken out to sign one authority per cluster (pure)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ca.authority.certificates import build_issuer, build_root
from ca.authority.soundness import domain_fault, fits, root_faults, trust_domain_of
from ca.keys.kinds import AuthorityKey, AuthorityPublicKey
from citadel.certification_path import extension_of
from citadel.errors import InvalidArgument, Reason
from citadel.name_constraints import is_one_host, is_refused_by_envoy
from citadel.spiffe import TrustDomain

_BACKDATE: Final = timedelta(hours=1)  # the machine that keeps a root is seldom on a network, and its clock drifts
_LEAST: Final = timedelta(hours=1)
_MOST: Final = timedelta(days=36525)
# It is the name of a folder, and stands in the subject.
_CLUSTER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


class AuthorityKeyKind(StrEnum):
    """Kinds of keys of authorities that are made offline."""

    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    RSA_4096 = "rsa-4096"


_MAKERS: Final[Mapping[AuthorityKeyKind, Callable[[], AuthorityKey]]] = {
    AuthorityKeyKind.EC_P256: lambda: ec.generate_private_key(ec.SECP256R1()),
    AuthorityKeyKind.EC_P384: lambda: ec.generate_private_key(ec.SECP384R1()),
    AuthorityKeyKind.RSA_4096: lambda: rsa.generate_private_key(public_exponent=65537, key_size=4096),
}


def new_authority_key(kind: AuthorityKeyKind) -> AuthorityKey:
    """A new key of this kind."""
    return _MAKERS[kind]()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAuthority:
    """What was signed for a cluster. `is_constrained` where it can sign for no other trust domain."""

    certificate: x509.Certificate
    is_constrained: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineRoot:
    """A root with its key. `trust_domain` is None for one over clusters of several trust domains."""

    certificate: x509.Certificate
    key: AuthorityKey
    trust_domain: TrustDomain | None

    @classmethod
    def make(
        cls, *, trust_domain: TrustDomain | None, kind: AuthorityKeyKind, now: datetime, lifetime: timedelta
    ) -> OfflineRoot:
        """A new one. Raises `InvalidArgument` (`authority_refused`)."""
        _check_lifetime(lifetime)
        key = new_authority_key(kind)
        certificate = build_root(trust_domain=trust_domain, key=key, now=now, lifetime=lifetime, backdate=_BACKDATE)
        return cls(certificate=certificate, key=key, trust_domain=trust_domain)

    @classmethod
    def taken(cls, certificate: x509.Certificate, key: AuthorityKey, *, now: datetime) -> OfflineRoot:
        """One that was made before, here or elsewhere. Raises `InvalidArgument` (`authority_refused`)."""
        for fault in root_faults(certificate, now=now):
            _refuse(f"the root {fault}", fix="make a new root with `citadel-cli root init`")
        if not fits(key, certificate):
            _refuse("the root's key does not fit its certificate", fix="take both from the same backup")
        constraints = extension_of(certificate, x509.BasicConstraints)
        if constraints is not None and constraints.path_length == 0:
            _refuse(
                "the root's path length is 0, so it can sign no authority of a cluster",
                fix="make a new root with `citadel-cli root init`",
            )
        named = trust_domain_of(certificate)
        return cls(
            certificate=certificate,
            key=key,
            trust_domain=TrustDomain.parse(named.removeprefix("spiffe://")) if named is not None else None,
        )

    def sign(
        self,
        *,
        cluster: str,
        trust_domain: TrustDomain,
        public_key: AuthorityPublicKey,
        now: datetime,
        lifetime: timedelta,
    ) -> ClusterAuthority:
        """An authority that may sign leaves of this trust domain and nothing else.

        Raises `InvalidArgument` (`authority_refused`).
        """
        check_cluster_name(cluster)
        _check_lifetime(lifetime)
        fault = domain_fault(self.certificate, trust_domain)
        if fault:
            _refuse(
                f"the root {fault}",
                fix="name its trust domain, or make a root for several with `citadel-cli root init`",
            )
        left = self.certificate.not_valid_after_utc - now
        if lifetime > left:
            _refuse(
                f"the root ends {self.certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}, and nothing outlives it",
                fix=f"--lifetime of at most {left.days}d, or a new root with `citadel-cli root init`",
            )
        is_constrained = self.trust_domain is None
        if is_constrained and not is_one_host(trust_domain):
            _refuse(
                f"a constraint to {trust_domain} would not be to this name alone",
                fix="take a name without a dot at its beginning or end, or two in a row",
            )
        if is_constrained and is_refused_by_envoy(trust_domain):
            _refuse(
                f"Envoy refuses every certificate of {trust_domain} whose authority has a name constraint",
                fix="take a name without an underscore that is no IP address, or make a root for this trust domain "
                "alone with `citadel-cli root init --trust-domain`",
            )
        certificate = build_issuer(
            trust_domain=trust_domain,
            public_key=public_key,
            root=self.certificate,
            root_key=self.key,
            not_before=now - _BACKDATE,
            not_after=now + lifetime,
            cluster=cluster,
            is_constrained=is_constrained,
        )
        return ClusterAuthority(certificate=certificate, is_constrained=is_constrained)


def check_cluster_name(cluster: str) -> None:
    """Raises `InvalidArgument` (`authority_refused`)."""
    if _CLUSTER.fullmatch(cluster) is None:
        _refuse(
            f"{cluster!r} cannot be the name of a cluster",
            fix="use up to 40 letters, digits, dots, dashes and underscores, a letter or digit first",
        )


def _check_lifetime(lifetime: timedelta) -> None:
    if not _LEAST <= lifetime <= _MOST:
        _refuse("the lifetime must be from 1h to 36525d", fix="name another --lifetime")


def _refuse(message: str, *, fix: str) -> NoReturn:
    raise InvalidArgument(Reason.AUTHORITY_REFUSED, message, fix=fix)
