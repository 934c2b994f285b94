"""What a real Envoy makes of URI name constraints, on which shared roots and the words of `trust verify` rely."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from citadel.name_constraints import forbidding, is_refused_by_envoy
from citadel.spiffe import SpiffeId, TrustDomain
from cli.demo import envoy
from cli.demo.processes import Child
from tests.certificates import Signed, excluded, intermediate, leaf, permitted, root
from tests.clusters.intruder import let_in
from tests.integration.meshes import until
from tests.ports import free_port

pytestmark = pytest.mark.integration

_TLS: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
_NOW: Final = datetime.now(UTC)
_VALID: Final[dict[str, Any]] = {"not_before": _NOW - timedelta(minutes=5), "not_after": _NOW + timedelta(days=1)}
# Constraints of the authority, the identity that it signs, and whether a proxy that has its root is to take that.
CASES: Final[Sequence[tuple[tuple[x509.ExtensionType, bool] | None, str, bool]]] = (
    (None, "spiffe://b.test/web", True),
    (permitted("b.test"), "spiffe://b.test/web", True),
    (permitted("b.test"), "spiffe://a.test/web", False),
    (permitted("b.test"), "spiffe://west.b.test/web", False),
    (permitted(".b.test"), "spiffe://west.b.test/web", True),
    (permitted(".b.test"), "spiffe://b.test/web", False),
    (permitted("a.test", "b.test"), "spiffe://a.test/web", True),
    (excluded("a.test"), "spiffe://b.test/web", True),
    (excluded("a.test"), "spiffe://a.test/web", False),
    (permitted("west"), "spiffe://west/web", True),
    (permitted("b_c.test"), "spiffe://b_c.test/web", False),
    (permitted("10.1.2.3"), "spiffe://10.1.2.3/web", False),
    (None, "spiffe://b_c.test/web", True),
)


@pytest.fixture
async def doors(tmp_path: Path) -> AsyncIterator[tuple[Signed, list[int]]]:
    """A root, and the ports of an Envoy that trusts it: by a plain `trusted_ca`, and by the SPIFFE validator."""
    top, ports, admin = root("shared", uri=None, **_VALID), [free_port(), free_port()], free_port()
    pem = {"inline_string": top.pem.decode()}
    domains = sorted({SpiffeId.parse(uri).trust_domain.name for _, uri, _ in CASES})
    spiffe = {
        "@type": f"{_TLS}.SPIFFECertValidatorConfig",
        "trust_domains": [{"name": name, "trust_bundle": pem} for name in domains],
    }
    contexts = [
        {"trusted_ca": pem},
        {"custom_validator_config": {"name": "envoy.tls.cert_validator.spiffe", "typed_config": spiffe}},
    ]
    own = leaf(top, "spiffe://a.test/server", **_VALID)
    listeners = [_listener(port, own, context) for port, context in zip(ports, contexts, strict=True)]
    address = {"socket_address": {"address": "127.0.0.1", "port_value": admin}}
    bootstrap = {"admin": {"address": address}, "static_resources": {"listeners": listeners}}
    file = tmp_path / "envoy.json"
    file.write_text(json.dumps(bootstrap))
    command = [envoy.find_binary(), "-c", file, "--disable-hot-restart", "--concurrency", "1", "-l", "error"]
    child = await Child.start("envoy", command, log=tmp_path / "envoy.log")
    async with httpx.AsyncClient(trust_env=False) as client:
        try:
            await until("Envoy serves", envoy.EnvoyAdmin(client, admin).is_live, seconds=10)
            yield top, ports
        finally:
            await child.stop()


def _listener(port: int, own: Signed, validation: dict[str, Any]) -> dict[str, Any]:
    key = own.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    certificate = {"certificate_chain": {"inline_string": own.pem.decode()}, "private_key": {"inline_string": key}}
    http = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    routes = [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]
    manager = {
        "@type": f"type.googleapis.com/{http}",
        "stat_prefix": "in",
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
    }
    tls = {
        "@type": f"{_TLS}.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {"tls_certificates": [certificate], "validation_context": validation},
    }
    return {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [
            {
                "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}],
                "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
            }
        ],
    }


async def test_envoy_takes_what_constraints_permit_and_trust_verify_says_the_same(
    doors: tuple[Signed, list[int]],
) -> None:
    top, ports = doors
    for constraints, uri, is_taken in CASES:
        signer = intermediate(top, uri=None, extra=[constraints] if constraints else [], **_VALID)
        chain = [leaf(signer, uri, **_VALID), signer]
        seen = await asyncio.gather(*(let_in(("127.0.0.1", port), chain) for port in ports))
        assert seen == [is_taken, is_taken], (constraints, uri)
        domain = TrustDomain.parse(uri.split("/")[2])
        refused = constraints is not None and is_refused_by_envoy(domain)
        assert (forbidding([signer.certificate, top.certificate], domain) is None and not refused) == is_taken
