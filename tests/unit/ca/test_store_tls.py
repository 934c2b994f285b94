"""How a PostgreSQL proves itself before it is told a password: by the authorities of the URL, and by its name."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import pytest

from ca.store.database import Database
from citadel.errors import Reason, Unavailable
from tests.strangers import WebCa, put

SSL_REQUEST = 8  # bytes


def serve_one(listener: socket.socket, context: ssl.SSLContext) -> bytes:
    """What a client says through TLS; empty where it does not like the certificate."""
    plain, _ = listener.accept()
    with plain:
        plain.recv(SSL_REQUEST)
        plain.sendall(b"S")
        with suppress(OSError), context.wrap_socket(plain, server_side=True) as wrapped:
            return wrapped.recv(1000)
    return b""


@pytest.mark.parametrize(
    ("mode", "name", "is_known", "is_told"),
    [
        ("verify-full", "localhost", True, True),
        ("verify-full", "other.test", True, False),
        ("verify-full", "localhost", False, False),
        ("verify-ca", "other.test", True, True),
        ("verify-ca", "localhost", False, False),
        ("require", "other.test", False, True),
    ],
)
async def test_who_is_not_the_database_is_told_nothing(
    tmp_path: Path, mode: str, name: str, is_known: bool, is_told: bool
) -> None:
    its, other = WebCa(), WebCa()
    authorities = tmp_path / "authorities.pem"
    authorities.write_bytes((its if is_known else other).pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*put(tmp_path, its.certificate(name)))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        told = asyncio.create_task(asyncio.to_thread(serve_one, listener, context))
        query = f"sslmode={mode}" + (f"&sslrootcert={authorities}" if mode != "require" else "")
        database = Database.open(f"postgresql://u:p@localhost:{listener.getsockname()[1]}/d?{query}")
        with pytest.raises(Unavailable) as refused:  # it is no database anyway
            await database.migrate()
        await database.close()
        said = await told
    assert refused.value.reason is Reason.STORE_UNAVAILABLE
    assert is_told or "certificate verify failed" in refused.value.message
    assert (b"user" in said) is is_told
