"""The lines of the checklist that bind an issuer, shown on what a running server hands out and publishes."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import sqlite3
import ssl
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from citadel.bundle import TrustBundle
from citadel.config.types import HostPort
from citadel.errors import Unauthenticated
from citadel.jwk import key_from_jwk
from citadel.reserved import SERVER_DNS_NAME
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.svid import verify_x509_svid
from tests.certificates import key_usage, rsa_key
from tests.csrs import PrivateKey, csr, new_key
from tests.servers import Member, Server, running_server, server_settings, sign

pytestmark = pytest.mark.integration

A_TEST = TrustDomain("a.test")
LONGEST = "/" + "p" * (2048 - len("spiffe://a.test/"))
LEAVES = ("workload", "workload P-384", "workload RSA-2048", "workload with DNS names", "longest ID", "agent", "server")
AUTHORITIES = ("root", "issuer", "next issuer", "another server's root", "another server's issuer")


@cache
def workload_keys() -> dict[str, PrivateKey]:
    return {"workload": new_key(), "workload P-384": new_key(ec.SECP384R1()), "workload RSA-2048": rsa_key()}


@dataclass(frozen=True)
class Issued:
    """What two servers of one trust domain made: chains, leaf first without the root, and CA certificates, by name."""

    bundle: TrustBundle
    published: bytes
    chains: dict[str, tuple[x509.Certificate, ...]]
    authorities: dict[str, x509.Certificate]
    ids: dict[str, str]

    def leaf(self, name: str) -> x509.Certificate:
        return self.chains[name][0]

    def all(self) -> list[x509.Certificate]:
        return [*(chain[0] for chain in self.chains.values()), *self.authorities.values()]


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Issued:
    """Everything at once, because each test only looks."""
    return asyncio.run(_issue(tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")))


async def _issue(first: Path, second: Path) -> Issued:
    chains: dict[str, tuple[x509.Certificate, ...]] = {}
    async with running_server(server_settings(first)) as server:
        agent = await server.join("node-1")
        chains["agent"] = _parsed(agent.chain)
        chains["server"] = await _presented(server, server.settings.listen.bootstrap)
        for name, (path, fields) in _wanted().items():
            entry = await server.entry(path, agent, **fields)
            chains[name] = await _workload(server, agent, entry.id, workload_keys().get(name) or new_key())
        bundle, published = server.bundle, server.published
    async with _with_a_new_issuer(first) as server:
        chains["agent of the next issuer"] = _parsed((await server.join("node-2")).chain)
    async with running_server(server_settings(second)) as server:
        other = _parsed((await server.join("node-1")).chain)
        (other_root,) = server.bundle.x509_authorities
    next_issuer = chains.pop("agent of the next issuer")[1]
    (root,) = bundle.x509_authorities
    return Issued(
        bundle=bundle,
        published=published,
        chains=chains,
        authorities=dict(zip(AUTHORITIES, (root, chains["agent"][1], next_issuer, other_root, other[1]), strict=True)),
        ids={name: f"spiffe://a.test{path}" for name, (path, _) in _wanted().items()}
        | {"agent": agent.spiffe_id, "server": "spiffe://a.test/citadel/server"},
    )


def _wanted() -> dict[str, tuple[str, dict[str, Any]]]:
    return {
        "workload": ("/ns/prod/sa/Web", {}),
        "workload P-384": ("/p384", {}),
        "workload RSA-2048": ("/rsa", {}),
        "workload with DNS names": ("/dns", {"dns_names": ["web.a.test", "web"]}),
        "longest ID": (LONGEST, {}),
    }


def _with_a_new_issuer(folder: Path) -> Any:
    """The server of `folder` again, which finds no issuer in its store and makes one."""
    with sqlite3.connect(folder / "data" / "citadel.db") as database:
        database.execute("UPDATE authority SET state = 'old' WHERE kind = 'issuer'")
    database.close()
    return running_server(server_settings(folder))


async def _workload(server: Server, agent: Member, entry_id: str, key: PrivateKey) -> tuple[x509.Certificate, ...]:
    (result,) = await sign(server.agents(agent), (entry_id, csr(key)))
    assert result.WhichOneof("result") == "svid", result.refusal
    return _parsed(tuple(result.svid.chain))


async def _presented(server: Server, address: HostPort) -> tuple[x509.Certificate, ...]:
    """The chain that a TLS listener presents, once a client has verified it."""
    context = ssl.create_default_context(cadata=server.bundle.to_pem().decode())
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection(address.host, address.port, ssl=context, server_hostname=SERVER_DNS_NAME)
    chain = writer.get_extra_info("ssl_object")._sslobj.get_unverified_chain()
    writer.close()
    return tuple(x509.load_pem_x509_certificate(certificate.public_bytes().encode()) for certificate in chain)


def _parsed(chain: tuple[bytes, ...]) -> tuple[x509.Certificate, ...]:
    return tuple(x509.load_der_x509_certificate(der) for der in chain)


def extension(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> tuple[Any, bool]:
    """Value and criticality."""
    found = certificate.extensions.get_extension_for_oid(oid)
    return found.value, found.critical


def uris(certificate: x509.Certificate) -> list[str]:
    names, _ = extension(certificate, ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    return list(names.get_values_for_type(x509.UniformResourceIdentifier))


@pytest.mark.spec("X509-01", "X509-02", "X509-05", "ID-07", "ID-16", "ID-19", "ID-20")
@pytest.mark.parametrize("name", LEAVES)
def test_a_leaf_carries_exactly_its_spiffe_id(issued: Issued, name: str) -> None:
    (uri,) = uris(issued.leaf(name))
    assert uri == issued.ids[name]
    assert str(SpiffeId.parse(uri)) == uri
    assert SpiffeId.parse(uri).trust_domain == A_TEST


@pytest.mark.spec("X509-05")
@pytest.mark.invariant(13)
def test_dns_names_are_those_of_the_entry_and_the_reserved_one_is_the_server_s(issued: Issued) -> None:
    found = {}
    for name in LEAVES:
        names, _ = extension(issued.leaf(name), ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
        found[name] = names.get_values_for_type(x509.DNSName)
        assert len(names) == 1 + len(found[name]), "URI and DNS names and no others"
    expected: dict[str, list[str]] = {name: [] for name in LEAVES}
    assert found == expected | {"workload with DNS names": ["web.a.test", "web"], "server": [SERVER_DNS_NAME]}


@pytest.mark.spec("X509-11")
@pytest.mark.parametrize("name", LEAVES)
def test_a_leaf_s_subject_is_empty_and_its_names_therefore_critical(issued: Issued, name: str) -> None:
    assert list(issued.leaf(name).subject) == []
    assert extension(issued.leaf(name), ExtensionOID.SUBJECT_ALTERNATIVE_NAME)[1]


@pytest.mark.spec("X509-13", "X509-17", "X509-18", "X509-22", "X509-23", "X509-24", "X509-25", "X509-26", "X509-27")
@pytest.mark.parametrize("name", LEAVES)
def test_a_leaf_may_sign_handshakes_and_nothing_else(issued: Issued, name: str) -> None:
    leaf = issued.leaf(name)
    constraints, critical = extension(leaf, ExtensionOID.BASIC_CONSTRAINTS)
    assert (constraints.ca, constraints.path_length, critical) == (False, None, True)
    assert extension(leaf, ExtensionOID.KEY_USAGE) == (key_usage("digital_signature"), True)
    purposes, _ = extension(leaf, ExtensionOID.EXTENDED_KEY_USAGE)
    assert set(purposes) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


@pytest.mark.spec("X509-15")
@pytest.mark.parametrize("name", LEAVES)
def test_a_leaf_has_these_extensions_and_no_others(issued: Issued, name: str) -> None:
    assert {found.oid for found in issued.leaf(name).extensions} == {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    }


@pytest.mark.spec("ID-24")
@pytest.mark.parametrize("name", list(workload_keys()))
def test_a_leaf_is_for_the_key_that_asked_and_says_so_under_its_signature(issued: Issued, name: str) -> None:
    leaf, issuer = issued.chains[name]
    assert leaf.public_key() == workload_keys()[name].public_key()
    assert issued.ids[name].encode() in leaf.tbs_certificate_bytes
    leaf.verify_directly_issued_by(issuer)


@pytest.mark.spec("ID-22", "ID-23", "X509-02", "X509-07", "X509-08", "X509-09", "X509-10")
@pytest.mark.parametrize("name", AUTHORITIES)
def test_an_authority_is_an_svid_of_the_trust_domain_without_a_path(issued: Issued, name: str) -> None:
    assert uris(issued.authorities[name]) == ["spiffe://a.test"]


@pytest.mark.spec("X509-12", "X509-14", "X509-15", "X509-17", "X509-18", "X509-19", "X509-20", "X509-21", "X509-28")
@pytest.mark.parametrize("name", AUTHORITIES)
def test_an_authority_signs_certificates_and_nothing_else(issued: Issued, name: str) -> None:
    authority = issued.authorities[name]
    constraints, critical = extension(authority, ExtensionOID.BASIC_CONSTRAINTS)
    assert (constraints.ca, critical) == (True, True)
    assert constraints.path_length == (None if name.endswith("root") else 0)
    assert extension(authority, ExtensionOID.KEY_USAGE) == (key_usage("key_cert_sign", "crl_sign"), True)
    present = {found.oid for found in authority.extensions}
    assert not present & {ExtensionOID.EXTENDED_KEY_USAGE, ExtensionOID.NAME_CONSTRAINTS}


def test_no_two_authorities_share_a_subject_and_none_is_empty(issued: Issued) -> None:
    # RFC 5280 section 4.1.2.6: a CA's subject is not empty. BoringSSL looks issuers up by it.
    subjects = {authority.subject for authority in issued.authorities.values()}
    assert len(subjects) == len(AUTHORITIES)
    assert all(list(subject) for subject in subjects)


def test_serials_are_positive_unique_and_of_at_most_128_bits(issued: Issued) -> None:
    serials = [certificate.serial_number for certificate in issued.all()]
    assert len(set(serials)) == len(serials)
    assert all(0 < serial < 2**128 for serial in serials)  # RFC 5280 section 4.1.2.2: positive, at most 20 bytes


def test_key_identifiers_lead_from_leaf_to_issuer_to_root(issued: Issued) -> None:
    for name in LEAVES:
        path = [*issued.chains[name], issued.authorities["root"]]
        for child, parent in pairwise(path):
            identifier, _ = extension(child, ExtensionOID.AUTHORITY_KEY_IDENTIFIER)
            assert identifier.key_identifier == extension(parent, ExtensionOID.SUBJECT_KEY_IDENTIFIER)[0].digest


@pytest.mark.invariant(6)
def test_nothing_lives_outside_the_life_of_its_issuer(issued: Issued) -> None:
    for name in LEAVES:
        path = [*issued.chains[name], issued.authorities["root"]]
        for child, parent in pairwise(path):
            assert parent.not_valid_before_utc <= child.not_valid_before_utc
            assert child.not_valid_after_utc <= parent.not_valid_after_utc


def test_every_certificate_is_version_3_signed_with_sha_256_and_backdated_a_little(issued: Issued) -> None:
    now = datetime.now(UTC)
    for certificate in issued.all():
        assert certificate.version is x509.Version.v3
        assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
        assert now - timedelta(minutes=5) < certificate.not_valid_before_utc < now


@pytest.mark.parametrize("name", LEAVES)
def test_our_verifier_believes_every_leaf(issued: Issued, name: str) -> None:
    chain = [certificate.public_bytes(Encoding.DER) for certificate in issued.chains[name]]
    svid = verify_x509_svid(chain, {A_TEST: issued.bundle}, datetime.now(UTC))
    assert str(svid.spiffe_id) == issued.ids[name]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command on this machine")
@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
@pytest.mark.parametrize("name", LEAVES)
def test_openssl_believes_every_leaf(issued: Issued, name: str, purpose: str, tmp_path: Path) -> None:
    leaf, issuer = (certificate.public_bytes(Encoding.PEM) for certificate in issued.chains[name])
    for file, content in (("leaf", leaf), ("issuer", issuer), ("root", issued.bundle.to_pem())):
        (tmp_path / file).write_bytes(content)
    command = ["openssl", "verify", "-x509_strict", "-no-CApath", "-no-CAstore", "-auth_level", "2"]
    command += ["-purpose", purpose, "-CAfile", "root", "-untrusted", "issuer", "leaf"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.spec("BUNDLE-18", "BUNDLE-19", "ID-26")
def test_the_root_of_another_server_vouches_for_nothing_here(issued: Issued) -> None:
    other = TrustBundle(trust_domain=A_TEST, x509_authorities=(issued.authorities["another server's root"],))
    chain = [certificate.public_bytes(Encoding.DER) for certificate in issued.chains["workload"]]
    with pytest.raises(Unauthenticated):
        verify_x509_svid(chain, {A_TEST: other}, datetime.now(UTC))


@pytest.mark.spec("BUNDLE-19")
def test_no_two_authorities_share_a_key(issued: Issued) -> None:
    keys = {authority.public_key().public_numbers() for authority in issued.authorities.values()}
    assert len(keys) == len(AUTHORITIES)


@pytest.mark.spec("X509-35", "X509-36")
async def test_both_listeners_present_a_leaf_and_its_issuer_but_no_authority_of_their_own(tmp_path: Path) -> None:
    async with running_server(server_settings(tmp_path)) as server:
        (presented, issuer) = await _presented(server, server.settings.listen.bootstrap)
        assert uris(presented) == ["spiffe://a.test/citadel/server"]
        assert not extension(presented, ExtensionOID.BASIC_CONSTRAINTS)[0].ca
        assert presented.public_key() != issuer.public_key()
        agent = await server.join("node-1")
        context = ssl.create_default_context(cadata=server.bundle.to_pem().decode())
        (tmp_path / "key").write_bytes(agent.key_pem)
        (tmp_path / "chain").write_bytes(agent.chain_pem)
        context.load_cert_chain(tmp_path / "chain", tmp_path / "key")
        context.set_alpn_protocols(["h2"])
        address = server.settings.listen.agents
        _, writer = await asyncio.open_connection(
            address.host, address.port, ssl=context, server_hostname=SERVER_DNS_NAME
        )
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        assert shown == presented.public_bytes(Encoding.DER)


@pytest.mark.spec(
    "BUNDLE-01", "BUNDLE-02", "BUNDLE-04", "BUNDLE-05", "BUNDLE-07", "BUNDLE-08", "BUNDLE-11", "BUNDLE-13", "BUNDLE-15"
)
@pytest.mark.spec("X509-37", "X509-38", "X509-39", "X509-40", "X509-41")
def test_the_published_bundle_says_what_the_standard_wants_and_no_more(issued: Issued) -> None:
    document = json.loads(issued.published)
    assert document.keys() == {"keys", "spiffe_sequence", "spiffe_refresh_hint"}
    assert type(document["spiffe_sequence"]) is int
    assert document["spiffe_sequence"] == 1
    assert type(document["spiffe_refresh_hint"]) is int
    assert document["spiffe_refresh_hint"] > 0
    entry, token_key = document["keys"]
    assert token_key.keys() == {"use", "kid", "kty", "crv", "x", "y"}
    assert (token_key["use"], token_key["kty"]) == ("jwt-svid", "EC")
    assert entry.keys() == {"use", "kty", "crv", "x", "y", "x5c"}
    assert (entry["use"], entry["kty"]) == ("x509-svid", "EC")
    (der,) = entry["x5c"]
    root = x509.load_der_x509_certificate(base64.b64decode(der, validate=True))
    assert root == issued.authorities["root"]
    assert key_from_jwk(entry) == root.public_key()
    root.verify_directly_issued_by(root)


@pytest.mark.spec("BUNDLE-05")
@pytest.mark.invariant(11, 12)
async def test_the_published_bundle_is_the_same_after_a_restart_and_a_new_issuer(tmp_path: Path) -> None:
    async with running_server(server_settings(tmp_path)) as server:
        before = server.published
    async with running_server(server_settings(tmp_path)) as server:
        assert server.published == before
    async with _with_a_new_issuer(tmp_path) as server:
        assert server.published == before
