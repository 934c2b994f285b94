"""JWT-SVIDs over the agents' door, verified by PyJWT with nothing but the served bundle."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import pytest
from grpc import aio

from citadel._wire import agent_api_pb2 as pb
from citadel._wire import bootstrap_pb2, rotation_pb2
from citadel._wire.rotation_pb2_grpc import RotationsStub
from citadel.bundle import TrustBundle
from citadel.jwt_svid import verify_jwt_svid
from tests.servers import Member, Server, Stream, running_server, server_settings, synced

pytestmark = pytest.mark.integration

ISSUER = "https://id.a.test"


async def bundle_of(server: Server) -> TrustBundle:
    answer = await server.bootstrap().GetBundle(bootstrap_pb2.GetBundleRequest())
    return TrustBundle.from_json(server.bundle.trust_domain, answer.bundle.json)


async def sign(server: Server, agent: Member, *items: tuple[str, Sequence[str]]) -> list[pb.JwtSvidResult]:
    requests = [pb.JwtSvidRequest(entry_id=entry_id, audience=audience) for entry_id, audience in items]
    answer = await server.agents(agent).SignJwtSvids(pb.SignJwtSvidsRequest(requests=requests))
    return list(answer.results)


def verified(token: str, bundle: TrustBundle, audience: str) -> dict[str, Any]:
    key = bundle.jwt_authorities[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, algorithms=["ES256", "ES384", "RS256"], audience=audience)
    svid = verify_jwt_svid(token, {bundle.trust_domain: bundle}, audience, datetime.now(UTC))
    assert str(svid.spiffe_id) == claims["sub"]
    return claims


@pytest.mark.spec("JWT-02", "JWT-05", "JWT-10", "JWT-12", "JWT-18", "JWT-25", "JWT-26", "JWT-29")
@pytest.mark.parametrize(
    ("kind", "algorithm"), [("ec-p256", "ES256"), ("ec-p384", "ES384"), ("rsa-2048", "RS256"), ("rsa-4096", "RS256")]
)
async def test_tokens_verify_by_the_served_bundle_and_what_is_refused_says_why(
    tmp_path: Path, kind: str, algorithm: str
) -> None:
    settings = server_settings(tmp_path, oidc={"issuer": ISSUER}, authorities={"jwt_key": kind})
    async with running_server(settings) as server:
        agent, other = await server.join("node-1"), await server.join("node-2")
        web, foreign = await server.entry("/web", agent), await server.entry("/foreign", other)
        short = await server.entry("/short", agent, jwt_svid_ttl={"seconds": 30})
        rotations = RotationsStub(server._open(aio.insecure_channel(f"unix:{settings.listen.admin_socket}")))
        plan = await rotations.PlanRotation(rotation_pb2.StartRotationRequest(kind="jwt"))
        assert plan.takes.ToTimedelta() == settings.oidc.max_age, "who polls for the keys may keep them for so long"
        bundle = await bundle_of(server)
        (kid,) = bundle.jwt_authorities
        items = [
            (web.id, ["shop"], ""),
            (web.id, [], "INVALID_ARGUMENT request_malformed"),
            (web.id, [""], "INVALID_ARGUMENT request_malformed"),
            (web.id, ["x" * 5000], "INVALID_ARGUMENT request_malformed"),
            (foreign.id, ["shop"], "PERMISSION_DENIED entry_not_authorized"),
            ("made-up", ["shop"], "PERMISSION_DENIED entry_not_authorized"),
            (short.id, ["shop", "till"], ""),
        ]
        rows = server.ledger.serials()
        results = await sign(server, agent, *((entry_id, audience) for entry_id, audience, _ in items))
        said = [f"{each.refusal.code} {each.refusal.reason}".strip() for each in results]
        assert said == [expected for _, _, expected in items]
        first, last = results[0].svid, results[-1].svid
        claims = verified(first.token, bundle, "shop")
        assert jwt.get_unverified_header(first.token) == {"alg": algorithm, "kid": kid, "typ": "JWT"}
        assert claims.keys() == {"iss", "sub", "aud", "iat", "exp"}
        assert (claims["iss"], claims["sub"], claims["aud"]) == (ISSUER, "spiffe://a.test/web", ["shop"])
        assert (first.spiffe_id, first.issued_at.seconds, first.expires_at.seconds) == (
            claims["sub"],
            claims["iat"],
            claims["exp"],
        )
        assert claims["exp"] - claims["iat"] == 300
        assert last.expires_at.seconds - last.issued_at.seconds == 30
        assert (first.lifetime_limited_by, last.lifetime_limited_by) == ("default", "entry")
        assert verified(last.token, bundle, "till")["aud"] == ["shop", "till"]
        with pytest.raises(jwt.InvalidAudienceError):
            verified(first.token, bundle, "till")
        assert server.ledger.serials() == rows, "tokens are no rows of the ledger"
        status = await server.status()
        assert sum(status.refused.values()) == 5


class Rotations:
    """Rotations of the keys, as an administrator has them; `stream` is that of the one agent."""

    def __init__(self, server: Server, stream: Stream) -> None:
        address = f"unix:{server.settings.listen.admin_socket}"
        self.stub = RotationsStub(server._open(aio.insecure_channel(address)))
        self.server = server
        self._stream = stream

    async def start(self, **wish: Any) -> None:
        request = rotation_pb2.StartRotationRequest(kind="jwt", **wish)
        await self.stub.StartRotation(request)

    async def acknowledge(self, keys: int) -> None:
        """Take what is pushed until the bundle has so many keys for tokens, and say so."""
        while True:
            update = await self._stream.next()
            for message in update.bundles:
                bundle = TrustBundle.from_json(self.server.bundle.trust_domain, message.json)
                if len(bundle.jwt_authorities) == keys:
                    said = pb.Acknowledge(revision=update.revision, bundle_sequence=bundle.sequence)
                    await self._stream.say(acknowledge=said)
                    return

    async def until(self, phase: str, *holders: str) -> rotation_pb2.RotationView:
        """Until it is in this phase, and waits for these."""
        async with asyncio.timeout(15):
            while True:
                view = await self.stub.GetRotation(rotation_pb2.GetRotationRequest())
                if view.rotation.phase == phase and [each.name for each in view.holders] == list(holders):
                    return view
                await asyncio.sleep(0.02)


@pytest.mark.invariant(3, 4, 11)
@pytest.mark.spec("JWT-30")
async def test_keys_rotate_when_all_have_acknowledged_and_no_token_lives_or_at_once_in_an_emergency(
    tmp_path: Path,
) -> None:
    async with running_server(server_settings(tmp_path, rotation={"margin": "500ms"})) as server:
        agent = await server.join("node-1")
        web = await server.entry("/web", agent)
        before = await server.status()
        (first,) = (await bundle_of(server)).jwt_authorities
        async with synced(server, agent) as stream:
            await stream.say(streams=pb.Streams(snapshot=True))
            rotations = Rotations(server, stream)
            (signed,) = await sign(server, agent, (web.id, ["shop"]))
            await rotations.start()
            held_up = await rotations.until("observe", "node-1")
            assert held_up.holders[0].words == "the agent has not acknowledged the bundle"
            (still,) = await sign(server, agent, (web.id, ["shop"]))
            assert jwt.get_unverified_header(still.svid.token)["kid"] == first

            await rotations.acknowledge(2)
            draining = await rotations.until("drain", f"jwt/{first}")
            assert draining.holders[0].until.seconds > signed.svid.expires_at.seconds, "a leeway for clocks"
            (new,) = await sign(server, agent, (web.id, ["shop"]))
            second = jwt.get_unverified_header(new.svid.token)["kid"]
            bundle = await bundle_of(server)
            assert bundle.jwt_authorities.keys() == {first, second}
            for token in (signed.svid.token, new.svid.token):
                assert verified(token, bundle, "shop")["sub"] == "spiffe://a.test/web"

            await rotations.stub.SkipHolder(rotation_pb2.SkipHolderRequest(name=f"jwt/{first}", why="a test"))
            await rotations.until("done")
            assert (await bundle_of(server)).jwt_authorities.keys() == {second}

            await rotations.start(emergency=True, deadline={"seconds": 1}, why="stolen")
            done = await rotations.until("done")
            assert done.rotation.alarm.endswith(f"went on from drain without jwt/{second}")
            (third,) = (await bundle_of(server)).jwt_authorities
            assert third not in (first, second)
            (last,) = await sign(server, agent, (web.id, ["shop"]))
            assert jwt.get_unverified_header(last.svid.token)["kid"] == third
        after = await server.status()
        shown = [(each.kind, each.state, each.kid) for each in after.authorities if each.kind == "jwt"]
        assert shown == [("jwt", "active", third)]
        assert after.bundle_sequence == before.bundle_sequence + 4
        assert after.bundle_x509_sequence == before.bundle_x509_sequence, "no proxy is waited for because of them"
