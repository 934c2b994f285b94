"""What is left of a bundle with odd authorities is read by Envoy and OpenSSL, which refuse all of it otherwise."""

from __future__ import annotations

import json
import ssl
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from citadel.bundle import TrustBundle
from citadel.bundle_keys import x509_entry
from cli.demo import envoy
from tests.certificates import A_TEST, B_TEST, bundle, root
from tests.odd_authorities import odd_authorities

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:Parsed a serial number")]

_TLS: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
OWN, GOOD = bundle(root()), root("good", "spiffe://b.test")


def test_a_proxy_keeps_its_trust_whatever_a_foreign_bundle_holds(tmp_path: Path) -> None:
    odd = list(odd_authorities())
    document = {"keys": [x509_entry(each.certificate) for each in (GOOD, *(signed for _, signed in odd))]}
    left = TrustBundle.from_json(B_TEST, json.dumps(document).encode()).to_pem()
    assert _is_taken_by_envoy(left, tmp_path)
    assert _is_taken_by_openssl(left)
    broken = dict(odd)["UTF-8 that is none"].pem
    assert not _is_taken_by_envoy(left + broken, tmp_path), "these tests show nothing any more"
    assert not _is_taken_by_openssl(left + broken)


def _is_taken_by_envoy(foreign: bytes, folder: Path) -> bool:
    trusted = {A_TEST: OWN.to_pem(), B_TEST: foreign}
    spiffe = {
        "@type": f"{_TLS}.SPIFFECertValidatorConfig",
        "trust_domains": [
            {"name": domain.name, "trust_bundle": {"inline_string": pem.decode()}} for domain, pem in trusted.items()
        ],
    }
    validator = {"name": "envoy.tls.cert_validator.spiffe", "typed_config": spiffe}
    context = {"common_tls_context": {"validation_context": {"custom_validator_config": validator}}}
    socket = {"name": "envoy.transport_sockets.tls", "typed_config": {"@type": f"{_TLS}.UpstreamTlsContext", **context}}
    cluster: dict[str, Any] = {"name": "foreign", "type": "STATIC", "transport_socket": socket}
    file = folder / "envoy.json"
    file.write_text(json.dumps({"static_resources": {"clusters": [cluster]}}))
    command: list[str | Path] = [envoy.find_binary(), "--mode", "validate", "-c", file, "-l", "error"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _is_taken_by_openssl(authorities: bytes) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=authorities.decode())
    except ssl.SSLError:
        return False
    return True
