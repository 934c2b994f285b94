"""What is on record and asked whenever something is issued, wired: agents, entries, the ledger, and who is revoked."""

from __future__ import annotations

from dataclasses import dataclass

from ca.agents.roster import AgentRoster
from ca.entries.directory import EntryDirectory
from ca.entries.registry import EntryRegistry
from ca.metrics import MeteredLedger
from ca.revocation.bars import Bars
from ca.revocation.revoker import Revoker
from ca.settings import ServerSettings
from ca.store.agents import SqlAgentStore
from ca.store.entries import SqlEntryStore
from ca.store.ledger import SqlLedger
from cli.server_foundation import Foundation
from cli.server_revocation import RevocationAffairs, revoker


@dataclass(frozen=True, kw_only=True)
class Registers:
    """All of them know what the store knows. The ledger is not written yet."""

    roster: AgentRoster
    directory: EntryDirectory
    registry: EntryRegistry
    ledger: SqlLedger
    metered: MeteredLedger
    revoker: Revoker


async def loaded_registers(settings: ServerSettings, base: Foundation, revocation: RevocationAffairs) -> Registers:
    """The parts, loaded."""
    roster = await _roster(settings, base)
    ledger, metered = _ledger(base, roster, revocation.bars)
    revoking = revoker(revocation, database=base.database, roster=roster, commits=ledger, clock=base.clock)
    await revoking.load()
    directory, registry = await _entries(settings, base)
    return Registers(
        roster=roster, directory=directory, registry=registry, ledger=ledger, metered=metered, revoker=revoking
    )


async def _roster(settings: ServerSettings, base: Foundation) -> AgentRoster:
    roster = AgentRoster(
        trust_domain=settings.trust_domain, store=SqlAgentStore(database=base.database), clock=base.clock
    )
    await roster.start()
    return roster


def _ledger(base: Foundation, roster: AgentRoster, bars: Bars) -> tuple[SqlLedger, MeteredLedger]:
    def committed(rows: int) -> None:
        base.records.notary.note_rows(rows)
        metered.note_commit(rows)  # made below, around the ledger; nothing is committed before

    ledger = SqlLedger(
        database=base.database,
        is_banned=roster.is_shut_out,
        is_revoked=bars.hold,
        clock=base.clock,
        on_commit=committed,
    )
    metered = MeteredLedger(ledger, registry=base.metrics, clock=base.clock)
    return ledger, metered


async def _entries(settings: ServerSettings, base: Foundation) -> tuple[EntryDirectory, EntryRegistry]:
    directory = EntryDirectory(trust_domain=settings.trust_domain)
    registry = EntryRegistry(
        trust_domain=settings.trust_domain,
        store=SqlEntryStore(database=base.database),
        directory=directory,
        clock=base.clock,
    )
    await registry.start()
    return directory, registry
