"""Private keys, and the certificate requests that prove them. Making an RSA key takes long: call it off the loop."""

from __future__ import annotations

from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

KeyKind = Literal["ec-p256", "ec-p384", "rsa-2048"]
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_NO_NAME: Final = x509.Name([])


def new_key(kind: KeyKind) -> PrivateKey:
    """A fresh private key from the operating system's randomness."""
    match kind:
        case "ec-p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "ec-p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "rsa-2048":
            return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def request_for(key: PrivateKey) -> bytes:
    """A certificate request (DER) that proves `key` and names nobody: the server takes only the key from it."""
    request = x509.CertificateSigningRequestBuilder().subject_name(_NO_NAME).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def to_pkcs8(key: PrivateKey) -> bytes:
    """The unencrypted PKCS#8 DER form. For the workload alone (invariant 1)."""
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def to_pem(key: PrivateKey) -> bytes:
    """The unencrypted PKCS#8 PEM form. For the agent's own key, on disk and in its channel's credentials."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_pem(pem: bytes) -> PrivateKey:
    """What `to_pem` gave. Raises `TypeError`, `ValueError` or `UnsupportedAlgorithm`, whose text may show the key."""
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, PrivateKey):
        raise TypeError("a key of a type that agents do not use")
    return key
