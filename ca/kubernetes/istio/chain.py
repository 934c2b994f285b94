"""What a proxy is answered: it takes the last text as its roots, and all others as its chain."""

from __future__ import annotations

import binascii
from collections.abc import Callable, Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.issuance.press import IssuedSvid
from citadel.bundle import TrustBundle

_LINE: Final = 64  # RFC 7468


class Answers:
    """Writes answers. What many of them share is written once."""

    def __init__(self, bundle: Callable[[], TrustBundle]) -> None:
        """`bundle` is the own one, as it is now."""
        self._bundle = bundle
        self._issuers: tuple[tuple[bytes, ...], tuple[str, ...]] = ((), ())
        self._roots: tuple[tuple[x509.Certificate, ...], str] = ((), "")

    def chain_of(self, svid: IssuedSvid) -> Sequence[str]:
        """The leaf, each authority between it and its root, and all roots in one text.

        The roots are those of this moment, when the row of the certificate is durable: whoever comes later than a new
        root in the ledger was told of it. `ca.rotation.asking` hangs on that.
        """
        leaf, *between = svid.chain_der
        if self._issuers[0] != svid.chain_der[1:]:
            self._issuers = svid.chain_der[1:], tuple(map(_pem, between))
        roots = self._bundle().x509_authorities
        if self._roots[0] is not roots:
            self._roots = roots, "".join(each.public_bytes(Encoding.PEM).decode("ascii") for each in roots)
        return (_pem(leaf), *self._issuers[1], self._roots[1])


def _pem(der: bytes) -> str:
    text = binascii.b2a_base64(der, newline=False).decode("ascii")
    lines = (text[start : start + _LINE] for start in range(0, len(text), _LINE))
    return "-----BEGIN CERTIFICATE-----\n" + "\n".join(lines) + "\n-----END CERTIFICATE-----\n"
