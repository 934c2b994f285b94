"""A server that rotates, over a real store, and a mesh whose agents are played by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from sqlalchemy import insert, select

from ca.agents.model import Agent
from ca.agents.roster import AgentRoster
from ca.api.server_identity import ServerIdentity
from ca.api.sessions import AgentSession, SessionBook
from ca.audit.model import Act
from ca.authority.jwt import JwtAuthorities
from ca.authority.manager import AuthorityManager
from ca.authority.model import Authority, AuthorityKind, AuthorityState
from ca.authority.own_bundle import OwnBundle
from ca.authority.ports import Neighbours, UpstreamAuthority
from ca.authority.self_signed import SelfSignedUpstream
from ca.authority.vouching import Vouching
from ca.clusters.beyond import Children
from ca.clusters.in_force import InForce
from ca.clusters.keeping import Keeping
from ca.clusters.knowing import Everywhere, Knowing
from ca.clusters.records import ChildRecords
from ca.clusters.recovering import Recovering
from ca.clusters.sessions import ChildBook
from ca.entries.directory import EntryDirectory
from ca.entries.watch import EntryNews
from ca.issuance.issuer import Issuer, SvidRequest
from ca.issuance.ledger import LedgerRow
from ca.issuance.lifetime import LifetimePolicy
from ca.issuance.press import IssuedSvid
from ca.issuance.quota import Quota
from ca.keys.disk import DiskKeys
from ca.keys.kinds import KeyKind
from ca.keys.manager import SealedKeyManager
from ca.keys.sealing import KekSealer
from ca.revocation.bars import Bars
from ca.revocation.lists import RevocationLists
from ca.rotation.asking import AskingClients
from ca.rotation.leaving import earliest_signing
from ca.rotation.mesh import Mesh
from ca.rotation.model import Longest, Phase, Rotation, RotationKind
from ca.rotation.orders import OrderBoard
from ca.rotation.ports import Beyond
from ca.rotation.rotator import Rotator
from ca.rotation.steering import Steering, Wish
from ca.rotation.upkeep import Shares, Upkeep
from ca.store.asking import SqlPublishedRoots
from ca.store.audit import SqlAuditLog
from ca.store.authorities import SqlAuthorityStore
from ca.store.clusters import SqlChildren
from ca.store.database import Database
from ca.store.jwt_authorities import SqlJwtAuthorityStore
from ca.store.revocations import SqlRevocations
from ca.store.rotations import SqlIssuedEnds, SqlRotations
from ca.store.schema import audit, ledger
from ca.store.successions import SqlSuccessions
from citadel._wire import agent_api_pb2 as pb
from citadel._wire import types_pb2
from citadel.errors import CitadelError
from citadel.revocation_reading import read_revocations
from citadel.spiffe import SpiffeId
from citadel.svid import X509Svid
from citadel.tally import Tally
from citadel.wire import to_duration, to_timestamp
from tests.clock import FakeClock
from tests.csrs import csr
from tests.unit.ca.values import A_TEST, ADMINISTRATOR, NODE_1, NODE_2, agent, entry

HOUR: Final = timedelta(hours=1)
DAY: Final = 24 * HOUR
_NO_NEWS: Final = EntryNews(is_everything=True, entries={})
_TURNS: Final = 3000  # of some 50 ms of the mesh's time
_ROUNDS: Final = 8  # of the loop in a part of a turn; whoever needs more goes on in the next one


class Crash(BaseException):
    """The process dies here: nothing catches it."""


@dataclass
class Fate:
    """What comes over the writes of a server: it dies right after the `crash_after`th, or none comes through."""

    crash_after: int = 0
    failure: Exception | None = None
    writes: int = 0
    busy: int = 0  # calls under way

    async def write(self, work: Any) -> Any:
        if self.failure is not None:
            work.close()
            raise self.failure
        done = await work
        self.writes += 1
        if self.writes == self.crash_after:
            raise Crash
        return done


class Fated:
    """A real store or key manager under a fate: every method that changes something meets it, and all are counted."""

    _READS: Final = frozenset(
        {
            "load",
            "withdrawn",
            "unfinished",
            "newest",
            "signer",
            "jwt_signer",
            "lists",
            "certificates",
            "last_ends",
            "last_end_of_asking",
            "last_end_of_workloads",
        }
    )

    def __init__(self, real: Any, fate: Fate) -> None:
        self._real = real
        self._fate = fate

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._real, name)

        async def fated(*args: Any, **more: Any) -> Any:
            self._fate.busy += 1
            try:
                work = method(*args, **more)
                return await (work if name in self._READS else self._fate.write(work))
            finally:
                self._fate.busy -= 1

        return fated


class PlainLedger:
    """Rows in the real table, one batch after the other."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, rows: Sequence[LedgerRow]) -> None:
        async with self._database.transaction() as connection:
            for row in rows:
                values = asdict(row) | {"spiffe_id": str(row.spiffe_id), "requested_by": str(row.requested_by)}
                await connection.execute(insert(ledger).values(values))

    async def append_each(self, rows: Sequence[LedgerRow]) -> Sequence[CitadelError | None]:
        await self.append(rows)
        return [None for _ in rows]


