"""Clusters under a root that is kept offline: real Envoys, while the folders of their authorities are exchanged."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from citadel.bundle import TrustBundle
from citadel.spiffe import TrustDomain
from tests.clusters.bootstraps import Bootstrap
from tests.clusters.calls import calls_between
from tests.clusters.cli import citadel_cli
from tests.clusters.cluster import Cluster
from tests.clusters.places import in_place
from tests.clusters.proxy import Proxy
from tests.clusters.recipes import INBOUND_PORT
from tests.clusters.running import Wanted, clusters
from tests.integration.meshes import until

pytestmark = [pytest.mark.integration, pytest.mark.pairs]

MESH = TrustDomain("mesh.example")
_READY = "import urllib.request as r, sys; print(r.urlopen(sys.argv[1]).read().decode())"


class Owner:
    """Who keeps the roots, on a machine of his own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made = 0

    async def root(self, name: str) -> Path:
        await _citadel_cli("root", "init", "--out", str(self._folder / name), "--trust-domain", MESH.name)
        return self._folder / name

    async def sign(self, cluster: str, root: Path, *also: Path) -> Path:
        self._made += 1
        made = self._folder / f"{cluster}-{self._made}"
        trust = [word for each in also for word in ("--trust", str(each / "root-cert.pem"))]
        options = ("--root", str(root), "--trust-domain", MESH.name, "--out", str(made))
        await _citadel_cli("root", "sign", cluster, *options, *trust)
        return made


async def _citadel_cli(*words: str) -> None:
    code, said = await citadel_cli(*words)
    assert code == 0, said


@asynccontextmanager
async def running(owner: Owner, folder: Path, *names: str, root: Path) -> AsyncIterator[list[Cluster]]:
    """Clusters on folders that are signed by this root."""
    for name in names:
        (await owner.sign(name, root)).rename(folder / name)
    wanted = [
        Wanted(
            name=name,
            trust_domain=MESH,
            settings={
                "upstream": {"files": {"folder": str(folder / name), "poll": "10s"}},
                "rotation": {"margin": "500ms", "window": "0s"},
            },
        )
        for name in names
    ]
    async with clusters(wanted) as made:
        yield made


def put(folder: Path, new: Path) -> None:
    """In the place of what was there, as who copies file after file does it."""
    for file in sorted(new.iterdir()):
        shutil.copy(file, folder / file.name)


async def workload(here: Cluster, there: Cluster) -> Proxy:
    made = Bootstrap("sidecar.yaml")
    made.listen("inbound", (here.place.address, INBOUND_PORT))
    made.point("service", (there.place.address, INBOUND_PORT))
    made.pin_callers([str(MESH.member(there.name, "web"))])
    made.pin_service(str(MESH.member(there.name, "web")))
    return await here.workload(MESH.member(here.name, "web"), made)


async def roots(cluster: Cluster) -> set[x509.Certificate]:
    said = (await cluster.cli("bundle", "show", "--format", "spiffe")).encode()
    return set(TrustBundle.from_json(MESH, said).x509_authorities)


def root_of(*folders: Path) -> set[x509.Certificate]:
    return {x509.load_pem_x509_certificate((each / "root-cert.pem").read_bytes()) for each in folders}


async def trusts(cluster: Cluster, *folders: Path) -> None:
    """Until the cluster and each of its proxies trust just these roots."""

    async def is_so() -> bool:
        status = await cluster.status()
        held = [
            resource.held_bundle_sequence
            for agent in status.agents
            for stream in agent.streams
            for resource in stream.resources
            if resource.trust_domain == MESH.name and not resource.jwt_bundle
        ]
        is_acknowledged = bool(held) and all(each == status.bundle_x509_sequence for each in held)
        return is_acknowledged and not status.HasField("rotation") and await roots(cluster) == root_of(*folders)

    await until(f"{cluster.name} and its proxies trust {[each.name for each in folders]}", is_so, seconds=20)


async def signs_by(cluster: Cluster, folder: Path) -> None:
    """Until the authority in this folder signs, and no rotation runs."""
    wanted = x509.load_pem_x509_certificate((folder / "ca-cert.pem").read_bytes()).serial_number

    async def is_so() -> bool:
        status = await cluster.status()
        active = [each for each in status.authorities if (each.kind, each.state) == ("issuer", "active")]
        return [int(each.serial, 16) for each in active] == [wanted] and not status.HasField("rotation")

    await until(f"{cluster.name} signs by {folder.name}", is_so, seconds=20)


