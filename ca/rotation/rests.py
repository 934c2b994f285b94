"""The rests between rotations: what was done by itself is not done again soon."""

from __future__ import annotations

from datetime import datetime

from ca.authority.model import Authority, AuthorityKind
from ca.rotation.lives import Lives
from ca.rotation.model import RotationKind
from citadel.clock import Clock


class Rests:
    """Those of roots and issuing authorities, by the clock that never jumps."""

    def __init__(self, *, lives: Lives, clock: Clock) -> None:
        self._lives = lives
        self._clock = clock
        self._starts_again_at: dict[RotationKind, float] = {}
        self._roots_rest_until = 0.0

    def note_start(self, kind: RotationKind) -> None:
        """It was done: not again soon by itself. But no rest is so long that the root could end in it."""
        rested = self.rested_at(self._lives.active(AuthorityKind.ISSUER))
        self._starts_again_at[RotationKind.ISSUER] = rested
        if kind is RotationKind.ROOT:
            reserve = self._lives.reserve(self._lives.active(AuthorityKind.ROOT)).total_seconds()
            self._starts_again_at[kind] = min(rested, self._clock.monotonic() + reserve / 4)

    def let_roots_rest(self, now: datetime) -> None:
        """For a good while, in which the issuing authority may go first; but not until the root must be rotated."""
        longest = self._clock.monotonic() + self._lives.left_of_the_root(now).total_seconds()
        rested = self.rested_at(self._lives.active(AuthorityKind.ISSUER))
        self._roots_rest_until = min(rested, longest)
        self._starts_again_at[RotationKind.ROOT] = self._roots_rest_until
        self._starts_again_at.pop(RotationKind.ISSUER, None)

    def is_rested(self, kind: RotationKind) -> bool:
        """Whether it may be done by itself again."""
        return self._clock.monotonic() >= self._starts_again_at.get(kind, 0.0)

    def do_roots_rest(self) -> bool:
        """Whether they were let rest, and are to still: not even one that is put up is begun."""
        return self._clock.monotonic() < self._roots_rest_until

    def rested_at(self, issuer: Authority) -> float:
        """When it may be done by itself again: by a clock that was set back far, what is new looks old at once."""
        return self._clock.monotonic() + (issuer.not_after - issuer.not_before).total_seconds() / 8
