"""Gathering what the agent knows of one process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from citadel._wire import types_pb2
from citadel.clock import Clock
from citadel.entry import Entry
from citadel.errors import NotFound, PermissionDenied, Reason
from citadel.peer import Caller, PeerCredentials, effective_ids
from citadel.selector import Selector
from sds.agent import AgentCondition
from sds.holdings import HoldingsFeed
from sds.insight.process import EntryFacts, ProcessFacts, StreamFacts, misses
from sds.keep.schedule import Outlook
from sds.serve.callers import Attestation, WorkloadAttestor
from sds.serve.matching import asks_for_pods

_REPORT = types_pb2.ResourceReport
_IS_REFUSED = _REPORT.REFUSED
_IS_WAITING = _REPORT.WAITING


class Keeping(Protocol):
    """What is known of the SVIDs to come; `sds.keep.keeper.Keeper` is one."""

    @property
    def trouble(self) -> str:
        """Why no certificate can be had for any entry now; empty where one can."""
        ...

    def outlook(self, entry_id: str) -> Outlook | None:
        """What comes next for this entry."""
        ...


class ProcessGatherer:
    """Collects `ProcessFacts`. `sds_names` tells the names that a caller with these selectors would be served."""

    def __init__(
        self,
        *,
        attestor: WorkloadAttestor,
        feed: HoldingsFeed,
        keeping: Keeping,
        streams: Callable[[], Iterable[types_pb2.StreamReport]],
        sds_names: Callable[[frozenset[Selector]], Sequence[str]],
        condition: AgentCondition,
        clock: Clock,
    ) -> None:
        self._attestor = attestor
        self._feed = feed
        self._keeping = keeping
        self._streams = streams
        self._sds_names = sds_names
        self._clock = clock
        self.condition = condition

    async def gather(self, pid: int) -> tuple[ProcessFacts, Attestation, PeerCredentials]:
        """What is known of the process. Raises `NotFound` (`caller_unknown`) where there is none of this number."""
        caller = _caller_of(pid)
        try:
            seen = await self._attestor.attest(caller, want_sha256=True)
        except PermissionDenied as error:
            raise NotFound(error.reason, error.message) from error
        finally:
            caller.close()
        facts = ProcessFacts(
            uid=caller.credentials.uid,
            executable=seen.executable,
            entries=tuple(sorted(self._entries(seen), key=_rank)),
            streams=tuple(map(_stream_facts, self.streams_of(pid))),
            is_complete=seen.is_complete,
            unseen=seen.trouble,
            is_connected=self.condition.is_connected,
            was_heard=self.condition.heard_at is not None,
            trouble=self._keeping.trouble,
        )
        return facts, seen, caller.credentials

    def streams_of(self, pid: int) -> list[types_pb2.StreamReport]:
        """The open streams of the process, also of earlier ones with its number: until they are closed."""
        return [report for report in self._streams() if report.pid == pid]

    def names_for(self, selectors: frozenset[Selector]) -> Sequence[str]:
        """The SDS names that it would be served now."""
        return self._sds_names(selectors)

    def _entries(self, seen: Attestation) -> Iterator[EntryFacts]:
        for entry in self._feed.current.entries.values():
            yield self._entry_facts(entry, seen)

    def _entry_facts(self, entry: Entry, seen: Attestation) -> EntryFacts:
        held = self._feed.current.svids.get(entry.id)
        outlook = self._keeping.outlook(entry.id)
        return EntryFacts(
            entry=entry,
            misses=misses(entry, seen.selectors),
            is_for_no_pod=seen.is_in_pod and not asks_for_pods(entry),
            has_expired=entry.has_expired(self._clock.now()),
            serial=held.svid.serial if held else "",
            not_after=held.svid.not_after if held else None,
            refusal_reason=outlook.refusal.value if outlook and outlook.refusal else "",
            refusal=outlook.words if outlook else "",
            next_try=outlook.next_try if outlook else None,
        )


def _rank(facts: EntryFacts) -> tuple[int, str, str]:
    return (len(facts.misses), str(facts.entry.spiffe_id), facts.entry.id)


def _stream_facts(report: types_pb2.StreamReport) -> StreamFacts:
    return StreamFacts(
        stream_id=report.stream_id,
        waiting=tuple(each.name for each in report.resources if each.state == _IS_WAITING),
        refusals=tuple((each.name, each.refusal) for each in report.resources if each.state == _IS_REFUSED),
    )


def _caller_of(pid: int) -> Caller:
    """The running process `pid`, as if it had connected just now: by its effective user and group."""
    try:
        pidfd = os.pidfd_open(pid)
    except (OSError, ValueError, OverflowError) as error:
        raise NotFound(Reason.CALLER_UNKNOWN, f"there is no process {pid}") from error
    try:
        uid, gid = effective_ids(pid)
    except OSError as error:
        os.close(pidfd)
        raise NotFound(Reason.CALLER_UNKNOWN, f"process {pid} has ended") from error
    return Caller(PeerCredentials(pid, uid, gid), pidfd)
