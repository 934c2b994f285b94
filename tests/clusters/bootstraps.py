"""The bootstraps of deploy/multicluster, with a test's own addresses in the place of those marked CHANGE."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import yaml

FOLDER: Final = Path(__file__).resolve().parents[2] / "deploy" / "multicluster"

Address = tuple[str, int] | Path


class Bootstrap:
    """One of the files, changed as a person would; an address is a host with its port, or a Unix socket."""

    def __init__(self, name: str) -> None:
        self.document: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())

    def node(self, name: str) -> None:
        self.document["node"]["id"] = name

    def admin(self, address: Address) -> None:
        self.document["admin"]["address"] = _address(address)

    def listen(self, listener: str, address: Address) -> None:
        self._listener(listener)["address"] = _address(address)

    def point(self, cluster: str, address: Address) -> None:
        [endpoints] = self._cluster(cluster)["load_assignment"]["endpoints"]
        [endpoint] = endpoints["lb_endpoints"]
        endpoint["endpoint"]["address"] = _address(address)

    def pin_callers(self, ids: Sequence[str]) -> None:
        [chain] = self._listener("inbound")["filter_chains"]
        _pin(chain["transport_socket"], ids)

    def pin_service(self, spiffe_id: str) -> None:
        _pin(self._cluster("service")["transport_socket"], [spiffe_id])

    def trust_service_by(self, secret: str) -> None:
        """Believe the service by the bundle of this name, and not by all that the workload may trust."""
        cluster = self._cluster("service")
        cluster["transport_socket"] = deepcopy(cluster["transport_socket"])  # the file says this part once
        context = cluster["transport_socket"]["typed_config"]["common_tls_context"]["combined_validation_context"]
        context["validation_context_sds_secret_config"]["name"] = secret

    def ask_for(self, name: str) -> None:
        self._cluster("service")["transport_socket"]["typed_config"]["sni"] = name

    def pass_on(self, name: str) -> None:
        [chain] = self._listener("east_west")["filter_chains"]
        chain["filter_chain_match"]["server_names"] = [name]

    def one_connection_each(self) -> None:
        """Each request to the service over a connection of its own, so that each is verified."""
        name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        self._cluster("service")["typed_extension_protocol_options"] = {
            name: {
                "@type": f"type.googleapis.com/{name}",
                "common_http_protocol_options": {"max_requests_per_connection": 1},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        }

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.document, indent=2))
        path.chmod(0o644)  # there is nothing secret in one

    def _listener(self, name: str) -> dict[str, Any]:
        return _named(self.document["static_resources"]["listeners"], name)

    def _cluster(self, name: str) -> dict[str, Any]:
        return _named(self.document["static_resources"]["clusters"], name)


def _named(resources: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(each for each in resources if each["name"] == name)


def _address(address: Address) -> dict[str, Any]:
    if isinstance(address, Path):
        return {"pipe": {"path": str(address)}}
    host, port = address
    return {"socket_address": {"address": host, "port_value": port}}


def _pin(transport_socket: dict[str, Any], ids: Sequence[str]) -> None:
    context = transport_socket["typed_config"]["common_tls_context"]["combined_validation_context"]
    context["default_validation_context"]["match_typed_subject_alt_names"] = [
        {"san_type": "URI", "matcher": {"exact": each}} for each in ids
    ]
