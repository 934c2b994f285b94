"""A federated trust domain rotates its root behind an endpoint that misbehaves, and nobody there or here notices."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from citadel._wire import rotation_pb2, trust_pb2
from citadel._wire.rotation_pb2_grpc import RotationsStub
from citadel._wire.trust_pb2_grpc import TrustFactsStub
from citadel.bundle import TrustBundle
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.wire import to_duration
from tests.clusters.calls import Calls, calls_between
from tests.clusters.cluster import Cluster
from tests.clusters.front import Front
from tests.clusters.recipes import start_recipes
from tests.clusters.running import Wanted, clusters
from tests.integration.meshes import until

pytestmark = [pytest.mark.integration, pytest.mark.alone]

EAST, WEST = TrustDomain("east.example"), TrustDomain("west.example")
HINT: Final = timedelta(seconds=3)
_VALID: Final[dict[str, Any]] = {
    "not_before": datetime.now(UTC) - timedelta(minutes=5),
    "not_after": datetime.now(UTC) + timedelta(days=1),
}


@pytest.mark.soak  # what is followed, and what is not believed: test_federation, tests/unit/ca/test_foreign_bundles.py
@pytest.mark.invariant(3, 4, 5)
async def test_no_request_fails_while_a_federated_domain_rotates_its_root_behind_a_bad_endpoint(tmp_path: Path) -> None:
    wanted = [
        Wanted(
            name="east", trust_domain=EAST, settings={"federation": {"ca_file": str(tmp_path / "front" / "ca.pem")}}
        ),
        Wanted(name="west", trust_domain=WEST, settings={"federation": {"refresh_hint": f"{HINT.seconds}s"}}),
    ]
    async with clusters(wanted) as (east, west):
        front = Front(west, tmp_path / "front", valid=_VALID)
        await front.start()
        try:
            await _federate(east, west, front, tmp_path)
            await _rotate_under_load(east, west, front)
        finally:
            await front.kill()


async def _federate(east: Cluster, west: Cluster, front: Front, folder: Path) -> None:
    handed = folder / "east.json"
    handed.write_text(await east.cli("bundle", "show", "--format", "spiffe"))
    endpoint = ("--endpoint-id", f"spiffe://{EAST}/citadel/server", "--bundle", str(handed))
    await asyncio.gather(
        east.cli("federation", "create", WEST.name, "--profile", "https_web", "--url", front.url),
        west.cli("federation", "create", EAST.name, "--profile", "https_spiffe", "--url", east.endpoint_url, *endpoint),
    )


async def _rotate_under_load(east: Cluster, west: Cluster, front: Front) -> None:
    here, there = await asyncio.gather(
        start_recipes(east, west, naming=_member, federates_with=[WEST.name]),
        start_recipes(west, east, naming=_member, federates_with=[EAST.name]),
    )
    before = (await _known(east)).bundle
    front.keep_older(before.json)
    for caller in (*here.proxies, *there.proxies):
        await until(f"{caller.spiffe_id} calls", caller.works, seconds=10)
    pairs = [*zip(here.proxies, there.proxies, strict=True), *zip(there.proxies, here.proxies, strict=True)]
    async with calls_between(pairs) as calls, west.admin_channel() as channel:
        rotations = RotationsStub(channel)
        front.behave(delay=timedelta(seconds=1))
        await front.kill()
        request = rotation_pb2.StartRotationRequest(kind="root", window=to_duration(timedelta(0)))
        await rotations.StartRotation(request)
        await until("the endpoint is missed", lambda: _is_missed(east), seconds=10)
        await front.start()
        await until("east knows both roots", lambda: _knows(east, 2), seconds=10)
        assert (await rotations.GetRotation(rotation_pb2.GetRotationRequest())).rotation.phase == "observe"
        front.behave(is_older=True)
        views = [view async for view in rotations.WatchRotation(rotation_pb2.WatchRotationRequest())]
        assert (await _known(east)).last_reason == "bundle_older"
        await until("calls went on", _more(calls, 100), seconds=10)
        front.behave()
        await until("east knows the new root alone", lambda: _knows(east, 1), seconds=10)
        await until("calls went on", _more(calls, 100), seconds=10)
    assert views[-1].rotation.phase == "done"
    assert (await _known(east)).bundle.json != before.json
    assert calls.failures == Counter()
    assert calls.done > 500


def _member(cluster: Cluster, name: str) -> SpiffeId:
    return cluster.trust_domain.member(name)


async def _known(east: Cluster) -> trust_pb2.ForeignFacts:
    """What east knows of west."""
    async with east.admin_channel() as channel:
        facts = await TrustFactsStub(channel).GetTrustFacts(trust_pb2.GetTrustFactsRequest())
    [known] = facts.foreign
    assert isinstance(known, trust_pb2.ForeignFacts)
    return known


async def _is_missed(east: Cluster) -> bool:
    return (await _known(east)).last_reason == "endpoint_unreachable"


async def _knows(east: Cluster, roots: int) -> bool:
    return len(TrustBundle.from_json(WEST, (await _known(east)).bundle.json).x509_authorities) == roots


def _more(calls: Calls, number: int) -> Callable[[], Awaitable[bool]]:
    wanted = calls.done + number

    async def are_done() -> bool:
        return calls.done >= wanted

    return are_done
