"""The server's own SVID, which both TLS listeners present; renewed at half of its life without a restart."""

from __future__ import annotations

from dataclasses import dataclass, field
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
from citadel.bundle import TrustBundle
from citadel.clock import Clock, sleep_until
from citadel.errors import CitadelError, Reason, Unavailable
from citadel.repeated import Repeated
from citadel.reserved import SERVER_DNS_NAME, server_id

_log = structlog.get_logger(__name__)

_LEAST_PAUSE: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What one listener presents, and whose certificates it takes."""

    pair: tuple[bytes, bytes] = field(repr=False)
    clients: TrustBundle | None

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """The same as gRPC takes it."""
        roots = self.clients.to_pem() if self.clients is not None else None
        return grpc.ssl_server_certificate_configuration([self.pair], root_certificates=roots)


class ServerIdentity:
    """Holds the certificate that is presented, and makes gRPC's credentials of it."""

    def __init__(
        self, *, issuer: Issuer, authorities: AuthorityManager, clock: Clock, dns_names: tuple[str, ...] = ()
    ) -> None:
        """`dns_names` stand in it beside the reserved one, for callers that are not agents."""
        self._issuer = issuer
        self._authorities = authorities
        self._clock = clock
        self._dns_names = (SERVER_DNS_NAME, *dns_names)
        self._renew_at = clock.now()
        self._pair: tuple[bytes, bytes] | None = None

    async def start(self) -> None:
        """Get the first SVID."""
        await self.renew()

    async def run(self) -> None:
        """Renew at half of the life, for ever; the old one is presented until the new one is there."""
        said = Repeated(clock=self._clock)
        while True:
            await self._clock.sleep(_LEAST_PAUSE.total_seconds())  # whatever the lifetimes are, never a busy loop
            await sleep_until(self._clock, self._renew_at)
            try:
                await self.renew()
            except CitadelError as error:
                if said.is_news(str(error)):
                    _log.error("server certificate not renewed", reason=error.reason.value, error=str(error))

    def pair(self) -> tuple[bytes, bytes] | None:
        """The private key and the chain that are presented now, in PEM."""
        return self._pair

    def credentials(self, *, ask_for_client_certificate: bool) -> grpc.ServerCredentials:
        """Credentials of one listener: gRPC asks for what is new at every handshake, from a thread of its own."""
        shown = self._to_show(ask_for_client_certificate)

        def news() -> grpc.ServerCertificateConfiguration | None:
            nonlocal shown
            now = self._to_show(ask_for_client_certificate)
            # To answer every handshake anew crashes gRPC (1.85) when two come at once: it frees the state that it
            # replaces while another thread still reads it.
            if now == shown:
                return None
            shown = now
            return now.configuration()

        return grpc.dynamic_ssl_server_credentials(
            shown.configuration(),
            news,  # type: ignore[arg-type]  # None means "as before", which the stubs do not know
            require_client_authentication=ask_for_client_certificate,
        )

    def _to_show(self, ask_for_client_certificate: bool) -> _Shown:
        if self._pair is None:
            raise Unavailable(Reason.ISSUER_UNAVAILABLE, "the server has no certificate yet")
        # Only the upstream's roots: an identity of a federated domain, or of an exchanged root, never opens this door.
        return _Shown(self._pair, self._authorities.own_roots() if ask_for_client_certificate else None)

    async def renew(self) -> None:
        """Get a new SVID and present it from now on; its authority may have changed."""
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        identity = server_id(self._authorities.bundle().trust_domain)
        begun = self._clock.now()
        svid = await self._issuer.issue_reserved(identity, csr.public_bytes(Encoding.DER), dns_names=self._dns_names)
        not_after = svid.chain[0].not_valid_after_utc
        private_key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._pair = (private_key, b"".join(c.public_bytes(Encoding.PEM) for c in svid.chain))
        self._renew_at = begun + (not_after - begun) / 2
        _log.info("server certificate made", not_after=not_after.isoformat())
