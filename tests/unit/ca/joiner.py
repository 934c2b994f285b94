"""The part of a server that lets agents in, on a real store, with a ledger that can fail or be slow."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import select

from ca.agents.administration import AgentAdministration
from ca.agents.joining import Joining
from ca.agents.model import Agent
from ca.agents.rejoining import Rejoining
from ca.agents.roster import AgentRoster
from ca.agents.x509pop import X509PopJoining
from ca.authority.model import Authority, AuthorityKind, AuthorityState, IssuingAuthority
from ca.entries.directory import EntryDirectory
from ca.issuance.issuer import Issuer
from ca.issuance.ledger import LedgerRow
from ca.issuance.lifetime import LifetimePolicy
from ca.issuance.press import IssuedSvid
from ca.issuance.quota import Quota
from ca.revocation.bars import Bars
from ca.store.agents import SqlAgentStore, SqlTokenStore
from ca.store.database import Database
from ca.store.schema import audit
from citadel.errors import CitadelError, PermissionDenied, Reason, Unavailable
from citadel.spiffe import SpiffeId
from tests import certificates
from tests.clock import FakeClock
from tests.unit.ca.values import A_TEST, ADMINISTRATOR, NOW, selectors

MINUTE = timedelta(minutes=1)
GRACE = timedelta(days=7)
TOP = certificates.root()
ISSUING = certificates.intermediate(TOP, lifetime=timedelta(days=30))


class OpenLedger:
    """A ledger that takes every row, or none. As the real one it asks who is shut out, and then takes its time."""

    def __init__(self) -> None:
        self.rows: list[LedgerRow] = []
        self.fails = False
        self.roster: AgentRoster | None = None
        self.committing = asyncio.Event()
        self.may_commit = asyncio.Event()
        self.may_commit.set()
        self._one_commit = asyncio.Lock()

    async def append(self, rows: Sequence[LedgerRow]) -> None:
        if self.fails:
            raise Unavailable(Reason.STORE_UNAVAILABLE, "the disk is full")
        if self.roster is not None and any(self.roster.is_shut_out(row.requested_by) for row in rows):
            raise PermissionDenied(Reason.AGENT_BANNED, "banned")
        async with self._one_commit:
            self.committing.set()
            await self.may_commit.wait()
            self.rows.extend(rows)

    async def settled(self) -> None:
        async with self._one_commit:
            pass

    async def append_each(self, rows: Sequence[LedgerRow]) -> Sequence[CitadelError | None]:
        raise NotImplementedError

    async def key_ended_at(self, spiffe_id: SpiffeId, key: str) -> datetime | None:
        ends = [row.not_after for row in self.rows if (row.spiffe_id, row.public_key) == (spiffe_id, key)]
        return max(ends, default=None)


class OneAuthority:
    """Signs with one issuing authority, for ever."""

    def issuing(self) -> IssuingAuthority:
        authority = Authority(
            id="i" * 32,
            kind=AuthorityKind.ISSUER,
            state=AuthorityState.ACTIVE,
            key_id="k",
            certificate=ISSUING.certificate,
            parent_id="r",
            created_at=NOW,
        )
        return IssuingAuthority(authority=authority, key=ISSUING.key)  # type: ignore[arg-type] # an EC key


class Joiner:
    """A server's joining part, and what a restart makes of it."""

    def __init__(self, database: Database, clock: FakeClock, anchors: Sequence[x509.Certificate] = ()) -> None:
        self.database = database
        self.ledger = OpenLedger()
        self.anchors = list(anchors)
        self.roster = AgentRoster(trust_domain=A_TEST, store=SqlAgentStore(database=database), clock=clock)
        self.ledger.roster = self.roster
        self.issuer = Issuer(
            entries=EntryDirectory(trust_domain=A_TEST),
            bars=Bars(),
            authorities=OneAuthority(),
            ledger=self.ledger,
            clock=clock,
            policy=LifetimePolicy(default=MINUTE, own=30 * MINUTE, cap=60 * MINUTE, backdate=timedelta()),
            quota=Quota(max_batch=10, per_second=100, clock=clock),
        )
        self.joining = Joining(
            trust_domain=A_TEST,
            tokens=SqlTokenStore(database=database),
            roster=self.roster,
            issuer=self.issuer,
            clock=clock,
            default_lifetime=10 * MINUTE,
        )
        self.x509pop = X509PopJoining(
            trust_domain=A_TEST, anchors=lambda: self.anchors, roster=self.roster, issuer=self.issuer, clock=clock
        )
        self.rejoining = Rejoining(
            trust_domain=A_TEST,
            key_ends=self.ledger,
            roster=self.roster,
            issuer=self.issuer,
            clock=clock,
            grace=GRACE,
        )
        self.administration = AgentAdministration(trust_domain=A_TEST, roster=self.roster, commits=self.ledger)

    async def token(self, name: str = "node-1", *facts: str, lifetime: timedelta | None = None) -> str:
        made = await self.joining.create_token(
            agent_name=name, lifetime=lifetime, selectors=selectors(*facts), by=ADMINISTRATOR
        )
        return made.secret

    async def recorded(self) -> dict[SpiffeId, Agent]:
        """The agents as a restarted server finds them; they must be those of this one."""
        found = {one.spiffe_id: one for one in await SqlAgentStore(database=self.database).load()}
        assert found == dict(self.roster.all())
        return found

    async def acts(self) -> list[tuple[str, str, str, str]]:
        """The audit log: who, what, to what, why."""
        columns = (audit.c.actor, audit.c.what, audit.c.target, audit.c.why)
        async with self.database.transaction() as connection:
            rows = await connection.execute(select(*columns).order_by(audit.c.number))
            return [tuple(row) for row in rows]  # type: ignore[misc] # four texts


def pem(svid: IssuedSvid) -> bytes:
    return svid.chain[0].public_bytes(Encoding.PEM)
