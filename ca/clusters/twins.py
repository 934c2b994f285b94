"""Two servers that come with one identity, as after a copy: each ends the stream of the other, again and again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog
from cryptography import x509

from ca.clusters.model import Said
from ca.clusters.sessions import ChildSession
from citadel.clock import Clock
from citadel.spiffe import SpiffeId

_log = structlog.get_logger(__name__)

_COMES_BACK_SECONDS: Final = 5.0  # whoever's stream is ended opens another one sooner
_REMEMBERED_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class _Seen:
    other: Said
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

    def look(self, session: ChildSession, said: Said, signed: Collection[x509.Certificate]) -> None:
        """Look at what is said first on a stream, which may have ended one. `signed` is what the child was given."""
        other = session.said_before
        if other is None or other.issuers.intersection(signed) <= said.issuers:
            return
        child, now = session.child.spiffe_id, self._clock.monotonic()
        before = self._seen.get(child)
        is_certain = before is not None and now < before.at + _REMEMBERED_SECONDS
        self._seen[child] = _Seen(other, now, is_certain)
        if is_certain:
            _log.error("two servers come as one child: each needs an entry of its own", child=str(child))

    def possible(self) -> frozenset[SpiffeId]:
        """Those that may be two now."""
        now = self._clock.monotonic()
        return frozenset(child for child, seen in self._seen.items() if now < seen.until)

    def certain(self) -> Sequence[SpiffeId]:
        """Those of whom that is certain."""
        return [child for child in self.possible() if self._seen[child].is_certain]

    def said_by_either(self, child: SpiffeId, said: Said, signed: Collection[x509.Certificate]) -> Said:
        """What this one says, and what the other said last of what is `signed`."""
        if child not in self.possible():
            return said
        other = self._seen[child].other
        theirs = other.issuers.intersection(signed) - said.issuers
        lists = (*said.lists, *(each for each in other.lists if each.issuer in theirs))
        return replace(
            said,
            issuers=said.issuers | theirs,
            lists=tuple(sorted(lists, key=lambda each: each.issuer_key_id)),
            without_list=said.without_list | (other.without_list & theirs),
            jwt_keys={**other.jwt_keys, **said.jwt_keys},
        )
