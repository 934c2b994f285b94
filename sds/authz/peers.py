"""The peer of a proxy, by the certificate that it showed in the TLS handshake."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from citadel.certification_path import UNREADABLE
from citadel.errors import PermissionDenied, Reason, Unavailable
from citadel.spiffe import SpiffeId
from citadel.svid import X509Svid
from sds.holdings import Holdings

# Less than the hour for which the server keeps an ended certificate in its lists (`ca.revocation`): so it is refused
# as ended before it is forgotten that it was revoked, also where clocks differ.
LONGEST_ENDED: Final = timedelta(minutes=30)
_MOST_KNOWN: Final = 4096  # certificates, by their digests: who signs them may be of another trust domain
_MOST_KEY_ID: Final = 64  # bytes; a digest of a key
_MOST_SERIAL_BITS: Final = 20 * 8  # RFC 5280, section 4.1.2.2


@dataclass(frozen=True, slots=True)
class Peer:
    """Who proved itself to the proxy, and by which certificate."""

    spiffe_id: SpiffeId
    name: str
    issuer_key_id: bytes
    serial: int
    not_after: datetime

    @property
    def is_small(self) -> bool:
        """Whether it is of the size that it has in every certificate but one made to fill a memory."""
        return len(self.issuer_key_id) <= _MOST_KEY_ID and self.serial.bit_length() <= _MOST_SERIAL_BITS

    def check_not_long_ended(self, now: datetime) -> None:
        """Raise `PermissionDenied` (`svid_untrusted`) for a certificate that ended more than `LONGEST_ENDED` ago.

        A connection may outlive its certificate for a while: its client has a newer one.
        """
        if now > self.not_after + LONGEST_ENDED:
            raise PermissionDenied(
                Reason.SVID_UNTRUSTED,
                f"the certificate of {self.spiffe_id} on this connection ended at {self.not_after.isoformat()}",
                fix="let the proxy end connections before: max_connection_duration of its listener",
            )

    def check_not_revoked(self, holdings: Holdings) -> None:
        """Raise `PermissionDenied` (`identity_revoked`) for what was revoked, `Unavailable` where nobody knows yet.

        Envoy looks at revocations in the handshake alone. Asked at each request, they reach connections that are open.
        """
        if not holdings.knows_revocations:
            raise Unavailable(
                Reason.NOT_READY,
                "this agent has not heard from its server yet what is revoked",
                fix="try again in a moment",
            )
        if self.spiffe_id in holdings.revoked_identities:
            raise PermissionDenied(Reason.IDENTITY_REVOKED, f"{self.spiffe_id} was revoked")
        if holdings.revocations.hold(self.issuer_key_id, self.serial):
            raise PermissionDenied(Reason.IDENTITY_REVOKED, f"a certificate of {self.spiffe_id} was revoked")


class PeerReader:
    """Reads each certificate once. The proxy has verified it: that it did so for this workload is what makes it one.

    One with an odd size of what is remembered is read each time: it was made to fill a memory.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, Peer] = {}

    def read(self, source: Any) -> Peer | None:
        """The peer in `source`, an `AttributeContext.Peer`; None for a connection that nobody proved anything on.

        Raises `PermissionDenied`: `request_malformed` where the proxy does not show the certificate, by which alone a
        revoked one is known, or names somebody else; `svid_malformed` for a certificate that carries no SPIFFE ID.
        """
        certificate, principal = source.certificate, source.principal
        if not certificate:
            if principal:
                raise PermissionDenied(
                    Reason.REQUEST_MALFORMED,
                    f"the proxy names its peer {principal[:200]!r}, but does not show the certificate",
                    fix="set include_peer_certificate in its ext_authz filter",
                )
            return None
        peer = self._peer(certificate)
        if principal != peer.name:
            raise PermissionDenied(
                Reason.REQUEST_MALFORMED,
                f"the proxy names its peer {principal[:200]!r}, but the certificate is of {peer.spiffe_id}",
            )
        return peer

    def _peer(self, certificate: str) -> Peer:
        digest = hashlib.sha256(certificate.encode()).digest()
        peer = self._known.get(digest)
        if peer is None:
            peer = _parse(certificate)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            if peer.is_small:
                self._known[digest] = peer
        return peer


def _parse(certificate: str) -> Peer:
    try:
        der = x509.load_pem_x509_certificate(unquote_to_bytes(certificate)).public_bytes(Encoding.DER)
    except UNREADABLE as error:
        raise PermissionDenied(Reason.SVID_MALFORMED, "the peer's certificate cannot be read") from error
    svid = X509Svid.from_der([der])
    return Peer(svid.spiffe_id, str(svid.spiffe_id), svid.issuer_key_id, svid.leaf.serial_number, svid.not_after)
