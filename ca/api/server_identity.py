"""The server's own SVID, which both TLS listeners present; renewed at half of its life without a restart."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ca.authority.manager import AuthorityManager
from ca.issuance.issuer import Issuer
from citadel.clock import Clock, sleep_until
from citadel.errors import CitadelError, Reason, Unavailable
from citadel.reserved import SERVER_DNS_NAME, server_id

_log = structlog.get_logger(__name__)

_LEAST_PAUSE: Final = timedelta(seconds=1)


class ServerIdentity:
    """Holds the certificate that is presented, and makes gRPC's credentials of it."""

    def __init__(self, *, issuer: Issuer, authorities: AuthorityManager, clock: Clock) -> None:
        self._issuer = issuer
        self._authorities = authorities
        self._clock = clock
        self._renew_at = clock.now()
        self._pair: tuple[bytes, bytes] | None = None

    async def start(self) -> None:
        """Get the first SVID."""
        await self._renew()

    async def run(self) -> None:
        """Renew at half of the life, for ever; the old one is presented until the new one is there."""
        while True:
            await self._clock.sleep(_LEAST_PAUSE.total_seconds())  # whatever the lifetimes are, never a busy loop
            await sleep_until(self._clock, self._renew_at)
            try:
                await self._renew()
            except CitadelError as error:
                _log.error("server certificate not renewed", reason=error.reason.value, error=str(error))

    def credentials(self, *, ask_for_client_certificate: bool) -> grpc.ServerCredentials:
        """Credentials that look at every handshake for the newest certificate and bundle (gRPC calls from a thread)."""

        def current() -> grpc.ServerCertificateConfiguration:
            if self._pair is None:
                raise Unavailable(Reason.ISSUER_UNAVAILABLE, "the server has no certificate yet")
            # Only the own domain's roots: an identity of a federated domain never opens this door.
            roots = self._authorities.bundle().to_pem() if ask_for_client_certificate else None
            return grpc.ssl_server_certificate_configuration([self._pair], root_certificates=roots)

        return grpc.dynamic_ssl_server_credentials(
            current(), current, require_client_authentication=ask_for_client_certificate
        )

    async def _renew(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        identity = server_id(self._authorities.bundle().trust_domain)
        begun = self._clock.now()
        svid = await self._issuer.issue_reserved(identity, csr.public_bytes(Encoding.DER), dns_names=(SERVER_DNS_NAME,))
        not_after = svid.chain[0].not_valid_after_utc
        private_key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._pair = (private_key, b"".join(c.public_bytes(Encoding.PEM) for c in svid.chain))
        self._renew_at = begun + (not_after - begun) / 2
        _log.info("server certificate made", not_after=not_after.isoformat())
