"""What a proxy asks for, parsed at the border. None of it says who the proxy is."""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Self

from ca.issuance.csr import MAX_CSR_BYTES
from citadel._wire import istio_ca_pb2 as pb
from citadel.errors import CitadelError, InvalidArgument, Reason

_IMPERSONATED: Final = "ImpersonatedIdentity"
_MOST_LETTERS: Final = MAX_CSR_BYTES * 3 // 2  # of PEM, which is a third longer than DER, and has line breaks
_PEM: Final = re.compile(
    r"\s*-----BEGIN (?P<label>(?:NEW )?CERTIFICATE REQUEST)-----\r?\n"
    r"(?P<base64>[A-Za-z0-9+/=\r\n]+)"
    r"-----END (?P=label)-----\s*"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A PKCS#10 request in DER, not looked into yet; how many seconds, None for the default; for whom, None for itself.

    The seconds can be more than a date can hold.
    """

    csr: bytes
    seconds: int | None
    impersonated: str | None

    @classmethod
    def parse(cls, request: pb.IstioCertificateRequest) -> Self:
        """Raises `InvalidArgument`: `csr_too_large`, `csr_malformed`, `request_malformed`."""
        seconds = request.validity_duration if request.validity_duration > 0 else None
        return cls(csr=_der(request.csr), seconds=seconds, impersonated=_impersonated(request))

    def lifetime(self, *, most: timedelta) -> timedelta | None:
        """How long, None for the default. Raises `InvalidArgument` (`lifetime_refused`) above `most`, as Istio does."""
        if self.seconds is None:
            return None
        if self.seconds > most // timedelta(seconds=1):
            raise InvalidArgument(
                Reason.LIFETIME_REFUSED,
                f"{self.seconds} s are asked for; at most {most // timedelta(seconds=1)} s are given",
                fix="lower the proxy's SECRET_TTL, or raise istio.max_lifetime in the server's settings",
            )
        return timedelta(seconds=self.seconds)


def _der(pem: str) -> bytes:
    if len(pem) > _MOST_LETTERS:
        raise InvalidArgument(Reason.CSR_TOO_LARGE, f"the certificate request has {len(pem)} characters")
    found = _PEM.fullmatch(pem)
    if found is None:
        raise _malformed("the certificate request is not one PKCS#10 request in PEM")
    try:
        return binascii.a2b_base64("".join(found["base64"].split()), strict_mode=True)
    except binascii.Error as error:
        raise _malformed("the certificate request is not base64 within its PEM") from error


def _impersonated(request: pb.IstioCertificateRequest) -> str | None:
    fields = request.metadata.fields
    if _IMPERSONATED not in fields:
        return None
    value = fields[_IMPERSONATED]
    if value.WhichOneof("kind") != "string_value" or not value.string_value:
        raise InvalidArgument(Reason.REQUEST_MALFORMED, f"metadata.{_IMPERSONATED} is no SPIFFE ID")
    return value.string_value


def _malformed(message: str) -> CitadelError:
    return InvalidArgument(Reason.CSR_MALFORMED, message)
