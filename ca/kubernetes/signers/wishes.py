"""What a request asks for beside a certificate for its key (pure).

Names and extensions are ignored, since the identity comes from elsewhere. Whoever asks for what is never given could
not use what it would get, and is told so: being an authority, and usages that no SVID has.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from cryptography import x509

from ca.issuance.csr import WorkloadPublicKey, public_key_of
from citadel.certification_path import UNREADABLE
from citadel.errors import PermissionDenied, Reason

GIVEN: Final = frozenset({"digital signature", "key encipherment", "key agreement", "server auth", "client auth"})


def key_in(request: bytes) -> WorkloadPublicKey:
    """The public key of a PKCS#10 request in DER that asks for nothing that is never given.

    Raises as `public_key_of`, and `PermissionDenied` (`csr_wish_refused`).
    """
    key = public_key_of(request)
    if _asks_to_be_an_authority(x509.load_der_x509_csr(request)):
        raise PermissionDenied(
            Reason.CSR_WISH_REFUSED, "the request asks to be an authority", fix="ask without basicConstraints CA"
        )
    return key


def check_usages(usages: Collection[str]) -> None:
    """Raises `PermissionDenied` (`csr_wish_refused`) for a usage that no SVID has."""
    if others := sorted(set(usages) - GIVEN):
        named = ", ".join(others)
        raise PermissionDenied(
            Reason.CSR_WISH_REFUSED,
            f"the request asks for usages that are not given: {named}",
            fix=f"ask for some of: {', '.join(sorted(GIVEN))}",
        )


def _asks_to_be_an_authority(request: x509.CertificateSigningRequest) -> bool:
    try:
        extensions = request.extensions
    except UNREADABLE:
        return False  # cannot be read, and is ignored like whatever else it asks for
    for each in extensions:
        if isinstance(each.value, x509.BasicConstraints) and each.value.ca:
            return True
        if isinstance(each.value, x509.KeyUsage) and (each.value.key_cert_sign or each.value.crl_sign):
            return True
    return False
