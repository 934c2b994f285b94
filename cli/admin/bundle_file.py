"""A foreign bundle as its owner hands it over: SPIFFE's JSON, or the X.509 authorities in PEM."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography import x509

from citadel.bundle import MAX_BUNDLE_BYTES, TrustBundle
from citadel.errors import InvalidArgument, NotFound, Reason
from citadel.spiffe import TrustDomain

_PEM: Final = b"-----BEGIN CERTIFICATE-----"


def read_bundle(file: Path, trust_domain: TrustDomain) -> TrustBundle:
    """The bundle of `trust_domain` in this file (FED-26).

    Raises `InvalidArgument` (`bundle_malformed`), or `NotFound` where there is no such file.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BUNDLE_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFound(Reason.FILE_UNSAFE, f"there is no file {file}") from error
    except OSError as error:
        raise _malformed(f"{file} cannot be read: {error.strerror or error}") from error
    if _PEM not in data:
        return TrustBundle.from_json(trust_domain, data)
    try:
        authorities = tuple(x509.load_pem_x509_certificates(data))
    except ValueError as error:
        raise _malformed(f"{file} holds a certificate that cannot be read: {error}") from error
    return TrustBundle(trust_domain=trust_domain, x509_authorities=authorities)


def _malformed(message: str) -> InvalidArgument:
    return InvalidArgument(Reason.BUNDLE_MALFORMED, message)
