"""Callers that must be refused: one without an identity, and one that made its own."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from citadel.spiffe import SpiffeId

_REQUEST = b"GET /reviews HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n"
_SECONDS = 5.0


async def attempt(port: int, *, claims: SpiffeId | None) -> str:
    """Try to get the reviews over TLS, with a self-made certificate for `claims` or with none.

    Returns the words in which it was refused, or "" where it was let in.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the intruder does not care who answers
    if claims is not None:
        _load_self_made(context, claims)
    try:
        async with asyncio.timeout(_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            writer.write(_REQUEST)
            answer = await reader.read(64)
            writer.close()
    except (OSError, TimeoutError) as error:
        return str(getattr(error, "reason", None) or error or type(error).__name__)
    return "" if answer.startswith(b"HTTP/1.1 200") else "connection closed"


def _load_self_made(context: ssl.SSLContext, claims: SpiffeId) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(
            issuer_name=x509.Name([]), subject_name=x509.Name([]), public_key=key.public_key(), serial_number=1
        )
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(minutes=5))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(claims))]), critical=True)
        .sign(key, hashes.SHA256())
    )
    with tempfile.TemporaryDirectory() as folder:  # the ssl module reads certificates from files only
        path = Path(folder) / "intruder.pem"
        path.touch(mode=0o600)
        path.write_bytes(
            certificate.public_bytes(Encoding.PEM)
            + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        context.load_cert_chain(path)
