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
KEY = ISSUER.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
BLOCK = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


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


async def test_a_chain_whose_links_do_not_fit_is_broken(program: Program) -> None:
    stranger = certificates.intermediate(certificates.root("root b.test"))  # of the issuer's name, with another key
    leaf = certificates.leaf(ISSUER)
    for above, place in (((stranger,), 1), ((ISSUER, stranger), 2)):
        chain = b"".join(signed.pem for signed in (leaf, *above))
        result = await program("svid", "inspect", "-o", "json", "-", stdin=chain)
        assert result.exit_code == 3
        assert json.loads(result.stdout)["problems"] == [
            f"certificate {place} was not issued by the one after it (RFC 5280 section 6.1)"
        ]


async def test_a_ca_first_may_be_a_reversed_chain(program: Program) -> None:
    reversed_chain = await program("svid", "inspect", "-", stdin=ISSUER.pem + certificates.leaf(ISSUER).pem)
    assert "  try: put the leaf first: " in reversed_chain.stderr
    assert "its order may be reversed" in reversed_chain.stderr
    assert "reversed" not in (await program("svid", "inspect", "-", stdin=BAD["expired"][0].pem)).stderr


async def test_every_attribute_of_a_name_has_a_name(program: Program) -> None:
    named = x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, "1f")])
    leaf = certificates.leaf(ISSUER, subject=named)
    result = await program("svid", "inspect", "-o", "json", "-", stdin=leaf.pem)
    assert json.loads(result.stdout)["subject"] == "serialNumber=1f"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"", "the input is empty"),
        (b"\x30", "the input is not a chain of certificates in PEM or DER"),
        (b"hello", "the input is not a chain of certificates in PEM or DER"),
        (b"\x30\x80\x00\x00", "the input is not a chain of certificates in PEM or DER"),
        (good()[0].der[:-1], "the input is not a chain of certificates in PEM or DER"),
        (BLOCK, "a certificate in the PEM is damaged"),
        (good()[0].pem + BLOCK, "a certificate in the PEM is damaged"),
        (good()[0].pem + ISSUER.pem[:-20], "a certificate in the PEM is damaged: 2 begin, 1 can be read"),
        (KEY, "the input is a private key, not a certificate"),
        (b"-----BEGIN DH PARAMETERS-----\nAAAA\n-----END DH PARAMETERS-----\n", "PEM without a certificate"),
    ],
)
async def test_what_is_no_certificate(program: Program, given: bytes, said: str) -> None:
    result = await program("svid", "inspect", "-", stdin=given)
    assert (result.exit_code, result.stdout) == (3, "")
    first = result.stderr.splitlines()[0]
    assert first.startswith("error: ")
    assert first.endswith(f"{said} (svid_malformed)")


@pytest.mark.invariant(10)
async def test_a_private_key_beside_the_chain_is_not_shown(program: Program) -> None:
    leaf, pem = good()
    key = leaf.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    result = await program("svid", "inspect", "-o", "json", "-", stdin=key + pem)
    assert result.exit_code == 0
    assert key.splitlines()[1].decode() not in result.output


async def test_a_missing_file_is_wrong_usage(program: Program) -> None:
    assert (await program("svid", "inspect", "/nowhere.pem")).exit_code == 2