class Roll:
    """The agents that there are; fulfils `AgentStore` as far as a rotation asks."""

    def __init__(self, *agents: Agent) -> None:
        self._agents = agents

    async def load(self) -> Sequence[Agent]:
        return self._agents

    async def set_keys(self, spiffe_id: SpiffeId, *, key: str, next_key: str | None) -> None:
        raise NotImplementedError

    async def record(self, agent: Agent, *acts: Act, at: datetime) -> None:
        raise NotImplementedError

    async def remove(self, spiffe_id: SpiffeId, act: Act, *, at: datetime) -> None:
        raise NotImplementedError


class Above(Protocol):
    """A parent as one process has it."""

    authority: UpstreamAuthority
    neighbour: Neighbours
    beyond: Beyond

    async def started(self, server: Server) -> None: ...


class Upstream(Protocol):
    """What outlives the processes, and is wired into each of them."""

    def above(self, disk: Disk, fate: Fate, *, keys: Any, store: Any) -> Above: ...


@dataclass
class Disk:
    """What survives a crash. Each `server` is another process on it."""

    database: Database
    folder: Path
    clock: FakeClock
    agents: tuple[Agent, ...] = field(default_factory=lambda: (agent(NODE_1), agent(NODE_2)))
    window: timedelta = timedelta(0)
    root_at: float | None = None
    issuer_at: float = 0.99
    issuer_lifetime: timedelta = 7 * DAY
    root_lifetime: timedelta = 365 * DAY
    jwt_lifetime: timedelta = 7 * DAY
    jwt_margin: timedelta = timedelta(seconds=2)
    jwt_at: float = 0.99
    polled_every: timedelta | None = None
    is_parent: bool = False  # of child clusters

    parent: Upstream | None = None  # whom the issuing authorities come from

    @asynccontextmanager
    async def server(self, fate: Fate | None = None) -> AsyncIterator[Server]:
        """A process, until the block ends; with a fate it may die before."""
        server = Server(self, fate or Fate())
        try:
            await server.start()
            yield server
        finally:
            await server.stop()

    async def acts(self) -> list[str]:
        """The audit log: what was done, with its detail."""
        async with self.database.reading() as connection:
            rows = await connection.execute(select(audit.c.what, audit.c.detail).order_by(audit.c.number))
            return [" ".join(filter(None, row)) for row in rows]


class Other(Protocol):
    """Somebody else who takes part: a child cluster."""

    async def turn(self) -> None:
        """Do what there is to do."""
        ...


