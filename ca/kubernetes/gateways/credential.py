"""What a gateway is given, made of what a secret holds: in the forms that Istio's gateways take (pure).

Only what was read and checked goes on, written anew: nothing else that stood in the secret does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ca.kubernetes.gateways import checks
from ca.kubernetes.gateways.lists import lists_of
from citadel.errors import InvalidArgument, Reason

_MOST_SHOWN: Final = 3
_FIX: Final = "put one that can be used into the secret"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A certificate with its key, or authorities with their revocation lists; all of it PEM. Good until `ends`."""

    ends: datetime
    certificate_chain: bytes = field(default=b"", repr=False)
    private_key: bytes = field(default=b"", repr=False)
    trusted_ca: bytes = field(default=b"", repr=False)
    crl: bytes = field(default=b"", repr=False)


class NotYet(InvalidArgument):
    """It cannot be used until `begins`, and then may be by itself (`credential_invalid`)."""

    def __init__(self, message: str, begins: datetime) -> None:
        super().__init__(Reason.CREDENTIAL_INVALID, message, fix=_FIX)
        self.begins = begins


@dataclass(frozen=True, slots=True)
class _Form:
    """Under which keys a kind of secret has what."""

    certificate: str
    key: str
    authorities: str
    lists: str


# The generic form goes before the other where a secret has both, as it does with Istio.
_FORMS: Final = (
    _Form(certificate="cert", key="key", authorities="cacert", lists="crl"),
    _Form(certificate="tls.crt", key="tls.key", authorities="ca.crt", lists="ca.crl"),
)
KEYS: Final = frozenset(key for form in _FORMS for key in (form.certificate, form.key, form.authorities, form.lists))


def certificate_of(data: Mapping[str, bytes], now: datetime) -> Credential:
    """The certificate and its key. Raises `InvalidArgument` (`credential_invalid`)."""
    form = next((form for form in _FORMS if data.get(form.certificate) and data.get(form.key)), None)
    if form is None:
        raise _invalid(_lacks(data, [(form.certificate, form.key) for form in _FORMS]))
    with _blaming(form.certificate):
        chain = checks.chain_of(data[form.certificate], now)
    with _blaming(form.key):
        key = checks.key_of(data[form.key], chain[0])
    return Credential(
        ends=min(each.not_valid_after_utc for each in chain),
        certificate_chain=_pem(chain),
        private_key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def authorities_of(data: Mapping[str, bytes], now: datetime) -> Credential:
    """What vouches for clients, with its revocation lists where there are any. Raises as above."""
    form = next((form for form in _FORMS if data.get(form.authorities)), None)
    if form is None:
        raise _invalid(_lacks(data, [(form.authorities,) for form in _FORMS]))
    with _blaming(form.authorities):
        authorities = checks.authorities_of(data[form.authorities], now)
    with _blaming(form.lists):
        lists = lists_of(data.get(form.lists, b""), authorities, now)
    ends = max(each.not_valid_after_utc for each in authorities)
    return Credential(
        ends=min((ends, *(each.next_update_utc for each in lists if each.next_update_utc is not None))),
        trusted_ca=_pem(authorities),
        crl=b"".join(each.public_bytes(Encoding.PEM) for each in lists),
    )


@contextmanager
def _blaming(key: str) -> Iterator[None]:
    try:
        yield
    except checks.NotYetError as fault:
        raise NotYet(f"{key} {fault}", fault.begins) from None
    except checks.UnusableError as fault:
        raise _invalid(f"{key} {fault}") from None  # without the cause, which may show a part of a key


def _pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def _lacks(data: Mapping[str, bytes], wanted: Sequence[tuple[str, ...]]) -> str:
    there = sorted(key for key in data if data[key])
    found = ", ".join(there[:_MOST_SHOWN]) + (", …" if len(there) > _MOST_SHOWN else "")
    text = " or ".join(" and ".join(keys) for keys in wanted)
    return f"it lacks {text}; of what gateways use it has {found or 'nothing'}"


def _invalid(message: str) -> InvalidArgument:
    return InvalidArgument(Reason.CREDENTIAL_INVALID, message, fix=_FIX)
