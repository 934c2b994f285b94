"""What is left of odd authorities and lists is read by Envoy, OpenSSL and Go, which refuse all of it otherwise."""

from __future__ import annotations

import base64
import json
import shutil
import ssl
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.clusters.reports import read_report
from citadel._wire import clusters_pb2 as pb
from citadel.authority_form import unreadable
from citadel.bundle import TrustBundle
from citadel.bundle_keys import x509_entry
from citadel.revocation import RevocationList
from citadel.spiffe import TrustDomain
from cli.demo import envoy
from tests.certificates import A_TEST, B_TEST, NOW, bundle, root
from tests.odd_authorities import mutants, odd_authorities, rich_authority
from tests.odd_lists import odd_lists, plain_list

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:Parsed a serial number")]

_TLS: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
_GO_READER: Final = Path(__file__).parent.parent / "go_reader"
OWN, GOOD = bundle(root()), root("good", "spiffe://b.test")


def test_a_proxy_keeps_its_trust_whatever_a_foreign_bundle_holds(tmp_path: Path) -> None:
    odd = list(odd_authorities())
    document = {"keys": [x509_entry(each.certificate) for each in (GOOD, *(signed for _, signed in odd))]}
    left = TrustBundle.from_json(B_TEST, json.dumps(document).encode()).to_pem()
    assert _is_taken_by_envoy({A_TEST: OWN.to_pem(), B_TEST: left}, tmp_path)
    assert _is_taken_by_openssl(left)
    broken = dict(odd)["UTF-8 that is none"].pem
    both = {A_TEST: OWN.to_pem(), B_TEST: left + broken}
    assert not _is_taken_by_envoy(both, tmp_path), "these tests show nothing any more"
    assert not _is_taken_by_openssl(left + broken)


@pytest.mark.skipif(shutil.which("go") is None, reason="no go command on this machine (CI has one: it builds with it)")
def test_a_go_program_reads_every_authority_that_is_left() -> None:
    """One that it cannot read costs it the whole message, the identity in it included."""
    found = [*(signed.certificate for _, signed in odd_authorities()), *mutants(rich_authority(), times=3000, seed=1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        left = [each for each in found if not unreadable(each)]
    assert len(left) > 300, "these tests show nothing any more"
    assert not set(_read_by_go(left)) - {""}
    assert "x509: invalid RSA public exponent" in str(
        _read_by_go([dict(odd_authorities())["an exponent that is not short"].certificate])
    )


@pytest.mark.invariant(9)
def test_a_proxy_keeps_its_trust_whatever_lists_a_child_cluster_brings(tmp_path: Path) -> None:
    own = root()
    reported = own.certificate.public_bytes(Encoding.DER)

    def believed(crl: bytes) -> list[RevocationList]:
        report = pb.ClusterReport(issuers=[pb.IssuerReport(certificate=reported, crl=crl)])
        return [*read_report(report, trust_domain=A_TEST, signed=[own.certificate], taken=(), at=NOW).said.lists]

    def is_taken(*lists: bytes) -> bool:
        pem = OWN.to_pem() + b"".join(map(_crl_pem, lists))
        return _is_taken_by_envoy({A_TEST: bundle(own).to_pem() + pem}, tmp_path)

    odd = dict(odd_lists(own.certificate, own.key))
    brought = [plain_list(own.certificate, own.key), *odd.values()]
    left = [each.der for crl in brought for each in believed(crl)]
    assert left == brought[:1]
    assert is_taken(*left)
    for problem in ("empty extensions", "a line with empty extensions"):
        assert not is_taken(odd[problem]), "these tests show nothing any more"


def _crl_pem(der: bytes) -> bytes:
    return b"-----BEGIN X509 CRL-----\n" + base64.encodebytes(der) + b"-----END X509 CRL-----\n"


def _is_taken_by_envoy(trusted: Mapping[TrustDomain, bytes], folder: Path) -> bool:
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


def _read_by_go(certificates: Sequence[x509.Certificate]) -> Sequence[str]:
    """Why not, for each; empty where it is read."""
    lines = "".join(f"{each.public_bytes(Encoding.DER).hex()}\n" for each in certificates)
    go = ["go", "run", "."]
    ran = subprocess.run(go, cwd=_GO_READER, input=lines, check=True, capture_output=True, text=True)
    return ran.stdout.split("\n")[:-1]


def _is_taken_by_openssl(authorities: bytes) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=authorities.decode())
    except ssl.SSLError:
        return False
    return True
