"""A real Envoy whose listeners ask for client certificates, and are told their own from the beginning."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cli.demo import envoy
from cli.demo.processes import Child
from tests.integration.meshes import until
from tests.ports import free_port

TLS: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"


def door(
    port: int, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, chain: str, validation: dict[str, Any]
) -> dict[str, Any]:
    """A listener that answers everybody whose certificate it takes; `chain` is PEM."""
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    certificate = {"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": private}}
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
        "@type": f"{TLS}.DownstreamTlsContext",
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


@asynccontextmanager
async def running_envoy(folder: Path, doors: Sequence[dict[str, Any]]) -> AsyncIterator[None]:
    """An Envoy with these listeners, once it serves."""
    admin = free_port()
    address = {"socket_address": {"address": "127.0.0.1", "port_value": admin}}
    file = folder / "envoy.json"
    file.write_text(json.dumps({"admin": {"address": address}, "static_resources": {"listeners": list(doors)}}))
    command = [envoy.find_binary(), "-c", file, "--disable-hot-restart", "--concurrency", "1", "-l", "error"]
    child = await Child.start("envoy", command, log=folder / "envoy.log")
    async with httpx.AsyncClient(trust_env=False) as client:
        try:
            await until("Envoy serves", envoy.EnvoyAdmin(client, admin).is_live, seconds=10)
            yield
        finally:
            await child.stop()
