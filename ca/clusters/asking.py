"""What a child may ask for in an issuing authority. Pure; every refusal names its rule."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from cryptography import x509

from ca.issuance.csr import public_key_of
from citadel._wire import clusters_pb2 as pb
from citadel.certification_path import UNREADABLE
from citadel.config.types import format_duration
from citadel.errors import InvalidArgument, PermissionDenied, Reason
from citadel.spiffe import TrustDomain
from citadel.wire import from_duration

_MOST_SHOWN: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that fits. Of the CSR only its public key is used; `key_id` is what certificates will call it by."""

    csr: bytes
    key_id: bytes
    lifetime: timedelta


def check_request(request: pb.SignIssuerRequest, *, trust_domain: TrustDomain, longest: timedelta) -> Asked:
    """Raises `PermissionDenied` (`downstream_refused`), or `InvalidArgument` with the reason of a CSR that is none."""
    if request.trust_domain != trust_domain.name:
        raise _refused(
            f"an authority of {_shown(request.trust_domain)} is asked for, and this parent is of {trust_domain.name}",
            fix="set trust_domain of the child to that of its parent",
        )
    lifetime = from_duration(request.lifetime) if request.HasField("lifetime") else longest
    if lifetime <= timedelta(0):
        raise InvalidArgument(Reason.REQUEST_MALFORMED, "a lifetime must be longer than nothing")
    if lifetime > longest:
        raise _refused(
            f"a life of {format_duration(lifetime)} is asked for, and authorities here live {format_duration(longest)}",
            fix=f"set authorities.issuer_lifetime of the child to {format_duration(longest)} or less",
        )
    key = public_key_of(request.csr)
    _check_extensions(request.csr, trust_domain)
    key_id = x509.SubjectKeyIdentifier.from_public_key(key).digest
    return Asked(csr=request.csr, key_id=key_id, lifetime=lifetime)


def _check_extensions(der: bytes, trust_domain: TrustDomain) -> None:
    try:
        for extension in x509.load_der_x509_csr(der).extensions:
            match extension.value:
                case x509.BasicConstraints() as constraints if constraints.ca and constraints.path_length != 0:
                    raise _refused(
                        f"a path length of {_length(constraints)} is asked for: a child's authority signs leaves alone",
                        fix="ask for pathlen:0, or for none",
                    )
                case x509.SubjectAlternativeName() as names:
                    _check_names(names, trust_domain)
                case _:
                    pass  # what it asks for beside that is not granted either, and harms nobody
    except UNREADABLE as error:
        raise InvalidArgument(
            Reason.CSR_MALFORMED, "the extensions of the certificate request cannot be read"
        ) from error


def _check_names(names: x509.SubjectAlternativeName, trust_domain: TrustDomain) -> None:
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
        if uri != str(trust_domain.id):
            raise _refused(
                f"the certificate request names {_shown(uri)}, and an authority here is {trust_domain.id}",
                fix="set trust_domain of the child to that of its parent",
            )


def _length(constraints: x509.BasicConstraints) -> str:
    return "any length" if constraints.path_length is None else str(constraints.path_length)


def _shown(text: str) -> str:
    return repr(text[:_MOST_SHOWN])


def _refused(message: str, *, fix: str) -> PermissionDenied:
    return PermissionDenied(Reason.DOWNSTREAM_REFUSED, message, fix=fix)
