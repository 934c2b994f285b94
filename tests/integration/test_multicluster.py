"""The recipes of deploy/multicluster with real processes: clusters that reach each other directly, and by gateways."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from citadel.spiffe import SpiffeId, TrustDomain
from tests.certificates import Signed, leaf, root
from tests.clusters.bootstraps import Bootstrap
from tests.clusters.cli import citadel_cli
from tests.clusters.cluster import Cluster
from tests.clusters.intruder import let_in
from tests.clusters.proxy import Proxy
from tests.clusters.recipes import GATEWAY_PORT, INBOUND_PORT, Side, name_of, start_recipes
from tests.clusters.running import Wanted, clusters
from tests.integration.meshes import until

pytestmark = pytest.mark.integration

EAST, WEST, NORTH, SOUTH = (TrustDomain(f"{name}.example") for name in ("east", "west", "north", "south"))
SHARED = TrustDomain("example.org")
_VALID: Final[dict[str, Any]] = {
    "not_before": datetime.now(UTC) - timedelta(minutes=5),
    "not_after": datetime.now(UTC) + timedelta(days=1),
}


async def test_federation_directly_and_through_gateways(tmp_path: Path) -> None:
    async with clusters([Wanted(name="east", trust_domain=EAST), Wanted(name="west", trust_domain=WEST)]) as (
        east,
        west,
    ):
        sides = await asyncio.gather(_federating(east, west), _federating(west, east))
        await _nothing_passes(sides)
        assert (await _verified(east, west))[0] == 8
        await asyncio.gather(_federate(east, west, tmp_path), _federate(west, east, tmp_path))
        await _everything_passes(sides)
        code, checks = await _verified(east, west)
        assert (code, [each for each in checks if each["grade"] != "good"]) == (0, [])
        await _gateways_pass_on_what_is_named_alone(sides[0])
        await _roots_speak_for_their_own_domain_alone(east, tmp_path)


async def test_one_root_directly_and_through_gateways(tmp_path: Path) -> None:
    await asyncio.gather(_one_root_for_both(tmp_path), _one_root_for_two_domains(tmp_path))
    wanted = [_on_files(name, SHARED, tmp_path / name) for name in ("east", "west")]
    async with clusters([*wanted, _on_files("north", NORTH, tmp_path / "north")]) as (east, west, north):
        sides = await asyncio.gather(
            start_recipes(east, west, naming=_member_of_cluster),
            start_recipes(west, east, naming=_member_of_cluster),
            _alone(north),
        )
        await _everything_passes(sides[:2])
        code, checks = await _verified(east, west)
        assert (code, [each for each in checks if each["grade"] != "good"]) == (0, [])
        assert (await _verified(east, north))[0] == 8
        await _a_constrained_authority_speaks_for_its_own_domain_alone(north, tmp_path)


async def _one_root_for_both(folder: Path) -> None:
    """As the page says."""
    root_folder, domain = str(folder / "root"), ("--trust-domain", SHARED.name)
    await _offline("init", *domain, "--out", root_folder)
    for name in ("east", "west"):
        await _offline("sign", name, "--root", root_folder, *domain, "--out", str(folder / name))


async def _one_root_for_two_domains(folder: Path) -> None:
    root_folder = str(folder / "root of two")
    await _offline("init", "--out", root_folder)
    for domain in (NORTH, SOUTH):
        name = domain.name.partition(".")[0]
        words = ("--root", root_folder, "--trust-domain", domain.name, "--out", str(folder / name))
        await _offline("sign", name, *words)


async def _offline(*words: str) -> None:
    code, said = await citadel_cli("root", *words)
    assert code == 0, said


def _on_files(name: str, trust_domain: TrustDomain, folder: Path) -> Wanted:
    return Wanted(name=name, trust_domain=trust_domain, settings={"upstream": {"files": {"folder": str(folder)}}})


def _member_of_cluster(cluster: Cluster, name: str) -> SpiffeId:
    return cluster.trust_domain.member(cluster.name, name)


async def _alone(cluster: Cluster) -> Proxy:
    """A workload that the two trust domains of one root may call."""
    made = Bootstrap("sidecar.yaml")
    made.listen("inbound", (cluster.place.address, INBOUND_PORT))
    made.pin_callers([str(domain.member("web")) for domain in (NORTH, SOUTH)])
    return await cluster.workload(NORTH.member("web"), made, federates_with=[SOUTH.name])


async def _a_constrained_authority_speaks_for_its_own_domain_alone(north: Cluster, folder: Path) -> None:
    """Both are trusted by one and the same root, and either is refused where it signs for the other."""
    await north.cli("bundle", "set", SOUTH.name, str(folder / "south" / "root-cert.pem"), "--reason", "a test")

    async def is_let_in(signer: str, spiffe_id: SpiffeId) -> bool:
        authority = _authority(folder / signer)
        return await _passes(north, [leaf(authority, str(spiffe_id), **_VALID), authority])

    await until("south may call", lambda: is_let_in("south", SOUTH.member("web")), seconds=10)
    assert await is_let_in("north", NORTH.member("web"))
    assert not await is_let_in("south", NORTH.member("web"))
    assert not await is_let_in("north", SOUTH.member("web"))


def _authority(folder: Path) -> Signed:
    certificate = x509.load_pem_x509_certificate((folder / "ca-cert.pem").read_bytes())
    key = load_pem_private_key((folder / "ca-key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Signed(certificate, key)


def _member(cluster: Cluster, name: str) -> SpiffeId:
    return cluster.trust_domain.member(name)


async def _federating(here: Cluster, there: Cluster) -> Side:
    with_whom = [there.trust_domain.name, NORTH.name]
    stranger = str(NORTH.member("web"))
    return await start_recipes(here, there, naming=_member, federates_with=with_whom, callers=[stranger])


async def _federate(here: Cluster, there: Cluster, folder: Path) -> None:
    """As the page says: the owner of `there` hands its bundle over, and it is followed from then on."""
    handed, name = folder / f"{there.name}.json", there.trust_domain.name
    handed.write_text(await there.cli("bundle", "show", "--format", "spiffe"))
    endpoint = ("--url", there.endpoint_url, "--endpoint-id", f"spiffe://{name}/citadel/server")
    await here.cli("federation", "create", name, "--profile", "https_spiffe", *endpoint, "--bundle", str(handed))


async def _nothing_passes(sides: tuple[Side, Side]) -> None:
    for side in sides:
        assert [await proxy.works() for proxy in side.proxies] == [False, False]
        assert await side.web.admin.stat("ssl.fail_verify_error") > 0


async def _everything_passes(sides: tuple[Side, Side]) -> None:
    """In both directions, directly and through the gateway, and each sees who the other is."""
    for here, there in (sides, sides[::-1]):
        for ours, theirs in zip(here.proxies, there.proxies, strict=True):
            await until(f"{ours.spiffe_id} reaches {theirs.spiffe_id}", ours.works, seconds=15)
            assert await ours.call() == (str(ours.spiffe_id), str(theirs.spiffe_id))
            assert await ours.admin.stat("ssl.session_reused") == 0
        assert await there.gateway.admin.stat("tcp.web.downstream_cx_total") > 0
        assert await there.gateway.admin.certificate() == {}  # it could not look into what it passes on


async def _verified(a: Cluster, b: Cluster) -> tuple[int, list[dict[str, Any]]]:
    code, said = await a.cli_result("-o", "json", "trust", "verify", str(a.admin_socket), str(b.admin_socket))
    document, _ = json.JSONDecoder().raw_decode(said)
    assert document["works"] == (code == 0)
    return code, document["checks"]


async def _gateways_pass_on_what_is_named_alone(side: Side) -> None:
    signer = root("nobody", **_VALID)
    chain = [leaf(signer, "spiffe://nobody.example/web", **_VALID)]
    gateway = (side.cluster.place.address, GATEWAY_PORT)
    for name in ("", "outbound_.9080_._.web.east.svc.cluster.local", name_of(side.cluster)):
        assert not await let_in(gateway, chain, enter=side.cluster.place.enter, name=name)
    stats = side.gateway.admin
    assert await stats.stat("no_filter_chain_match") == 2  # the third was refused by the workload's own Envoy
    assert await side.shop.admin.stat("ssl.fail_verify_error") > 0


async def _roots_speak_for_their_own_domain_alone(cluster: Cluster, folder: Path) -> None:
    """A root that is trusted for another domain, and signs an identity of ours that may call, is refused."""
    signer = root("north", uri=f"spiffe://{NORTH}", **_VALID)
    handed = folder / "north.pem"
    handed.write_bytes(signer.pem)
    await cluster.cli("bundle", "set", NORTH.name, str(handed), "--reason", "a test")

    async def is_let_in(spiffe_id: SpiffeId) -> bool:
        return await _passes(cluster, [leaf(signer, str(spiffe_id), **_VALID)])

    await until("north may call", lambda: is_let_in(NORTH.member("web")), seconds=10)
    assert not await is_let_in(cluster.trust_domain.member("web"))


async def _passes(cluster: Cluster, chain: list[Signed]) -> bool:
    return await let_in((cluster.place.address, INBOUND_PORT), chain, enter=cluster.place.enter)