async def readiness(cluster: Cluster) -> dict[str, Any]:
    command = (sys.executable, "-c", _READY, f"http://{cluster.place.inner}:8480/ready")
    process = await asyncio.create_subprocess_exec(
        *in_place(cluster.place, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    said, _ = await process.communicate()
    found: dict[str, Any] = json.loads(said)
    return found


async def test_a_folder_is_exchanged_at_once_under_load_and_then_breaks(tmp_path: Path) -> None:
    owner = Owner(tmp_path)
    first, second = await owner.root("first"), await owner.root("second")
    async with running(owner, tmp_path, "east", root=first) as [east]:
        web, folder = await workload(east, east), tmp_path / "east"
        await until("it reaches itself", web.works, seconds=20)
        assert (await readiness(east))["status"] == "ready"
        async with calls_between([(web, web)]) as calls:
            put(folder, new := await owner.sign("east", second))
            await signs_by(east, new)
            await trusts(east, second)
        assert calls.failures == {}
        assert calls.done > 20
        await _breaks(east, folder)
        await web.call()
        await _revoking_says_what_it_does_not(east, web)


async def _breaks(east: Cluster, folder: Path) -> None:
    key = (folder / "ca-key.pem").read_bytes()
    (folder / "ca-key.pem").write_bytes(key[: len(key) // 2])

    async def is_told() -> bool:
        return not (await east.status()).upstream.good

    await until("it is told that the folder is not good", is_told, seconds=5)
    upstream = (await east.status()).upstream
    assert (upstream.kind, upstream.source, upstream.reason) == ("files", str(folder), "upstream_invalid")
    ready = await readiness(east)
    assert ready["status"] == "degraded"
    assert f"{folder}/ca-key.pem is not one whole private key in PEM; nothing is issued from" in (
        ready["checks"]["upstream"].replace(", mode 0600", "")
    )
    code, said = await east.cli_result("status")
    assert code == 0
    assert "ca-key.pem is not one whole private key in PEM (upstream_invalid)" in said
    await east.children["server"].stop()
    await east.start_server()
    assert not (await east.status()).upstream.good  # and it goes on
    (folder / "ca-key.pem").write_bytes(key)

    async def is_good() -> bool:
        return (await east.status()).upstream.good

    await until("it is told that the folder is good again", is_good, seconds=5)


async def _revoking_says_what_it_does_not(east: Cluster, web: Proxy) -> None:
    code, said = await east.cli_result("revoke", str(web.spiffe_id), "--reason", "its key was copied", "--yes")
    assert code == 8
    assert "not in force: other clusters under the same root" in said
    assert "set upstream.files.alone" in said
    await web.call()  # as it says: it is taken until it ends


@pytest.mark.soak  # the steps: tests/unit/ca/test_files_rotation.py; under load: the test above
async def test_the_root_above_two_clusters_is_rotated_in_three_steps_under_load(tmp_path: Path) -> None:
    owner = Owner(tmp_path)
    first, second = await owner.root("first"), await owner.root("second")
    async with running(owner, tmp_path, "east", "west", root=first) as both:
        east, west = both
        web = await asyncio.gather(workload(east, west), workload(west, east))
        for each in web:
            await until(f"{each.spiffe_id} reaches the other cluster", each.works, seconds=20)
        async with calls_between([(web[0], web[1]), (web[1], web[0])]) as calls:
            for cluster in both:  # 1. every cluster trusts the new root
                path = tmp_path / cluster.name / "root-cert.pem"
                path.write_bytes(path.read_bytes() + (second / "root-cert.pem").read_bytes())
            await asyncio.gather(*(trusts(each, first, second) for each in both))
            for cluster in both:  # 2. each gets an authority under it
                put(tmp_path / cluster.name, new := await owner.sign(cluster.name, second, first))
                await signs_by(cluster, new)
            for cluster in both:  # 3. and when all have, the old one goes
                shutil.copy(second / "root-cert.pem", tmp_path / cluster.name / "root-cert.pem")
        assert calls.failures == {}
        assert calls.done > 50
