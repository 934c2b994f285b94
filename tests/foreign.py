"""A foreign trust domain whose bundle endpoint does what a test wants: real certificates, real TLS on loopback."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ca.federation.model import Federation
from ca.federation.settings import Profile
from citadel.bundle import TrustBundle
from citadel.spiffe import SpiffeId, TrustDomain
from tests.certificates import B_TEST, Signed, bundle, intermediate, leaf, root
from tests.issuer_server import IssuerServer, issuer_server, says
from tests.strangers import put


def times() -> dict[str, datetime]:
    """Of a certificate that is good now."""
    now = datetime.now(UTC)
    return {"not_before": now - timedelta(minutes=1), "not_after": now + timedelta(hours=1)}


@dataclass
class ForeignDomain:
    """A trust domain with one root and one issuing authority under it."""

    trust_domain: TrustDomain = B_TEST
    root: Signed = field(init=False)
    issuer: Signed = field(init=False)

    def __post_init__(self) -> None:
        self.turn()

    def turn(self) -> None:
        """Begin anew, with another root and another issuing authority."""
        uri = f"spiffe://{self.trust_domain.name}"
        self.root = root(f"root of {self.trust_domain.name}", uri, **times())
        self.issuer = intermediate(self.root, f"issuing {self.trust_domain.name}", uri, **times())

    def svid(self, path: str = "/endpoint", **changes: Any) -> Signed:
        """An SVID of this domain."""
        return leaf(self.issuer, f"spiffe://{self.trust_domain.name}{path}", **(times() | changes))

    def bundle(self, *further: Signed, **fields: Any) -> TrustBundle:
        """The bundle of the domain as it is now."""
        return bundle(self.root, *further, trust_domain=self.trust_domain, **fields)

    def federation(self, url: str, **changes: Any) -> Federation:
        """What somebody sets up who trusts this domain, by its own endpoint."""
        profile: dict[str, Any] = {
            "trust_domain": self.trust_domain,
            "endpoint_url": url,
            "profile": Profile.HTTPS_SPIFFE,
            "endpoint_id": SpiffeId(self.trust_domain, "/endpoint"),
            "created_at": datetime.now(UTC),
        }
        return Federation(**(profile | changes))


@dataclass
class Endpoint:
    """A bundle endpoint on loopback. What it shows and what it answers may change at any time."""

    server: IssuerServer
    tls: ssl.SSLContext

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server.port}/"

    def shows(self, certificate: Signed, *chain: Signed) -> None:
        """Show this from the next connection on."""
        self.tls = server_side(certificate, *chain)

    def answers(self, document: TrustBundle | bytes, path: str = "/") -> None:
        """Answer with this from the next request on."""
        body = document if isinstance(document, bytes) else document.to_json()
        self.server.answers[path] = says(body, headers={"content-type": "application/json"})


def server_side(certificate: Signed, *chain: Signed) -> ssl.SSLContext:
    """What shows this certificate, with those above it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT@SECLEVEL=0")  # what is too weak is to be the client's finding
    with tempfile.TemporaryDirectory() as folder:
        certificate_file, key_file = put(Path(folder), certificate)
        certificate_file.write_bytes(b"".join(each.pem for each in (certificate, *chain)))
        context.load_cert_chain(certificate_file, key_file)
    return context


@asynccontextmanager
async def endpoint_of(domain: ForeignDomain, *further: Signed, **fields: Any) -> AsyncIterator[Endpoint]:
    """A good endpoint of `domain`, which serves its bundle, with `further` roots, by its own SVID `/endpoint`."""
    outer = server_side(domain.svid(), domain.issuer)
    async with issuer_server(outer) as server:
        endpoint = Endpoint(server, outer)
        noticed = outer.sni_callback

        def show(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
            noticed(connection, name, context)
            connection.context = endpoint.tls

        outer.sni_callback = show
        endpoint.answers(domain.bundle(*further, **fields))
        yield endpoint
