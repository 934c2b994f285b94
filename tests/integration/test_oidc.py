"""OIDC discovery of a real server, as strangers use it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import jwt
import pytest

from citadel._wire import agent_api_pb2 as pb
from citadel._wire import types_pb2
from tests.servers import Member, Server, free_port, http_status, running_server, server_settings
from tests.strangers import WebCa, claims_of, put

pytestmark = pytest.mark.integration


@dataclass
class Site:
    """A server that strangers know as `issuer`."""

    server: Server
    ca: WebCa
    issuer: str

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, verify=self.ca.trust()) as client:
            return await client.get(f"{self.issuer}{path}")

    async def token(self, agent: Member, entry: types_pb2.Entry, audience: str) -> str:
        """A new JWT-SVID of this entry."""
        request = pb.JwtSvidRequest(entry_id=entry.id, audience=[audience])
        answer = await self.server.agents(agent).SignJwtSvids(pb.SignJwtSvidsRequest(requests=[request]))
        return answer.results[0].svid.token

    async def told(self, path: str) -> str:
        """What the server tells those who watch it."""
        return (await http_status(self.server.settings.listen.probes, path))[1]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    ca, port = WebCa(), free_port()
    certificate, key = put(tmp_path, ca.certificate())
    issuer = f"https://localhost:{port}/mesh"
    oidc = {
        "issuer": issuer,
        "listen": f"127.0.0.1:{port}",
        "certificate_file": certificate,
        "key_file": key,
        "max_age": "1s",
    }
    async with running_server(server_settings(tmp_path, oidc=oidc)) as server:
        yield Site(server, ca, issuer)


async def test_a_token_is_believed_by_who_knows_the_issuer_s_url_alone(site: Site) -> None:
    agent = await site.server.join("node-1")
    token = await site.token(agent, await site.server.entry("/web", agent), "sts.amazonaws.com")
    trust = site.ca.trust()
    claims = await claims_of(token, issuer=site.issuer, audience="sts.amazonaws.com", trust=trust)
    assert (claims["iss"], claims["sub"]) == (site.issuer, "spiffe://a.test/web")
    with pytest.raises(jwt.InvalidAudienceError):
        await claims_of(token, issuer=site.issuer, audience="another", trust=trust)
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        await claims_of(token, issuer=site.issuer, audience="sts.amazonaws.com", trust=WebCa().trust())
    (key,) = (await site.get("/keys")).json()["keys"]
    assert (key["use"], key["kid"]) == ("sig", jwt.get_unverified_header(token)["kid"])


async def test_it_is_watched_like_the_other_parts_of_the_server(site: Site) -> None:
    assert (await site.get("/metrics")).status_code == 404
    assert 'citadel_oidc_requests_total{document="other",status="404"} 1.0' in await site.told("/metrics")
    ready = json.loads(await site.told("/ready"))
    assert "is good until" in ready["checks"]["oidc"]
    key = site.server.settings.oidc.key_file
    assert key is not None
    key.chmod(0o644)
    async with asyncio.timeout(15):
        while "degraded" not in (told := await site.told("/ready")):
            await asyncio.sleep(0.05)
    assert "has mode 0644" in json.loads(told)["checks"]["oidc"]
