"""Peers by their certificates: read once, and none of them fills the memory, whoever signed it."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from sds.authz.peers import PeerReader

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
PEER = "spiffe://evil.test/x"
MUCH = bytes(90_000)
OTHER = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), MUCH)


def source(*extensions: x509.ExtensionType, serial: int = 1) -> SimpleNamespace:
    """What a proxy tells of a peer with such a certificate."""
    builder = (
        x509.CertificateBuilder(x509.Name([]), x509.Name([]), KEY.public_key(), serial)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=9))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(PEER)]), critical=False)
    )
    for each in extensions:
        builder = builder.add_extension(each, critical=False)
    pem = builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM)
    return SimpleNamespace(certificate=quote(pem.decode(), safe=""), principal=PEER)


def test_a_certificate_is_read_once() -> None:
    reader, peer = PeerReader(), source(OTHER)
    assert reader.read(peer) is reader.read(peer)
    assert reader.read(source(serial=2)) != reader.read(peer)


@pytest.mark.parametrize("extension", [OTHER, x509.AuthorityKeyIdentifier(MUCH, None, None)])
def test_a_certificate_of_any_length_takes_as_little_memory_as_others(extension: x509.ExtensionType) -> None:
    reader = PeerReader()
    tracemalloc.start()
    try:
        for number in range(20):
            assert reader.read(source(extension, serial=1 + number)) is not None
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < len(MUCH), "each is kept"