class Server:
    """The parts of a server that a rotation needs, wired as the real one wires them."""

    def __init__(self, disk: Disk, fate: Fate) -> None:
        self.disk, self.clock = disk, disk.clock
        calm = Fate()  # of what no rotation can die in
        self._fates = (fate, calm)
        self.entries = [entry("/web", NODE_1), entry("/shop", NODE_2)]
        keys = Fated(
            SealedKeyManager(keys=DiskKeys(disk.folder), trust_domain=A_TEST, sealer=KekSealer(bytes(32))), fate
        )
        store = Fated(SqlAuthorityStore(database=disk.database, trust_domain=A_TEST), fate)
        common: Any = {"keys": keys, "store": store, "clock": disk.clock}
        common["backdate"] = timedelta(seconds=10)
        self.lists = RevocationLists(keys=keys, store=Fated(SqlRevocations(database=disk.database), fate))  # type: ignore[arg-type] # it fulfils whatever the real one does
        successions = Fated(SqlSuccessions(database=disk.database, trust_domain=A_TEST), fate)
        vouching = Vouching(
            trust_domain=A_TEST,
            keys=keys,  # type: ignore[arg-type] # as above
            store=successions,  # type: ignore[arg-type] # as above
            clock=disk.clock,
            lasts=7 * DAY,
        )
        self.tokens = JwtAuthorities(
            keys=keys,  # type: ignore[arg-type] # as above
            store=Fated(SqlJwtAuthorityStore(database=disk.database), fate),  # type: ignore[arg-type] # as above
            clock=disk.clock,
            lifetime=disk.jwt_lifetime,
            kind=KeyKind.EC_P256,
        )
        self.book = ChildBook()
        self.records = ChildRecords(
            trust_domain=A_TEST,
            store=Fated(SqlChildren(database=disk.database), calm),  # type: ignore[arg-type] # as above
            own_keys=lambda: (*self.tokens.published(), *self.tokens.withdrawn()),
            roots=lambda: tuple(self.authorities.root_key_ids()),
            is_connected=lambda child: child in self.book.connected(),
            longest=disk.issuer_lifetime,
            clock=disk.clock,
        )
        self.above = disk.parent.above(disk, fate, keys=keys, store=store) if disk.parent is not None else None
        self.authorities = AuthorityManager(
            own=OwnBundle(
                trust_domain=A_TEST,
                store=store,  # type: ignore[arg-type] # as above
                jwt=self.tokens,
                neighbours=[self.records, *([self.above.neighbour] if self.above is not None else [])],
            ),
            upstream=self.above.authority
            if self.above is not None
            else SelfSignedUpstream(trust_domain=A_TEST, vouching=vouching, root_lifetime=disk.root_lifetime, **common),
            lists=self.lists,
            acts=Fated(SqlAuditLog(database=disk.database), calm),  # type: ignore[arg-type] # as above
            issuer_lifetime=disk.issuer_lifetime,
            **common,
        )
        directory = self.directory = EntryDirectory(trust_domain=A_TEST)
        directory.load(self.entries, revision=1)
        self.issuer = Issuer(
            entries=directory,
            bars=Bars(),
            authorities=self.authorities,
            ledger=Fated(PlainLedger(disk.database), calm),  # type: ignore[arg-type] # as above
            clock=disk.clock,
            policy=LifetimePolicy(default=HOUR, own=HOUR, cap=DAY, backdate=timedelta(seconds=10)),
            quota=Quota(max_batch=20, per_second=1_000_000, clock=disk.clock),
        )
        self.roster = AgentRoster(trust_domain=A_TEST, store=Roll(*disk.agents), clock=disk.clock)
        self.sessions = SessionBook(most_silent=2, hello_timeout=timedelta(seconds=10))
        self.board = OrderBoard(wake_agents=self.sessions.wake_all)
        self.identity = ServerIdentity(issuer=self.issuer, authorities=self.authorities, clock=disk.clock)
        self.store = Fated(SqlRotations(database=disk.database), fate)
        self.in_force = InForce(authorities=self.authorities, lists=self.lists)
        self.children = Children(
            book=self.book,
            records=self.records,
            in_force=self.in_force,
            authorities=self.authorities.authorities,
            clock=disk.clock,
        )
        ends = Fated(SqlIssuedEnds(database=disk.database), calm)
        self.asking = AskingClients(
            roots=lambda: self.authorities.bundle().x509_authorities,
            handed_out=ends,  # type: ignore[arg-type] # as above
            earliest=lambda: earliest_signing(self.authorities.issuers()),
            store=Fated(SqlPublishedRoots(database=disk.database), calm),  # type: ignore[arg-type] # as above
            clock=disk.clock,
        )
        mesh = partial(
            Mesh,
            trust_domain=A_TEST,
            roster=self.roster,
            sessions=self.sessions,
            ends=ends,  # type: ignore[arg-type] # as above
            asking=self.asking,
            clock=disk.clock,
            beyond=(self.children,),
        )
        self.mesh = mesh(beyond=(self.children, *([self.above.beyond] if self.above is not None else [])))
        self.rotator = Rotator(
            store=self.store,  # type: ignore[arg-type] # as above
            authorities=self.authorities,
            identity=self.identity,
            mesh=self.mesh,
            board=self.board,
            lists=self.lists,
            longest=Longest(leaf=min(DAY, disk.issuer_lifetime), token=HOUR, between_looks=disk.polled_every),
            clock=disk.clock,
        )
        self.steering = Steering(
            rotator=self.rotator,
            authorities=self.authorities,
            window=disk.window,
            margin=timedelta(seconds=2),
            jwt_margin=disk.jwt_margin,
            clock=disk.clock,
        )
        self.lost_keys: set[str] = set()
        self.upkeep = Upkeep(
            rotator=self.rotator,
            steering=self.steering,
            authorities=self.authorities,
            acts=Fated(SqlAuditLog(database=disk.database), calm),  # type: ignore[arg-type] # as above
            margin=timedelta(seconds=2),
            shares=Shares(root=disk.root_at, issuer=disk.issuer_at, jwt=disk.jwt_at),
            is_lost=self.lost_keys.__contains__,
            clock=disk.clock,
        )
        self.knowing = Knowing(
            mesh=mesh,
            in_force=self.in_force,
            authorities=self.authorities,
            skipped=self.rotator.skipped,
            clock=disk.clock,
        )
        above = [self.above.beyond] if self.above is not None else []
        self.everywhere = Everywhere(knowing=self.knowing, above=above)
        self.tally = Tally(clock=disk.clock)
        self.keeping = Keeping(
            records=self.records,
            book=self.book,
            entries=directory.downstream,
            recovering=Recovering(
                trust_domain=A_TEST,
                records=self.records,
                roots=lambda: self.authorities.own_roots().x509_authorities,
                clock=disk.clock,
            ),
            settle=self.authorities.settle_anew,
            tally=self.tally,
            clock=disk.clock,
        )
        self.nodes: list[Node] = []
        self.others: list[Other] = []
        self.lists.watch(self._read_as_agents_do)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self.roster.start()
        await self.records.start()
        await self.authorities.start()
        if self.above is not None:
            await self.above.started(self)
        await self.identity.start()
        await self.asking.start()
        self.authorities.watch(self.asking.wake)
        await self.rotator.start()
        works = [self.asking.run(), self.rotator.run(), self.upkeep.run()]
        if self.disk.is_parent:
            works += [self.keeping.run(), self.knowing.run()]
        self._tasks = [asyncio.create_task(work) for work in works]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.issuer.close()

    async def join(self, node: Node) -> Node:
        """Let this node take part from now on."""
        self.nodes.append(node)
        await node.join(self)
        return node

    async def turn(self, seconds: float = 0.05) -> None:
        """Some time, in which everybody does what there is to do. Raises what a part of the server died of."""
        for each in (*self.nodes, *self.others):
            await each.turn()
        await self.clock.advance(seconds, rounds=_ROUNDS)
        await asyncio.sleep(0.001)
        while any(
            fate.busy for fate in self._fates
        ):  # the store works in threads of its own, and its time is no mesh's
            await asyncio.sleep(0.001)
        for task in self._tasks:
            if task.done():
                task.result()

    def _read_as_agents_do(self) -> None:
        """What is pushed, agents take: otherwise they would take nothing else either. Raises as they refuse it."""
        begins = (each.crl.last_update_utc for each in self.lists.current.lists)  # a clock may have been set back
        now = max((self.clock.now(), *begins))
        read_revocations(self.lists.message, bundle=self.authorities.bundle(), now=now)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Until it is so."""
        for _ in range(_TURNS):
            if condition():
                return
            await self.turn()
        raise AssertionError(f"it never came to it: {self.rotator.current}, {self.holders()}")

    async def phase(self, phase: Phase) -> None:
        """Until the rotation is in this phase, or was since this was asked."""
        seen, current = self.rotator.changes.count, self.rotator.current
        if current is None or current.phase is not phase:
            await self.until(lambda: any(each.phase is phase for each in self.rotator.changes.since(seen)))

    async def over(self) -> Rotation:
        """Until no rotation runs; returns the last one."""
        await self.until(lambda: self.rotator.running is None)
        assert self.rotator.current is not None
        return self.rotator.current

    async def begin(self, kind: RotationKind, **wish: Any) -> Rotation:
        return await self.steering.start(Wish(kind=kind, **wish), by=ADMINISTRATOR)

    def active(self, kind: AuthorityKind) -> Authority:
        found = (each for each in self.authorities.authorities() if each.kind is kind)
        return next(each for each in found if each.state is AuthorityState.ACTIVE)

    def holders(self) -> Mapping[str, str]:
        """Who is waited for, and what is said of it."""
        return {holder.name: holder.words for holder, _ in self.rotator.view().holders}


class Node:
    """An agent with one proxy. It obeys and acknowledges at once, except as told."""

    def __init__(self, spiffe_id: SpiffeId, entry_number: int) -> None:
        self.spiffe_id = spiffe_id
        self.is_silent = False  # its proxy answers nothing
        self.hangs = False  # its agent hears and does nothing
        self.has_keys_for_tokens = False  # a program of it has a stream of them
        self.ignores_orders = False
        self.session: AgentSession | None = None
        self.orders: list[pb.RenewOrder] = []
        self.own: X509Svid | None = None
        self.svid: X509Svid | None = None
        self._entry_number = entry_number
        self.left: list[tuple[types_pb2.StreamReport, float]] = []  # of programs that closed, and go on
        self._held = types_pb2.ResourceReport(name="default")
        self._trusted = types_pb2.ResourceReport(name="ROOTCA")
        self._for_tokens = types_pb2.ResourceReport(
            name="jwt-bundle", trust_domain=A_TEST.name, jwt_bundle=True, state=types_pb2.ResourceReport.SENT
        )
        self._trusts = ""  # the digest of the X.509 authorities that the proxy has
        self._server: Server | None = None

    async def join(self, server: Server) -> None:
        self._server = server
        self.own = await self._signed_own()
        self.svid = await self._signed_svid()
        self.connect()

    def connect(self) -> None:
        assert self._server is not None
        assert self.own is not None
        self.leave()
        self.session = AgentSession(
            agent=agent(self.spiffe_id),
            connected_at=self._server.clock.now(),
            own_issuer=self.own.issuer_key_id,
            own_ends=self.own.not_after,
        )
        self._server.sessions.open(self.session)

    def leave(self) -> None:
        if self.session is not None and self._server is not None:
            self._server.sessions.close(self.session)
        self.session = None

    async def turn(self) -> None:
        """Take what the server says, do it, and say so."""
        if self.session is None or self._server is None or self.hangs:
            return
        server = self._server
        updates = list(
            self.session.updates(
                news=_NO_NEWS,
                bundles={A_TEST: server.authorities.bundle()},
                revision=1,
                lists=server.lists.message,
                orders=server.board.of(self.session, server.clock.now()),
            )
        )
        orders = [] if self.ignores_orders else [each.renew for each in updates if each.HasField("renew")]
        self.orders += orders
        for order in orders:
            if order.own:
                self.own = await self._signed_own()
                self.connect()
                return
        # What is still covered is renewed again: it may have been signed in the very second that an order is about.
        if any(order.svids and self._covers(order) for order in self.orders):
            self.svid = await self._signed_svid()
        self._proxy_takes()
        self._say(server)

    def fetch_and_close(self) -> None:
        """A program takes what there is, closes its stream, and goes on."""
        assert self._server is not None
        report = types_pb2.StreamReport(stream_id=f"left-{len(self.left)}", pid=8, closed=True)
        report.resources.extend([self._held, self._trusted])
        self.left.append((report, self._server.clock.monotonic()))

    def _proxy_takes(self) -> None:
        assert self._server is not None
        assert self.svid is not None
        held, trusted = self._held, self._trusted
        acknowledged = types_pb2.ResourceReport.SENT if self.is_silent else types_pb2.ResourceReport.ACKNOWLEDGED
        held.state, trusted.state = acknowledged, acknowledged
        held.spiffe_id, trusted.trust_domain = str(self.svid.spiffe_id), A_TEST.name
        if self.is_silent:
            return
        bundle = self._server.authorities.bundle()
        self._for_tokens.held_bundle_sequence = bundle.sequence or 0
        # An Envoy is sent no JWT keys: where they alone changed, it goes on with what it has.
        if self._trusts != bundle.x509_digest():
            self._trusts, trusted.held_bundle_sequence = bundle.x509_digest(), bundle.sequence or 0
        trusted.held_revocation_version = self._server.lists.current.version
        held.held_serial, held.held_issuer_key_id = self.svid.serial, self.svid.issuer_key_id
        held.held_version = self.svid.serial
        held.held_not_after.CopyFrom(to_timestamp(self.svid.not_after))

    def _say(self, server: Server) -> None:
        assert self.session is not None
        sequence, version = server.authorities.bundle().sequence, server.lists.current.version
        stream, now = types_pb2.StreamReport(stream_id="1", pid=7), server.clock.monotonic()
        stream.resources.extend([self._held, self._trusted])
        streams = [stream]
        if self.has_keys_for_tokens:
            streams.append(types_pb2.StreamReport(stream_id="2", pid=9, resources=[self._for_tokens]))
        for report, at in self.left:
            report.closed_for.CopyFrom(to_duration(timedelta(seconds=now - at)))
        progress = [
            pb.OrderProgress(order_id=order.id, covered=1, left=1 if self._covers(order) else 0)
            for order in self.orders
            if order.svids
        ]
        for message in (
            pb.AgentMessage(acknowledge=pb.Acknowledge(bundle_sequence=sequence, revocation_version=version)),
            pb.AgentMessage(
                streams=pb.Streams(snapshot=True, reports=[*streams, *(report for report, _ in self.left)])
            ),
            pb.AgentMessage(progress=pb.RenewProgress(orders=progress)),
        ):
            self.session.take(message, at=now)

    def _covers(self, order: pb.RenewOrder) -> bool:
        assert self.svid is not None
        if order.issuer_key_ids:
            return self.svid.issuer_key_id in order.issuer_key_ids
        return self.svid.not_before <= order.not_before_until.ToDatetime(tzinfo=self.svid.not_before.tzinfo)

    async def _signed_own(self) -> X509Svid:
        assert self._server is not None
        return _parsed(await self._server.issuer.issue_reserved(self.spiffe_id, csr()))

    async def _signed_svid(self) -> X509Svid:
        assert self._server is not None
        request = SvidRequest(entry_id=self._server.entries[self._entry_number].id, csr=csr())
        (issued,) = await self._server.issuer.issue(agent(self.spiffe_id), [request])
        assert isinstance(issued, IssuedSvid)
        return _parsed(issued)


def _parsed(issued: IssuedSvid) -> X509Svid:
    return X509Svid.from_der(list(issued.chain_der))


def nodes() -> tuple[Node, Node]:
    """The two of the mesh."""
    return Node(NODE_1, 0), Node(NODE_2, 1)
