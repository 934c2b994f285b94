"""A proxy in front of a bundle endpoint, which can be made slow, killed, or sent back in time.

It runs as a process of its own, `tests/clusters/front_server.py`, in the place of the cluster whose bundle it serves.
"""

from __future__ import annotations

import ipaddress
import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cli.demo.processes import Child
from tests.certificates import leaf, root
from tests.clusters.cluster import Cluster
from tests.clusters.places import in_place
from tests.integration.meshes import until

PORT: Final = 8643


class Front:
    """The proxy in front of the endpoint of `cluster`; `ca_file` has the authority of its certificate."""

    def __init__(self, cluster: Cluster, folder: Path, *, valid: dict[str, Any]) -> None:
        self._cluster = cluster
        self._folder = folder
        self._child: Child | None = None
        self.url = f"https://{cluster.place.address}:{PORT}/"
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(cluster.place.address))])
        authority = root("web", uri=None, **valid)
        own = leaf(authority, names=address, **valid)
        folder.mkdir()
        key = own.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "pair.pem").write_bytes(own.pem + key)
        self.ca_file.write_bytes(authority.pem)
        self.behave()

    @property
    def _ready(self) -> Path:
        return self._folder / "ready"

    async def _listens(self) -> bool:
        return self._ready.exists()

    @property
    def ca_file(self) -> Path:
        return self._folder / "ca.pem"

    def keep_older(self, document: bytes) -> None:
        """What is answered with `is_older`."""
        (self._folder / "older.json").write_bytes(document)

    def behave(self, *, delay: timedelta = timedelta(0), is_older: bool = False) -> None:
        """From the next request on."""
        new = self._folder / "control.new"
        new.write_text(json.dumps({"delay": delay.total_seconds(), "is_older": is_older}))
        new.rename(self._folder / "control.json")

    async def start(self) -> None:
        """Ready when this returns; also again after it was killed."""
        self._ready.unlink(missing_ok=True)
        words = (self._cluster.place.address, str(PORT), self._cluster.endpoint_url, str(self._folder))
        command = (sys.executable, str(Path(__file__).with_name("front_server.py")), *words)
        log = self._folder / "front.log"
        self._child = await Child.start("front", in_place(self._cluster.place, command), log=log)
        await until("the front listens", self._listens, seconds=10)

    async def kill(self) -> None:
        if self._child is not None:
            await self._child.kill()
