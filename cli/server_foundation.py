"""What a server stands on, wired: its clients, its keys, its records, and its store brought up to date."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from ca.settings import ServerSettings
from ca.store.database import Database
from citadel.clock import Clock
from citadel.metrics import new_registry
from citadel.tally import Tally
from cli.server_keys import ServerKeys, ready_keys
from cli.server_kubernetes import KubernetesAffairs, kubernetes_affairs
from cli.server_records import RecordKeeping
from cli.server_starting import StartSeen
from cli.server_vault import VaultAffairs, running_vault


@dataclass(frozen=True, kw_only=True)
class Foundation:
    """What everything else is made on. Vault is logged in where keys need it; the records are not started yet."""

    clock: Clock
    database: Database
    kubernetes: KubernetesAffairs
    vault: VaultAffairs | None
    keys: ServerKeys
    records: RecordKeeping
    tally: Tally
    metrics: CollectorRegistry


async def foundation(
    settings: ServerSettings, clock: Clock, database: Database, start: StartSeen, stack: AsyncExitStack
) -> Foundation:
    """The parts, which `stack` closes. `start` is told while Vault is waited for."""
    kubernetes = await stack.enter_async_context(kubernetes_affairs(settings, clock))
    vault = await stack.enter_async_context(running_vault(settings, clock))
    keys = await ready_keys(settings, database=database, vault=vault, on_wait=start.waits_for, clock=clock)
    records = RecordKeeping(settings, database=database, keys=keys.manager, clock=clock)
    stack.push_async_callback(records.close)
    tally = Tally(clock=clock, sink=records.trail)
    stack.push_async_callback(tally.close)  # says the sums that were not told yet
    await database.migrate()
    return Foundation(
        clock=clock,
        database=database,
        kubernetes=kubernetes,
        vault=vault,
        keys=keys,
        records=records,
        tally=tally,
        metrics=new_registry(),
    )
