"""Bookinfo with the Envoys that are shipped: routes by signed-in user, faults, a canary, all of it by mutual TLS."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from citadel._wire import admin_pb2, types_pb2
from cli.demo import envoy
from cli.demo.issuer import ISSUER, Issuer
from cli.demo.plan import make_plan
from tests.agents import RunningAgent, running_agent
from tests.integration.bookinfo import SHIPPED, TRUST_DOMAIN, Bookinfo, policies
from tests.servers import Server, running_server, server_settings

pytestmark = pytest.mark.integration

SCENARIOS = sorted(path.name for path in (SHIPPED / "routes").iterdir())
FILES = sorted(path.relative_to(SHIPPED) for path in SHIPPED.glob("**/productpage.yaml")) + [
    Path("app/envoy") / f"{name}.yaml" for name in ("details", "reviews", "ratings")
]
VISITS = 300
# Of 300 with a chance of one half, 150 give or take five times 8.7.
LEAST, MOST = 106, 194


@pytest.fixture
def folder() -> Any:
    made = Path(tempfile.mkdtemp(prefix="citadel-bookinfo-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("file", FILES, ids=str)
def test_envoy_takes_each_file_with_each_of_its_routes(file: Path, scenario: str, tmp_path: Path) -> None:
    config = yaml.safe_load((SHIPPED / file).read_text())
    uses = False
    for listener in config["static_resources"]["listeners"]:
        connections = listener["filter_chains"][0]["filters"][0]["typed_config"]
        if "rds" in connections:
            name = Path(connections.pop("rds")["config_source"]["path_config_source"]["path"]).name
            (routes,) = yaml.safe_load((SHIPPED / "routes" / scenario / name).read_text())["resources"]
            assert routes.pop("@type") == "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
            connections["route_config"] = routes | {"validate_clusters": True}
            uses = True
    if not uses and scenario != SCENARIOS[0]:
        return  # it has no routes that change
    path = tmp_path / "envoy.yaml"
    path.write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [envoy.find_binary(), "--mode", "validate", "-c", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_who_has_a_token_is_the_only_difference_of_the_one_for_signed_in_users() -> None:
    plain, signed_in = (
        yaml.safe_load((SHIPPED / name / "productpage.yaml").read_text()) for name in ("app/envoy", "signed-in")
    )
    reviews = signed_in["static_resources"]["listeners"][1]["filter_chains"][0]["filters"][0]["typed_config"]
    early = reviews.pop("early_header_mutation_extensions")
    assert early[0]["typed_config"]["mutations"] == [{"remove": "end-user"}]
    asks = reviews["http_filters"].pop(0)["typed_config"]
    assert (asks["failure_mode_allow"], asks["clear_route_cache"]) == (False, True)
    assert plain == signed_in


@asynccontextmanager
async def bookinfo(folder: Path) -> AsyncIterator[tuple[Bookinfo, Issuer]]:
    # A kept connection may be closed by a workload just when it is used again.
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=20.0, trust_env=False, limits=limits) as client:
        settings = server_settings(folder, trust_domain=TRUST_DOMAIN)
        async with running_server(settings) as server:
            issuer, port = an_issuer(folder)
            policy_file, agent_folder = folder / "policies.yaml", folder / "agent"
            mesh = Bookinfo(folder, client, agent_socket=agent_folder / "agent.sock")
            policy_file.write_text(policies(mesh.signed_in, folder, issuer=ISSUER, keys_port=port))
            await issuer.start()
            try:
                async with running_agent(server, agent_folder, policy_file=policy_file) as agent:
                    await register(server, agent, mesh, folder)
                    mesh.put_routes("everyone-v1")
                    async with mesh.running():
                        yield mesh, issuer
            finally:
                await issuer.close()


def an_issuer(folder: Path) -> tuple[Issuer, int]:
    plan = make_plan(
        folder=folder,
        requests=1,
        leaf_lifetime=timedelta(hours=1),
        pace=1.0,
        most_seconds=60.0,
        keep=False,
        as_root=False,
    )
    return Issuer(plan), plan.issuer_port


async def register(server: Server, agent: RunningAgent, mesh: Bookinfo, folder: Path) -> None:
    for workload in mesh.workloads:
        entry = types_pb2.Entry(
            spiffe_id=str(workload.spiffe_id),
            parent_id=str(agent.spiffe_id),
            selectors=[str(workload.sidecar(folder).selector)],
        )
        await server.admin().CreateEntry(admin_pb2.CreateEntryRequest(entry=entry))


async def test_bookinfo(folder: Path) -> None:
    async with bookinfo(folder) as (mesh, issuer):
        await everybody_sees_version_1_and_who_calls_is_proved(mesh)
        await nobody_is_answered_in_plain_text(mesh)
        await jason_who_signed_in_sees_version_2(mesh)
        await who_has_a_token_is_jason_and_who_says_so_is_not(mesh, issuer)
        await ratings_that_take_long_for_jason_hold_up_nobody_else(mesh)
        await ratings_that_fail_for_jason_fail_for_nobody_else(mesh)
        await half_of_the_requests_see_the_canary_and_then_all(mesh)


async def everybody_sees_version_1_and_who_calls_is_proved(mesh: Bookinfo) -> None:
    page = await mesh.visit(user="jason")
    assert page.version == "v1"
    assert (
        page.details["caller"] == page.reviews["caller"] == "spiffe://example.org/ns/bookinfo/sa/bookinfo-productpage"
    )
    await mesh.use("everyone-v3")
    ratings = (await mesh.visit()).reviews["ratings"]
    assert ratings == {"caller": "spiffe://example.org/ns/bookinfo/sa/bookinfo-reviews", "stars": 5}


async def nobody_is_answered_in_plain_text(mesh: Bookinfo) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        for workload in (mesh.details, *mesh.reviews, mesh.ratings):
            with pytest.raises(httpx.HTTPError):
                await client.get(f"http://127.0.0.1:{workload.inbound}/")


async def jason_who_signed_in_sees_version_2(mesh: Bookinfo) -> None:
    await mesh.use("jason-v2")
    jason, other, nobody = [await mesh.visit(user=user) for user in ("jason", "mary", "")]
    assert (jason.version, other.version, nobody.version) == ("v2", "v1", "v1")
    assert (jason.reviews["user"], jason.reviews["ratings"]["stars"]) == ("jason", 5)


async def who_has_a_token_is_jason_and_who_says_so_is_not(mesh: Bookinfo, issuer: Issuer) -> None:
    jason = await mesh.visit(signed_in=True, token=issuer.token("jason"))
    assert (jason.version, jason.reviews["user"]) == ("v2", "jason")
    assert (await mesh.visit(signed_in=True, token=issuer.token("mary"), forged="jason")).reviews["user"] == "mary"
    forged = await mesh.visit(signed_in=True, forged="jason")
    assert (forged.version, forged.reviews["user"]) == ("v1", "")
    refused = await mesh.visit(signed_in=True, token="made.up.token")
    assert refused.reviews == {"error": 401, "reason": "jwt_malformed"}


async def ratings_that_take_long_for_jason_hold_up_nobody_else(mesh: Bookinfo) -> None:
    await mesh.use("delay", {"fixed_delay: 7s": "fixed_delay: 0.7s"})
    jason, other = await asyncio.gather(mesh.visit(user="jason"), mesh.visit(user="mary"))
    assert jason.reviews["ratings"]["stars"] == 5
    assert jason.seconds >= 0.7
    assert other.version == "v1"
    mesh.patience = 0.3  # in the same proportion as of the real ones: 7 s, and two tries of 3 s
    impatient = await mesh.visit(user="jason")
    mesh.patience = 10.0
    assert impatient.reviews == {"error": "timeout"}
    assert impatient.details["stars"] == 5, "one part that does not come leaves the others"


async def ratings_that_fail_for_jason_fail_for_nobody_else(mesh: Bookinfo) -> None:
    await mesh.use("abort")
    jason, other = [await mesh.visit(user=user) for user in ("jason", "mary")]
    assert (jason.version, jason.reviews["ratings"]["error"]) == ("v2", 500)
    assert other.version == "v1"


async def half_of_the_requests_see_the_canary_and_then_all(mesh: Bookinfo) -> None:
    await mesh.use("canary")
    pages = []
    for _ in range(VISITS // 20):
        pages += await asyncio.gather(*(mesh.visit() for _ in range(20)))
    seen = Counter(page.version for page in pages)
    assert set(seen) == {"v1", "v3"}
    assert LEAST <= seen["v3"] <= MOST
    await mesh.use("everyone-v3")
    assert {page.version for page in await asyncio.gather(*(mesh.visit() for _ in range(20)))} == {"v3"}
