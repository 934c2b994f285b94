"""JWT-SVIDs over the agents' door, verified by PyJWT with nothing but the served bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jwt
import pytest

from citadel._wire import agent_api_pb2 as pb
from citadel._wire import bootstrap_pb2
from citadel.bundle import TrustBundle
from tests.servers import Member, Server, running_server, server_settings

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
    return jwt.decode(token, key, algorithms=["ES256", "RS256"], audience=audience)


@pytest.mark.spec("JWT-02", "JWT-05", "JWT-10", "JWT-12", "JWT-18", "JWT-25", "JWT-26", "JWT-29")
@pytest.mark.parametrize(("kind", "algorithm"), [("ec-p256", "ES256"), ("rsa-2048", "RS256")])
async def test_tokens_verify_by_the_served_bundle_and_what_is_refused_says_why(
    tmp_path: Path, kind: str, algorithm: str
) -> None:
    settings = server_settings(tmp_path, oidc={"issuer": ISSUER}, authorities={"jwt_key": kind})
    async with running_server(settings) as server:
        agent, other = await server.join("node-1"), await server.join("node-2")
        web, foreign = await server.entry("/web", agent), await server.entry("/foreign", other)
        short = await server.entry("/short", agent, jwt_svid_ttl={"seconds": 30})
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
        assert verified(last.token, bundle, "till")["aud"] == ["shop", "till"]
        with pytest.raises(jwt.InvalidAudienceError):
            verified(first.token, bundle, "till")
        assert server.ledger.serials() == rows, "tokens are no rows of the ledger"
        status = await server.status()
        assert sum(status.refused.values()) == 5
