"""Two servers that come with one identity, as after a copy: each ends the stream of the other, again and again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog
from cryptography import x509

from ca.clusters.model import Said
from ca.clusters.sessions import ChildSession
from citadel._wire import clusters_pb2 as pb
from citadel.clock import Clock
from citadel.spiffe import SpiffeId

_log = structlog.get_logger(__name__)

_COMES_BACK_SECONDS: Final = 5.0  # whoever's stream is ended opens another one sooner
_REMEMBERED_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class _Seen:
    at: float
    is_certain: bool

    @property
    def until(self) -> float:
        return self.at + (_REMEMBERED_SECONDS if self.is_certain else _COMES_BACK_SECONDS)


class Twins:
    """Remembers for a while which children are two.

    A child that opens another stream, as it does with each renewed identity, names what it named on the one before. It
    may have changed its authority just then: only if it happens again soon there are two for certain.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[SpiffeId, _Seen] = {}

    def look(self, session: ChildSession, report: pb.ClusterReport) -> None:
        """Look at the first report of a stream, which may have ended one that had gone on until then."""
        if session.named_before <= {each.certificate for each in report.issuers}:
            return
        child, now = session.child.spiffe_id, self._clock.monotonic()
        before = self._seen.get(child)
        self._seen[child] = seen = _Seen(now, is_certain=before is not None and now < before.at + _REMEMBERED_SECONDS)
        if seen.is_certain:
            _log.error("two servers come as one child: each needs an entry of its own", child=str(child))

    def possible(self) -> frozenset[SpiffeId]:
        """Those that may be two now."""
        now = self._clock.monotonic()
        return frozenset(child for child, seen in self._seen.items() if now < seen.until)

    def certain(self) -> Sequence[SpiffeId]:
        """Those of whom that is certain."""
        return [child for child in self.possible() if self._seen[child].is_certain]


def said_by_either(before: Said | None, said: Said, signed: Collection[x509.Certificate]) -> Said:
    """What both say, of which the one said last is taken where they differ; of `signed` alone."""
    if before is None:
        return said
    lists = {each.issuer: each for each in before.lists if each.issuer in signed and each.issuer not in said.issuers}
    lists.update({each.issuer: each for each in said.lists})
    issuers = said.issuers | (before.issuers & frozenset(signed))
    return replace(
        said,
        issuers=issuers,
        lists=tuple(sorted(lists.values(), key=lambda each: each.issuer_key_id)),
        without_list=issuers - lists.keys(),
        jwt_keys={**before.jwt_keys, **said.jwt_keys},
    )
