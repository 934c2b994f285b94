"""A server whose root is in a real OpenBao: what it issues, what it trusts, and how both follow what is there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from citadel.certification_path import extension_of
from tests.openbao import OpenBao, new_openbao
from tests.servers import Server, running_server, server_settings

pytestmark = pytest.mark.integration

_POLL = "100ms"


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    bao = new_openbao(tmp_path_factory.mktemp("openbao"))
    yield bao
    bao.stop()


@asynccontextmanager
async def server_under(
    bao: OpenBao, mount: str, folder: Path, *, token: str = "", sections: Any = None, **named: Any
) -> AsyncIterator[Server]:
    """A server whose upstream is the PKI engine at `mount`."""
    token_file = folder / "vault-token"
    token_file.write_text(token or bao.root.token)
    token_file.chmod(0o600)
    settings = server_settings(
        folder,
        vault=bao.section(token_file),
        upstream={"vault": {"mount": mount, "poll": _POLL} | named},
        rotation={"margin": "500ms", "window": "1s"},
        **(sections or {}),
    )
    async with running_server(settings) as server:
        yield server


async def test_what_signs_here_is_signed_there(bao: OpenBao, tmp_path: Path) -> None:
    mount = bao.pki("pki-signed")
    async with server_under(bao, mount, tmp_path) as server:
        status = await server.status()
        assert (status.upstream.kind, status.upstream.source) == ("vault", mount)
        [root] = server.bundle.x509_authorities
        assert root.subject.rfc4514_string() == "CN=Root first"
        agent = await server.join("node-1")
        leaf, issuer = map(x509.load_der_x509_certificate, agent.chain)
        issuer.verify_directly_issued_by(root)
        leaf.verify_directly_issued_by(issuer)
        constraints = extension_of(issuer, x509.BasicConstraints)
        assert constraints == x509.BasicConstraints(ca=True, path_length=0)
