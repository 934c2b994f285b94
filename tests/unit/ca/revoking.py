"""A server's revocation with real parts: store, lists, authorities, ledger. What tests of it share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

from ca.audit.model import Act, Actor
from ca.authority.manager import AuthorityManager
from ca.authority.self_signed import SelfSignedUpstream
from ca.authority.vouching import Vouching
from ca.issuance.ledger import LedgerRow
from ca.keys.disk import DiskKeys
from ca.keys.manager import SealedKeyManager
from ca.keys.sealing import KekSealer
from ca.revocation.bars import Bars
from ca.revocation.lists import RevocationLists
from ca.revocation.meaning import Meanings, Wish
from ca.revocation.model import Revocation, RevokedCertificate
from ca.revocation.revoker import Outcome, Revoker
from ca.store.audit import SqlAuditLog
from ca.store.authorities import SqlAuthorityStore
from ca.store.database import Database
from ca.store.ledger import SqlLedger
from ca.store.revocations import SqlIssuedCertificates, SqlRevocations
from ca.store.successions import SqlSuccessions
from citadel.errors import Reason, Unavailable
from citadel.spiffe import SpiffeId
from tests.clock import FakeClock
from tests.remote_keys import Elsewhere, RemoteKeys
from tests.unit.ca.records import row, writing
from tests.unit.ca.tokens import own_bundle
from tests.unit.ca.values import A_TEST, ADMINISTRATOR, NODE_1, NOW

HOUR = timedelta(hours=1)


class Agents:
    """Knows who joined, and notes who was shut out."""

    def __init__(self, *joined: SpiffeId) -> None:
        self.joined = set(joined)
        self.banned: set[SpiffeId] = set()

    async def shut_out(self, spiffe_id: SpiffeId, *, why: str, by: Actor) -> None:  # noqa: ARG002 - the port's form
        self.banned.add(spiffe_id)

    async def let_in(self, spiffe_id: SpiffeId, *, why: str, by: Actor) -> None:  # noqa: ARG002 - the port's form
        self.banned.discard(spiffe_id)


class Crash(BaseException):
    """The process dies here: nothing catches it."""


class CrashingRevocations(SqlRevocations):
    """A real store whose process dies right after the `crash_after`th write."""

    def __init__(self, *, database: Database, crash_after: int) -> None:
        super().__init__(database=database)
        self._left = crash_after

    async def record(self, revocation: Revocation, act: Act, *, at: datetime) -> None:
        await super().record(revocation, act, at=at)
        self._written()

    async def complete(self, revocation: Revocation, certificates: Sequence[RevokedCertificate]) -> Revocation:
        completed = await super().complete(revocation, certificates)
        self._written()
        return completed

    async def put_list(self, authority_id: str, crl: bytes) -> None:
        await super().put_list(authority_id, crl)
        self._written()

    def _written(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise Crash


class FailingRevocations(SqlRevocations):
    """A real store in which writes of one kind fail while they are told to."""

    fails = ""

    async def complete(self, revocation: Revocation, certificates: Sequence[RevokedCertificate]) -> Revocation:
        self._may_fail("complete")
        return await super().complete(revocation, certificates)

    async def put_list(self, authority_id: str, crl: bytes) -> None:
        self._may_fail("put_list")
        await super().put_list(authority_id, crl)

    def _may_fail(self, what: str) -> None:
        if self.fails == what:
            raise Unavailable(Reason.STORE_UNAVAILABLE, "the disk is full")


class Office:
    """One run of a server on a disk. Another one on the same disk is a restart."""

    def __init__(
        self, database: Database, folder: Path, clock: FakeClock, *, crash_after: int = 0, is_remote: bool = False
    ) -> None:
        """With `is_remote` the keys of authorities are `elsewhere`."""
        self.database = database
        self.clock = clock
        self.agents = Agents(NODE_1)
        self.bars = Bars()
        local = SealedKeyManager(keys=DiskKeys(folder), trust_domain=A_TEST, sealer=KekSealer(bytes(32)))
        self.elsewhere = Elsewhere()
        self.keys = RemoteKeys(local, self.elsewhere) if is_remote else local
        self.store = (
            CrashingRevocations(database=database, crash_after=crash_after)
            if crash_after
            else FailingRevocations(database=database)
        )
        self.lists = RevocationLists(keys=self.keys, store=self.store)
        authorities = SqlAuthorityStore(database=database, trust_domain=A_TEST)
        upstream = SelfSignedUpstream(
            trust_domain=A_TEST,
            keys=self.keys,
            store=authorities,
            vouching=Vouching(
                trust_domain=A_TEST,
                keys=self.keys,
                store=SqlSuccessions(database=database, trust_domain=A_TEST),
                clock=clock,
                lasts=timedelta(days=7),
            ),
            clock=clock,
            root_lifetime=timedelta(days=365),
            backdate=timedelta(seconds=10),
        )
        self.authorities = AuthorityManager(
            own=own_bundle(authorities, database=database, keys=self.keys, clock=clock),
            upstream=upstream,
            keys=self.keys,
            store=authorities,
            lists=self.lists,
            acts=SqlAuditLog(database=database),
            clock=clock,
            issuer_lifetime=timedelta(days=7),
            backdate=timedelta(seconds=10),
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Office]:
        async with writing(self.database, is_revoked=self.bars.hold) as self.ledger:
            self.revoker = self._revoker(self.ledger)
            await self.revoker.load()
            await self.authorities.start()
            await self.revoker.start()
            yield self

    def _revoker(self, ledger: SqlLedger) -> Revoker:
        return Revoker(
            store=self.store,
            meanings=Meanings(
                trust_domain=A_TEST,
                certificates=SqlIssuedCertificates(database=self.database),
                is_agent=self.agents.joined.__contains__,
            ),
            commits=ledger,
            agents=self.agents,
            bars=self.bars,
            lists=self.lists,
            clock=self.clock,
        )

    async def issue(self, path: str = "/web", **changes: object) -> LedgerRow:
        """A certificate in the ledger, under the authority that signs."""
        usual: dict[str, object] = {
            "spiffe_id": SpiffeId(A_TEST, path),
            "issuer_id": self.authorities.issuing().authority.id,
            "not_after": NOW + HOUR,
        }
        issued = row(**(usual | changes))  # type: ignore[arg-type]  # a table of changes
        await self.ledger.append([issued])
        return issued

    async def revoke(self, target: object, reason: str = "stolen") -> Outcome:
        return await self.revoker.revoke(Wish(target=str(target), reason=reason), by=ADMINISTRATOR)

    def is_listed(self, issued: LedgerRow) -> bool:
        issuer = next(each for each in self.authorities.issuers() if each.id == issued.issuer_id)
        return self.lists.current.hold(issuer.subject_key_id, int(issued.serial, 16))
