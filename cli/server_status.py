"""What `citadel-cli status` shows, gathered from every part of the server's core."""

from __future__ import annotations

from collections.abc import Callable

from ca.api.status import StatusReader
from citadel._wire import admin_pb2
from citadel.wire import to_timestamp
from cli.server_core import ServerCore


def server_status(core: ServerCore) -> Callable[[], admin_pb2.Status]:
    """What reads it. The server counts as started now."""
    reader = StatusReader(
        authorities=core.authorities,
        roster=core.roster,
        directory=core.directory,
        sessions=core.sessions,
        rotator=core.rotation.rotator,
        tally=core.tally,
        upstream=core.upstream_condition,
        started_at=core.clock.now(),
    )
    gaps = [admin_pb2.LedgerGap(begin=to_timestamp(gap.begin), end=to_timestamp(gap.end)) for gap in core.ledger_gaps]

    def status() -> admin_pb2.Status:
        found = reader.read()
        found.ledger_gaps.extend(gaps)
        found.federations.extend(core.federation.status())
        found.revocation_trouble = core.revocation.lists.trouble
        found.revocation_behind = core.revocation.lists.behind
        found.clusters.extend(core.clusters.children.clusters())
        found.kubernetes.extend(core.kubernetes.status())
        if core.vault is not None:
            found.vault.CopyFrom(core.vault.status())
        if (keys := core.keys_condition()) is not None:
            keys.tell(found.vault, core.clock.now())
        return found

    return status
