"""A certificate request for an authority that is signed offline: its key, and that it asks for no more than it gets.

Nothing but the key is taken from it; but who asks for more expects more, and is to hear so now.
"""

from __future__ import annotations

from typing import Final, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from ca.issuance.csr import public_key_of
from ca.keys.kinds import AuthorityPublicKey
from citadel.certification_path import UNREADABLE
from citadel.errors import InvalidArgument, Reason
from citadel.spiffe import TrustDomain

_WEAK_HASHES: Final = (hashes.MD5, hashes.SHA1)


def requested_key(csr: bytes, trust_domain: TrustDomain) -> AuthorityPublicKey:
    """The key of a certificate request in PEM or DER for an authority of this trust domain.

    Raises `InvalidArgument` (`csr_malformed`, `csr_bad_signature`, `csr_key_refused`, `authority_refused`).
    """
    try:
        request = x509.load_pem_x509_csr(csr) if b"-----BEGIN" in csr else x509.load_der_x509_csr(csr)
        der = request.public_bytes(Encoding.DER)
        uris, path_length = _uris(request), _path_length(request)
        is_weak = isinstance(request.signature_hash_algorithm, _WEAK_HASHES)
    except UNREADABLE as error:
        raise InvalidArgument(
            Reason.CSR_MALFORMED, "the certificate request is not one PKCS#10 request in PEM or DER"
        ) from error
    key = public_key_of(der)
    if is_weak:
        _refuse("is signed with a weak hash", fix="sign it with SHA-256 or better")
    for uri in uris:
        if uri != str(trust_domain.id):
            _refuse(
                f"asks for {uri}, and this authority would be of {trust_domain.id}",
                fix="name the right --trust-domain, or ask for its own trust domain or none",
            )
    if path_length != 0:
        _refuse(
            f"asks for {'no limit' if path_length is None else path_length} as path length; "
            "an authority of a cluster has 0, since it signs leaves and nothing else",
            fix="ask for CA:TRUE, pathlen:0, or for no basic constraints",
        )
    return key


def _uris(request: x509.CertificateSigningRequest) -> list[str]:
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _path_length(request: x509.CertificateSigningRequest) -> int | None:
    """What it asks for; 0 where it leaves that to us."""
    try:
        constraints = request.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return 0
    return constraints.path_length if constraints.ca else 0


def _refuse(problem: str, *, fix: str) -> NoReturn:
    raise InvalidArgument(Reason.AUTHORITY_REFUSED, f"the certificate request {problem}", fix=fix)
