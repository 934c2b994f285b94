"""Child clusters as a rotation waits for them, and as people see them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from typing import Final

from ca.authority.model import Authority
from ca.clusters.in_force import InForce
from ca.clusters.model import ChildAuthority
from ca.clusters.records import UNHEARD, ChildRecords
from ca.clusters.sessions import ChildBook, ChildSession
from ca.rotation.model import Holder
from citadel._wire import rotation_pb2
from citadel._wire.rotation_pb2 import ClusterView
from citadel.clock import Clock
from citadel.printable import printable
from citadel.spiffe import MAX_ID_BYTES, SpiffeId
from citadel.wire import to_timestamp

_MOST_NAMED: Final = 3
_MOST_HOLDERS: Final = 10
_MOST_BELOW: Final = 100
_MOST_WORDS: Final = 300
_DEEPEST: Final = 100


class Children:
    """Fulfils `ca.rotation.ports.Beyond`: a holder's name is the SPIFFE ID of the child's server here."""

    def __init__(
        self,
        *,
        book: ChildBook,
        records: ChildRecords,
        in_force: InForce,
        authorities: Callable[[], Sequence[Authority]],
        clock: Clock,
    ) -> None:
        self._book = book
        self._records = records
        self._in_force = in_force
        self._authorities = authorities
        self._clock = clock

    def without(self, *, is_jwt: bool) -> Sequence[Holder]:
        version = self._in_force.version(is_jwt=is_jwt)
        holders = []
        for child in self._all():
            session = self._book.connected().get(child)
            if session is None:
                holders.append(_away(child, self._records.signed(child)))
            elif not session.acknowledges(version, is_jwt=is_jwt):
                holders.append(Holder(name=str(child), words=_behind(session)))
        return [*holders, *self._unheard(holders)]

    def depending(self, old_ids: Collection[str], now: datetime) -> Sequence[Holder]:
        old = {each.subject_key_id for each in self._authorities() if each.id in old_ids}
        holders = []
        for child in self._all():
            left = [each for each in self._records.in_use(child) if each.root_key_id in old and each.not_after > now]
            if not left:
                continue
            session = self._book.connected().get(child)
            if session is None:
                holders.append(_away(child, left))
            else:
                holders.append(Holder(name=str(child), words=_changing(session, left), until=_last_end(left)))
        return [*holders, *self._unheard(holders)]

    def clusters(self) -> Sequence[ClusterView]:
        return [view for child in self._all() for view in self._views(child)]

    def counts(self) -> tuple[int, int]:
        """How many are connected, and away."""
        connected = len(self._book.connected())
        return connected, len(self._all()) - connected

    def _unheard(self, holders: Sequence[Holder]) -> list[Holder]:
        named = {each.name for each in holders}
        return [
            Holder(name=str(child), words=UNHEARD, until=until)
            for child, until in self._records.unheard().items()
            if str(child) not in named
        ]

    def _all(self) -> list[SpiffeId]:
        """Whoever is connected, or away with authorities that have not ended."""
        return sorted({*self._book.connected(), *self._records.children()})

    def _views(self, child: SpiffeId) -> Iterator[ClusterView]:
        session = self._book.connected().get(child)
        report = session.report if session is not None else None
        view = _shown(report.own) if report is not None else ClusterView()
        view.name, view.connected, view.below = str(child), session is not None, 0
        since = session.connected_at if session is not None else self._left_at(child)
        view.ClearField("since")
        if since is not None:
            view.since.CopyFrom(to_timestamp(since))
        yield view
        for each in report.below[:_MOST_BELOW] if report is not None else ():
            below = _shown(each)
            below.below = min(each.below + 1, _DEEPEST)
            yield below

    def _left_at(self, child: SpiffeId) -> datetime | None:
        said = self._records.said(child)
        return self._book.left_at(child) or (said.at if said is not None else None)


def _away(child: SpiffeId, authorities: Sequence[ChildAuthority]) -> Holder:
    return Holder(
        name=str(child), words="the cluster is away, and its authorities are valid", until=_last_end(authorities)
    )


def _last_end(authorities: Sequence[ChildAuthority]) -> datetime:
    return max(each.not_after for each in authorities)


def _behind(session: ChildSession) -> str:
    if session.report is None:
        return "the cluster has not said anything yet"
    own = session.report.own
    late = own.proxies - min(own.proxies, own.proxies_acknowledged)
    what = f"{late} of {own.proxies} proxies have not acknowledged" if late else "the cluster has not acknowledged"
    named = [f"{each.name} ({each.words})" for each in own.holders[:_MOST_NAMED]]
    more = max(own.holder_count, len(own.holders)) - len(named)
    named += [f"{more} more"] if named and more > 0 else []
    return printable(f"{what}: {'; '.join(named)}" if named else what, _MOST_WORDS)


def _changing(session: ChildSession, left: Sequence[ChildAuthority]) -> str:
    phase = session.report.own.phase if session.report is not None else ""
    how_many = "an issuing authority" if len(left) == 1 else f"{len(left)} issuing authorities"
    words = f"the cluster has {how_many} under the old root"
    return printable(f"{words}, and is changing: {phase}" if phase else words, _MOST_WORDS)


def _shown(view: ClusterView) -> ClusterView:
    """A copy with bounded texts that can be shown: a child says what it likes."""
    shown = ClusterView()
    shown.CopyFrom(view)
    del shown.holders[_MOST_HOLDERS:]
    shown.name, shown.phase = printable(view.name, MAX_ID_BYTES), printable(view.phase, _MOST_WORDS)
    for holder in shown.holders:
        _clean(holder)
    return shown


def _clean(holder: rotation_pb2.Holder) -> None:
    holder.name, holder.words = printable(holder.name, MAX_ID_BYTES), printable(holder.words, _MOST_WORDS)
