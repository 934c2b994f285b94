"""The lines FED-* about who serves a bundle: the endpoint of a real server, asked by whoever likes."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.federation.proving import presented
from citadel._wire import rotation_pb2
from citadel.bundle import TrustBundle
from citadel.svid import verify_x509_svid
from tests.certificates import A_TEST, Signed
from tests.ports import free_port
from tests.servers import Server, running_server, server_settings
from tests.strangers import WebCa, put


@dataclass
class Site:
    """A server that serves its bundle, and what a stranger needs to ask it."""

    server: Server
    folder: Path
    ca: WebCa

    @property
    def port(self) -> int:
        assert self.server.settings.federation.listen is not None
        return self.server.settings.federation.listen.port

    @property
    def is_web(self) -> bool:
        return self.server.settings.federation.certificate_file is not None

    def trust(self) -> ssl.SSLContext:
        """By whom the endpoint is believed: the web, by its name; or the bundle of its trust domain, without one."""
        if self.is_web:
            return self.ca.trust()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=self.server.bundle.to_pem().decode())
        return context

    async def ask(self, method: str = "GET", path: str = "/", **more: Any) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, verify=self.trust()) as client:
            return await client.request(method, f"https://localhost:{self.port}{path}", **more)

    async def shown(self) -> x509.Certificate:
        """The certificate that is shown now."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.trust(), server_hostname="localhost")
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return x509.load_der_x509_certificate(der)

    async def above(self) -> list[bytes]:
        """What is shown above the certificate."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.trust(), server_hostname="localhost")
        chain = presented(writer.get_extra_info("ssl_object"))
        writer.close()
        return list(chain[1:])


def web_files(folder: Path, certificate: Signed) -> dict[str, Any]:
    certificate_file, key_file = put(folder, certificate)
    return {"profile": "https_web", "certificate_file": certificate_file, "key_file": key_file}


@pytest.fixture(params=["https_spiffe", "https_web"])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    ca = WebCa()
    files = web_files(tmp_path, ca.certificate()) if request.param == "https_web" else {}
    federation = {"listen": f"127.0.0.1:{free_port()}", "refresh_hint": "90s", **files}
    async with running_server(server_settings(tmp_path, federation=federation)) as server:
        yield Site(server, tmp_path, ca)


@pytest.mark.spec("FED-01", "FED-03", "FED-12", "FED-13", "FED-14", "FED-15", "FED-16", "BUNDLE-07")
async def test_anybody_gets_the_newest_bundle_and_nothing_else(site: Site) -> None:
    answer = await site.ask()
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    document = json.loads(answer.content.decode("utf-8"))
    assert document["spiffe_refresh_hint"] == 90
    assert TrustBundle.from_json(A_TEST, answer.content) == site.server.bundle
    # A query names no other document; a header or a body changes nothing.
    assert (await site.ask(path="/?x=1", headers={"authorization": "Bearer x"})).content == answer.content
    for method in ("HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
        assert (await site.ask(method)).status_code == 405, method
    for path in ("/bundle", "/keys", "//", "/x/..%2f", "/.well-known/openid-configuration"):
        assert (await site.ask(path=path)).status_code == 404, path
    assert "server" not in answer.headers


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
@pytest.mark.spec("FED-04")
async def test_tls_is_1_2_or_later_with_good_ciphers_alone(site: Site) -> None:
    for version, ciphers, is_spoken in (
        (ssl.TLSVersion.TLSv1_1, "DEFAULT@SECLEVEL=0", False),
        (ssl.TLSVersion.TLSv1_2, "AES128-SHA", False),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA", False),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-GCM-SHA256", True),
        (ssl.TLSVersion.TLSv1_3, "DEFAULT", True),
    ):
        context = site.trust()
        context.set_ciphers(ciphers)
        context.minimum_version = context.maximum_version = version
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", site.port, ssl=context, server_hostname="localhost")
        except (ssl.SSLError, ConnectionError):
            assert not is_spoken, (version, ciphers)
            continue
        writer.close()
        assert is_spoken, (version, ciphers)


@pytest.mark.spec("FED-11", "FED-23")
async def test_what_it_shows_is_what_its_profile_asks_for(site: Site) -> None:
    shown = await site.shown()
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if site.is_web:
        assert names.get_values_for_type(x509.DNSName) == ["localhost"]
        return
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == ["spiffe://a.test/citadel/server"]
    verify_x509_svid([shown.public_bytes(Encoding.DER), *await site.above()], {A_TEST: site.server.bundle}, now=now())


@pytest.mark.spec("FED-43")
async def test_another_certificate_is_shown_without_a_restart(site: Site) -> None:
    before = await site.shown()
    if site.is_web:
        put(site.folder, site.ca.certificate())
    else:
        await site.server.rotations().StartRotation(rotation_pb2.StartRotationRequest(kind="issuer", why="a test"))
    async with asyncio.timeout(20):
        while (await site.shown()).serial_number == before.serial_number:
            await asyncio.sleep(0.05)
    assert (await site.ask()).status_code == 200


def now() -> datetime:
    return datetime.now(UTC)
