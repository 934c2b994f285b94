"""Entries of clusters that the settings give no identities any more: nobody would keep them true."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import Final

import structlog

from ca.audit.model import Actor
from ca.entries.directory import EntryDirectory
from ca.entries.registry import EntryRegistry
from ca.kubernetes.workloads.rules import cluster_of

_AT_ONCE: Final = 1000  # of one transaction: issuing waits for it

_log = structlog.get_logger(__name__)


async def remove_abandoned(directory: EntryDirectory, registry: EntryRegistry, *, kept: Collection[str]) -> None:
    """Delete the entries that were made from pods of clusters other than those that are `kept`."""
    found: dict[str, list[str]] = {}
    for origin in directory.managed.origins():
        cluster = cluster_of(origin)
        if cluster is not None and cluster not in kept:
            found.setdefault(cluster, []).extend(directory.managed.of(origin))
    for cluster, ids in found.items():
        _log.warning(
            "the settings give pods of a cluster no identities any more: its entries are removed",
            cluster=cluster,
            entries=len(ids),
        )
        waiting = iter(ids)
        while some := list(islice(waiting, _AT_ONCE)):
            await registry.manage((), gone=some, by=Actor.kubernetes(cluster))
