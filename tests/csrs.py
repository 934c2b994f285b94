"""Certificate requests, good ones and every kind of bad one."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def new_key(curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    """A key on P-256, or on another curve."""
    return ec.generate_private_key(curve or ec.SECP256R1())


def csr(key: PrivateKey | None = None, *, subject: x509.Name | None = None, names: tuple[str, ...] = ()) -> bytes:
    """A request for `key`, or for a new one; `names` are URIs that it asks for, which nobody should grant."""
    key = key or new_key()
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject or x509.Name([]))
    if names:
        uris = [x509.UniformResourceIdentifier(name) for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(uris), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(Encoding.DER)


def with_wrong_signature(der: bytes) -> bytes:
    """The request, or whatever else ends with its signature, with one bit of that changed."""
    return der[:-1] + bytes([der[-1] ^ 1])


def signed_by_another_key() -> bytes:
    """A request for one P-256 key whose signature was made by another: nobody showed that he has the first."""
    asked, other = csr(), new_key()
    request = x509.load_der_x509_csr(asked)
    # The last element is the BIT STRING of the signature; its length stands in its second byte.
    head = asked[: -len(request.signature) - 3]
    while True:  # until the signature is as long as the one that it replaces, so that no outer length changes
        signature = other.sign(request.tbs_certrequest_bytes, ec.ECDSA(hashes.SHA256()))
        if len(signature) == len(request.signature):
            return head + bytes([0x03, len(signature) + 1, 0]) + signature
