"""OIDC discovery of a real server, as strangers use it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from citadel._wire import agent_api_pb2 as pb
from citadel._wire import rotation_pb2, types_pb2
from tests.servers import Member, Server, free_port, http_status, running_server, server_settings
from tests.strangers import WebCa, claims_of, put

pytestmark = pytest.mark.integration

MAX_AGE = 1  # seconds; the margin of rotations is shorter


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

    async def key_ids(self) -> list[str]:
        """Of the keys that strangers find."""
        return [key["kid"] for key in (await self.get("/keys")).json()["keys"]]

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
        "max_age": f"{MAX_AGE}s",
    }
    async with running_server(server_settings(tmp_path, oidc=oidc, rotation={"margin": "500ms"})) as server:
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


@pytest.mark.invariant(3, 4)
async def test_a_new_key_is_known_for_max_age_before_it_signs_and_the_old_one_until_its_tokens_have_ended(
    site: Site,
) -> None:
    agent = await site.server.join("node-1")
    web = await site.server.entry("/web", agent)
    believed = partial(claims_of, issuer=site.issuer, audience="shop", trust=site.ca.trust())
    old = await site.token(agent, web, "shop")
    (first,) = await site.key_ids()
    rotations = site.server.rotations()
    begun, observed = time.monotonic(), 0
    await rotations.StartRotation(rotation_pb2.StartRotationRequest(kind="jwt"))
    await rotations.SkipHolder(rotation_pb2.SkipHolderRequest(name="node-1", why="it is away"))
    while (phase := await phase_of(rotations)) != "drain":
        known, token = await site.key_ids(), await site.token(agent, web, "shop")
        if phase == await phase_of(rotations) == "observe":
            assert len(known) == 2
            assert jwt.get_unverified_header(token)["kid"] == first
            observed += 1
        await asyncio.sleep(0.05)
    assert observed
    assert time.monotonic() - begun > MAX_AGE
    new = await site.token(agent, web, "shop")
    second = jwt.get_unverified_header(new)["kid"]
    assert set(await site.key_ids()) == {first, second}
    for token in (old, new):
        assert (await believed(token))["sub"] == web.spiffe_id

    await rotations.SkipHolder(rotation_pb2.SkipHolderRequest(name=f"jwt/{first}", why="a test"))
    async with asyncio.timeout(10):
        while await site.key_ids() != [second]:
            await asyncio.sleep(0.05)
    assert (await believed(new))["sub"] == web.spiffe_id
    with pytest.raises(jwt.PyJWKClientError, match="Unable to find a signing key"):
        await believed(old)


async def phase_of(rotations: Any) -> str:
    phase: str = (await rotations.GetRotation(rotation_pb2.GetRotationRequest())).rotation.phase
    return phase


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
