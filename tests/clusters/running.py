"""Clusters side by side, from their start to their end."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from citadel.spiffe import TrustDomain
from tests.clusters.cluster import Cluster
from tests.clusters.places import Place, places


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A cluster that is to be; `settings` are sections of its server's settings."""

    name: str
    trust_domain: TrustDomain
    settings: Mapping[str, Any] = field(default_factory=dict)


@asynccontextmanager
async def clusters(wanted: Sequence[Wanted]) -> AsyncIterator[list[Cluster]]:
    """All of them, each with a running server and agent. What their processes said is shown where a test fails."""
    folder = Path(tempfile.mkdtemp(prefix="citadel-test-"))
    folder.chmod(0o755)  # sidecars of other users start from here
    async with places(len(wanted)) as found:
        made = [_cluster(each, place, folder) for each, place in zip(wanted, found.each, strict=True)]
        try:
            await asyncio.gather(*(cluster.start() for cluster in made))
            yield made
        except BaseException:
            for log in sorted(folder.glob("*/*.log")):
                print(f"--- {log.relative_to(folder)}\n{log.read_text(errors='replace')[-4000:]}")  # noqa: T201 - pytest shows it
            raise
        finally:
            await asyncio.gather(*(cluster.stop() for cluster in made))
            shutil.rmtree(folder, ignore_errors=True)


def _cluster(wanted: Wanted, place: Place, folder: Path) -> Cluster:
    return Cluster(wanted.name, wanted.trust_domain, place=place, folder=folder / wanted.name, settings=wanted.settings)
