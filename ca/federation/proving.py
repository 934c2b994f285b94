"""How a bundle endpoint proves that it is the right one: to the web's authorities, or as a SPIFFE ID.

Source: SPIFFE_Federation.md sections 5.2.1.4 and 5.2.2.4 (the lines FED-20, FED-22, FED-25 of the checklist).
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ca.federation.faults import untrusted
from citadel.bundle import TrustBundle
from citadel.certification_path import NoPathError
from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.svid import SvidVerifier

_MOST_PROOFS: Final = 1000
_KEPT_SECONDS: Final = 600.0  # the system's authorities are some hundred, and change every few months


class WebTrust:
    """The authorities of the web: those in `ca_file`, or the system's. Read again when they may have changed."""

    def __init__(self, *, ca_file: Path | None, clock: Clock) -> None:
        self._ca_file = ca_file
        self._clock = clock
        self._made: tuple[object, ssl.SSLContext] | None = None

    def context(self) -> ssl.SSLContext:
        """Checks the certificate and the host. Blocks. Raises `FailedPrecondition` (`endpoint_untrusted`)."""
        try:
            stamp = self._stamp()
            if self._made is None or self._made[0] != stamp:
                context = ssl.create_default_context(cafile=self._ca_file)
                context.minimum_version = ssl.TLSVersion.TLSv1_2
                self._made = stamp, context
            return self._made[1]
        except OSError as error:  # ssl.SSLError is one
            raise untrusted(f"federation.ca_file {self._ca_file} cannot be used: {error}") from error

    def _stamp(self) -> object:
        if self._ca_file is None:
            return self._clock.monotonic() // _KEPT_SECONDS
        found = self._ca_file.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino


class SpiffeTrust:
    """Takes nobody but `endpoint_id`, by the bundle of its own trust domain.

    The standard library knows no SPIFFE IDs in its handshake: `check` follows it, before anything is asked.
    """

    def __init__(self, endpoint_id: SpiffeId, bundle: TrustBundle, *, clock: Clock) -> None:
        """Blocks. Raises `FailedPrecondition` (`endpoint_untrusted`) for a bundle that proves nobody."""
        self._endpoint_id = endpoint_id
        self._bundle = bundle
        self._clock = clock
        # Ends the handshake with whoever has no certificate of the bundle's authorities. The rest is `check`.
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.check_hostname = False  # an SVID names its SPIFFE ID
        self.context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an authority need not be self-signed
        if not bundle.x509_authorities:
            raise untrusted(f"the bundle of {bundle.trust_domain} has no authority by which {endpoint_id} is believed")
        try:
            self.context.load_verify_locations(cadata=bundle.to_pem().decode("ascii"))
            self._verifier = SvidVerifier(bundle)
        except (ssl.SSLError, NoPathError) as error:  # TLS may know better than those who let the bundle in
            raise untrusted(f"the bundle of {bundle.trust_domain} cannot be used: {error}") from error

    def proves(self, endpoint_id: SpiffeId, bundle: TrustBundle) -> bool:
        """Whether another one made of these would be the same."""
        mine = self._endpoint_id, self._bundle.trust_domain, self._bundle.x509_authorities
        return mine == (endpoint_id, bundle.trust_domain, bundle.x509_authorities)

    async def check(self, connection: ssl.SSLObject) -> None:
        """Raise `FailedPrecondition` (`endpoint_untrusted`) unless `endpoint_id` is at the other end of this."""
        await asyncio.to_thread(self._check, presented(connection))

    def _check(self, chain: Sequence[bytes]) -> None:
        try:
            svid = self._verifier.verify(chain, self._clock.now())
        except CitadelError as error:
            raise untrusted(f"the endpoint shows no good X509-SVID: {error.message}") from error
        if svid.spiffe_id != self._endpoint_id:
            raise untrusted(f"the endpoint is {svid.spiffe_id}, not {self._endpoint_id}")


class SpiffeProofs:
    """One `SpiffeTrust` for each federation, made ready away from the loop when its authorities are others.

    Bundles change seldom, and making them ready takes a tenth of a fetch, or a second where they are large.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._made: OrderedDict[TrustDomain, SpiffeTrust] = OrderedDict()  # the one used last is the last

    async def of(self, federation: TrustDomain, endpoint_id: SpiffeId, bundle: TrustBundle) -> SpiffeTrust:
        """Raises as `SpiffeTrust` does."""
        proof = self._made.pop(federation, None)
        if proof is None or not proof.proves(endpoint_id, bundle):
            proof = await asyncio.to_thread(SpiffeTrust, endpoint_id, bundle, clock=self._clock)
        self._made[federation] = proof
        if len(self._made) > _MOST_PROOFS:
            self._made.popitem(last=False)
        return proof


def presented(connection: ssl.SSLObject) -> Sequence[bytes]:
    """The chain that the other end has shown, in DER, its own certificate first."""
    if sys.version_info >= (3, 13):
        return connection.get_unverified_chain()
    # Python 3.13 made this public; from 3.10 on it was there already, with an encoding to choose: 2 is DER.
    inner: Any = connection._sslobj  # type: ignore[attr-defined]  # noqa: SLF001 - pinned by the tests of both profiles
    return [each.public_bytes(2) for each in inner.get_unverified_chain() or ()]
