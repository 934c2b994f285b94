"""Who checks tokens without knowing SPIFFE, and the certificate that the issuer shows them."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from citadel.config.files import write_private
from tests.certificates import PrivateKey, Signed, leaf, root, san


class WebCa:
    """A certificate authority as the web knows them, whose certificates are good from now on."""

    def __init__(self) -> None:
        self._root = root("web root", uri=None, not_before=_ago(), not_after=datetime.now(UTC) + timedelta(days=1))

    @property
    def pem(self) -> bytes:
        """What a file holds that names this authority."""
        return self._root.pem

    def trust(self) -> ssl.SSLContext:
        """What somebody takes who trusts this authority alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self._root.pem.decode())
        return context

    def certificate(self, name: str = "localhost", **changes: Any) -> Signed:
        """A certificate of a web server of this name."""
        profile: dict[str, Any] = {
            "names": san(dns=[name]),
            "not_before": _ago(),
            "not_after": datetime.now(UTC) + timedelta(hours=1),
        }
        return leaf(self._root, **(profile | changes))


def put(folder: Path, signed: Signed) -> tuple[Path, Path]:
    """Put the certificate and its key where a server finds them."""
    certificate, key = folder / "web.pem", folder / "web-key.pem"
    write_private(key, pem_of(signed.key))
    write_private(certificate, signed.pem)
    return certificate, key


def pem_of(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


async def claims_of(token: str, *, issuer: str, audience: str, trust: ssl.SSLContext) -> dict[str, Any]:
    """What the token says, for who knows nothing but its issuer's URL. Raises where it is not to be believed."""
    async with httpx.AsyncClient(trust_env=False, verify=trust) as client:
        document = (await client.get(f"{issuer}/.well-known/openid-configuration")).raise_for_status().json()
    assert document["issuer"] == issuer
    keys = jwt.PyJWKClient(document["jwks_uri"], ssl_context=trust)
    key = await asyncio.to_thread(keys.get_signing_key_from_jwt, token)
    algorithms = document["id_token_signing_alg_values_supported"]
    claims: dict[str, Any] = jwt.decode(token, key, algorithms=algorithms, issuer=issuer, audience=audience)
    return claims


def _ago() -> datetime:
    return datetime.now(UTC) - timedelta(minutes=1)
