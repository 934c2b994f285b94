"""`citadel-cli svid inspect`, which needs no server."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests import certificates
from tests.clock import FakeClock
from tests.unit.cli.fake_admin import Program

ROOT = certificates.root()
ISSUER = certificates.intermediate(ROOT)
NAMED = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "web")])
BAD = {
    "two URIs": (
        certificates.leaf(ISSUER, certificates.WORKLOAD, "spiffe://a.test/other"),
        "the leaf has 2 URI SANs, not one",
    ),
    "no path": (certificates.leaf(ISSUER, "spiffe://a.test"), "the leaf's SPIFFE ID spiffe://a.test has no path"),
    "a CA": (ISSUER, "the leaf is a CA certificate (cA TRUE)"),
    "expired": (
        certificates.leaf(ISSUER, lifetime=timedelta(seconds=-1)),
        "it has expired (section 5.1)",
    ),
    "not yet": (
        certificates.leaf(ISSUER, not_before=certificates.NOW + timedelta(seconds=1)),
        "it is not valid yet (section 5.1)",
    ),
    "no key usage": (certificates.leaf(ISSUER, usage=None), "it has no key usage (section 4.3)"),
    "no digitalSignature": (
        certificates.leaf(ISSUER, usage=certificates.key_usage("key_agreement")),
        "its key usage lacks digitalSignature (section 4.3)",
    ),
    "half an EKU": (
        certificates.leaf(ISSUER, extra=((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),)),
        "its extended key usage lacks serverAuth or clientAuth (section 4.4)",
    ),
    "a SAN that is not critical": (
        certificates.leaf(ISSUER, names=None, extra=((certificates.san(certificates.WORKLOAD), False),)),
        "its subject is empty and its SAN not critical (RFC 5280 section 4.1.2.6)",
    ),
    "a key usage that is not critical": (
        certificates.leaf(ISSUER, usage=None, extra=((certificates.key_usage("digital_signature"), False),)),
        "its key usage is not critical (section 4.3)",
    ),
}


def good() -> tuple[certificates.Signed, bytes]:
    leaf = certificates.leaf(ISSUER, dns=["web.a.test"])
    return leaf, leaf.pem + ISSUER.pem


@pytest.mark.parametrize("form", ["pem", "der"])
async def test_a_good_chain(program: Program, form: str) -> None:
    leaf, pem = good()
    result = await program("-o", "json", "svid", "inspect", "-", stdin=pem if form == "pem" else leaf.der + ISSUER.der)
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    assert (shown["valid"], shown["problems"], shown["spiffe_id"]) == (True, [], certificates.WORKLOAD)
    assert shown["remaining_seconds"] == 3600
    assert (shown["not_before"], shown["not_after"]) == ("2025-12-31T23:59:00Z", "2026-01-01T01:00:00Z")
    assert int(shown["serial"], 16) == leaf.certificate.serial_number
    assert (shown["key"], shown["key_usage"]) == ("EC secp256r1", ["digital_signature"])
    assert shown["extended_key_usage"] == ["serverAuth", "clientAuth"]
    assert shown["sans"] == {"uri": [certificates.WORKLOAD], "dns": ["web.a.test"], "ip": []}
    assert (shown["issuer"], shown["signature_algorithm"]) == ("CN=issuing a.test", "ecdsa-with-SHA256")
    assert [above["is_ca"] for above in shown["intermediates"]] == [True]


async def test_a_table_of_a_good_chain(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "svid.pem"
    path.write_bytes(good()[1])
    result = await program("svid", "inspect", str(path))
    assert result.exit_code == 0
    assert "2026-01-01T01:00:00Z (in 1h)" in result.stdout
    assert "above the leaf" in result.stdout
    assert "broken rules" not in result.stdout


@pytest.mark.parametrize(("svid", "problem"), BAD.values(), ids=BAD)
async def test_what_breaks_a_rule_is_shown_and_says_why(
    program: Program, svid: certificates.Signed, problem: str
) -> None:
    shown = await program("svid", "inspect", "-o", "json", "-", stdin=svid.pem)
    assert shown.exit_code == 3
    plain = json.loads(shown.stdout)
    assert problem in plain["problems"]
    assert plain["valid"] is False
    assert json.loads(shown.stderr)["error"]["reason"] == "svid_malformed"
    table = await program("svid", "inspect", "-", stdin=svid.pem)
    assert table.exit_code == 3
    assert f"- {problem}\n" in table.stdout
    assert "serial" in table.stdout


async def test_the_remaining_life_is_by_the_clock(program: Program, clock: FakeClock) -> None:
    await clock.advance(3000)
    result = await program("svid", "inspect", "-o", "json", "-", stdin=good()[1])
    assert json.loads(result.stdout)["remaining_seconds"] == 600


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"\x30",
        b"hello",
        b"\x30\x80\x00\x00",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        good()[0].der[:-1],
    ],
)
async def test_what_is_no_certificate(program: Program, given: bytes) -> None:
    result = await program("svid", "inspect", "-", stdin=given)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("error: ")
    assert "(svid_malformed)" in result.stderr


@pytest.mark.invariant(10)
async def test_a_private_key_beside_the_chain_is_not_shown(program: Program) -> None:
    leaf, pem = good()
    key = leaf.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    result = await program("svid", "inspect", "-o", "json", "-", stdin=key + pem)
    assert result.exit_code == 0
    assert key.splitlines()[1].decode() not in result.output


async def test_a_missing_file_is_wrong_usage(program: Program) -> None:
    assert (await program("svid", "inspect", "/nowhere.pem")).exit_code == 2
