"""A caller that brings certificates of its own making, from wherever it likes."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.certificates import Signed

_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n"
_SECONDS: Final = 10.0


async def let_in(
    address: tuple[str, int], chain: Sequence[Signed], *, enter: Sequence[str] = (), name: str = ""
) -> bool:
    """Whether `address` answers a request over TLS with `chain`, leaf first; `name` is asked for (SNI).

    `enter` stands before the command, so that it runs in a place.
    """
    host, port = address
    with tempfile.TemporaryDirectory() as folder:
        key, leaf, others = (Path(folder) / each for each in ("key.pem", "leaf.pem", "others.pem"))
        key.write_bytes(chain[0].key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        leaf.write_bytes(chain[0].pem)
        others.write_bytes(b"".join(each.pem for each in chain[1:]))
        command = ["openssl", "s_client", "-quiet", "-connect", f"{host}:{port}", "-key", str(key), "-cert", str(leaf)]
        command += ["-cert_chain", str(others)] if len(chain) > 1 else []
        command += ["-servername", name] if name else ["-noservername"]
        process = await asyncio.create_subprocess_exec(
            *enter,
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_SECONDS):
                process.stdin.write(_REQUEST)
                answer = await process.stdout.read(64)
        finally:
            if not process.stdout.at_eof():  # otherwise it ends by itself
                process.kill()  # not to wait for the end of the connection, which Envoy delays
            await process.wait()
    return answer.startswith(b"HTTP/1.1 200")
