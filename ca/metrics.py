"""What the server measures. Labels are bounded: kinds, states and reasons, never an identity."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ca.agents.roster import AgentRoster
from ca.api.sessions import SessionBook
from ca.authority.manager import AuthorityManager
from ca.entries.directory import EntryDirectory
from ca.issuance.ledger import Ledger, LedgerRow
from ca.revocation.lists import RevocationLists
from citadel._wire import types_pb2
from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.metrics import SECONDS
from citadel.reserved import is_agent_id, is_k8s_door_id, is_reserved_id

_ROWS: Final = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)
_PROTOCOLS: Final = frozenset({"sds", "sds-delta", "workload-api"})


class ServerCollector(Collector):
    """Reads the state of the server at each scrape, so that nothing has to be kept in step."""

    def __init__(
        self,
        *,
        authorities: AuthorityManager,
        lists: RevocationLists,
        roster: AgentRoster,
        directory: EntryDirectory,
        sessions: SessionBook,
    ) -> None:
        self._authorities = authorities
        self._lists = lists
        self._roster = roster
        self._directory = directory
        self._sessions = sessions

    def collect(self) -> Iterator[Metric]:
        yield self._expiries()
        sequence = self._authorities.bundle().sequence or 0
        yield GaugeMetricFamily("citadel_bundle_sequence", "Sequence number of the own trust bundle.", value=sequence)
        pushed = len(self._lists.current.lists)
        yield GaugeMetricFamily("citadel_revocation_lists", "Revocation lists that are pushed.", value=pushed)
        yield GaugeMetricFamily("citadel_entries", "Registration entries.", value=len(self._directory))
        yield self._agents()
        yield from self._lag()
        yield from self._streams()

    def _expiries(self) -> Metric:
        family = GaugeMetricFamily(
            "citadel_authority_not_after_timestamp_seconds",
            "When an authority ends, in seconds since 1970.",
            labels=["kind", "id", "state"],
        )
        for authority in self._authorities.authorities():
            labels = [authority.kind.value, authority.id, authority.state.value]
            family.add_metric(labels, authority.not_after.timestamp())
        for each in self._authorities.jwt.authorities():
            family.add_metric(["jwt", each.id, each.state.value], each.not_after.timestamp())
        return family

    def _agents(self) -> Metric:
        connected = self._sessions.newest()
        states: Count[str] = Count({"connected": 0, "away": 0, "banned": 0})
        for agent in self._roster.all().values():
            state = "connected" if agent.spiffe_id in connected else "away"
            states["banned" if agent.banned else state] += 1
        family = GaugeMetricFamily("citadel_agents", "Agents by state.", labels=["state"])
        for state, number in states.items():
            family.add_metric([state], number)
        return family

    def _lag(self) -> Iterator[Metric]:
        sessions = self._sessions.newest().values()
        lags = [each.told_revision - each.acknowledged_revision for each in sessions]
        behind = sum(1 for lag in lags if lag > 0)
        yield GaugeMetricFamily(
            "citadel_sync_lag_revisions",
            "How far the slowest connected agent's acknowledgement is behind what it was told.",
            value=max([0, *lags]),
        )
        yield GaugeMetricFamily(
            "citadel_sync_agents_behind",
            "Connected agents that have yet to acknowledge what they were told.",
            value=behind,
        )

    def _streams(self) -> Iterator[Metric]:
        protocols: Count[str] = Count()
        refusing = 0
        for session in self._sessions.newest().values():
            for stream in session.streams.values():
                protocols[stream.protocol if stream.protocol in _PROTOCOLS else "other"] += 1  # agents name them
                refusing += any(r.state == types_pb2.ResourceReport.REFUSED for r in stream.resources)
        family = GaugeMetricFamily(
            "citadel_streams", "Streams of proxies and programs over all agents.", labels=["protocol"]
        )
        for protocol, number in protocols.items():
            family.add_metric([protocol], number)
        yield family
        yield GaugeMetricFamily(
            "citadel_streams_refusing",
            "Streams whose proxy refused a secret and has not taken it since.",
            value=refusing,
        )


class MeteredLedger:
    """Fulfils `ca.issuance.ledger.Ledger` by another one, and counts what has become durable."""

    def __init__(self, ledger: Ledger, *, registry: CollectorRegistry, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._issued = Counter(
            "citadel_server_svids_issued", "X.509-SVIDs whose ledger row is durable.", ["kind"], registry=registry
        )
        for kind in ("workload", "agent", "server", "minted", "kubernetes"):
            self._issued.labels(kind)  # a series that begins at its first increase hides that increase
        self._waiting = Gauge("citadel_ledger_queue_rows", "Rows that wait to become durable.", registry=registry)
        self._seconds = Histogram(
            "citadel_ledger_append_seconds",
            "From a signed batch to its durable rows.",
            registry=registry,
            buckets=SECONDS,
        )
        self._commits = Histogram(
            "citadel_ledger_commit_rows", "Rows that one commit made durable.", registry=registry, buckets=_ROWS
        )
        self._signing = Histogram(
            "citadel_issuer_sign_seconds",
            "How long a batch of requests took to check and sign.",
            registry=registry,
            buckets=SECONDS,
        )

    def note_commit(self, rows: int) -> None:
        """A commit of so many rows has come through."""
        self._commits.observe(rows)

    def note_signed(self, _requests: int, seconds: float) -> None:
        """A batch was signed within so many seconds, before its rows were written."""
        self._signing.observe(seconds)

    async def append(self, rows: Sequence[LedgerRow]) -> None:
        if rows:
            with self._waited(len(rows)):
                await self._ledger.append(rows)
            self._note_durable(rows)

    async def append_each(self, rows: Sequence[LedgerRow]) -> Sequence[CitadelError | None]:
        if not rows:
            return []
        with self._waited(len(rows)):
            refusals = await self._ledger.append_each(rows)
        self._note_durable(row for row, refusal in zip(rows, refusals, strict=True) if refusal is None)
        return refusals

    @contextmanager
    def _waited(self, number: int) -> Iterator[None]:
        begun = self._clock.monotonic()
        self._waiting.inc(number)
        try:
            yield
        finally:
            self._waiting.dec(number)
            self._seconds.observe(self._clock.monotonic() - begun)

    def _note_durable(self, rows: Iterable[LedgerRow]) -> None:
        for kind, number in Count(map(_kind_of, rows)).items():
            self._issued.labels(kind).inc(number)


class JwtMeter:
    """Fulfils `ca.issuance.jwt.Meter`."""

    def __init__(self, *, registry: CollectorRegistry) -> None:
        self._issued = Counter("citadel_server_jwt_svids_issued", "JWT-SVIDs that were handed out.", registry=registry)
        self._signing = Histogram(
            "citadel_jwt_issuer_sign_seconds",
            "How long a batch of requests for tokens took to check and sign.",
            registry=registry,
            buckets=SECONDS,
        )

    def note_signed(self, seconds: float) -> None:
        self._signing.observe(seconds)

    def note_issued(self, number: int) -> None:
        self._issued.inc(number)


def _kind_of(row: LedgerRow) -> str:
    if row.entry_id:
        return "workload"
    if not is_reserved_id(row.spiffe_id):
        return "kubernetes" if is_k8s_door_id(row.requested_by) else "minted"
    return "agent" if is_agent_id(row.spiffe_id) else "server"
