"""What a rotation asks of the keys that sign tokens: how near its end the one is, and whose tokens live."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from ca.authority.jwt import JwtAuthorities
from ca.authority.jwt_model import JwtAuthority
from ca.authority.model import AuthorityState
from ca.rotation.model import Holder


class Tokens:
    """Looks at the keys as they are now; `longest` is how long a token can live."""

    def __init__(self, *, authorities: JwtAuthorities, longest: timedelta) -> None:
        self._authorities = authorities
        self._longest = longest

    def signs(self) -> JwtAuthority:
        """The authority that signs, also where it has ended."""
        return next(each for each in self._authorities.authorities() if each.state is AuthorityState.ACTIVE)

    def left(self, authority_ids: Collection[str]) -> list[Holder]:
        """The keys among these that tokens hang on, each until validators whose clocks are behind take none."""
        return [
            Holder(
                name=f"jwt/{each.kid}",
                words="signed tokens that have not ended",
                until=each.needed_until,
                is_mere_time=True,
            )
            for each in self._authorities.authorities()
            if each.id in authority_ids and each.needed_until is not None
        ]

    def reserve(self, margin: timedelta) -> timedelta:
        """How much of its life must be left for its successor to be waited for; see `ca.rotation.leaving`."""
        signs = self.signs()
        return min(self._longest + margin, (signs.not_after - signs.not_before) / 4)

    def is_pressing(self, margin: timedelta, now: datetime) -> bool:
        """Whether it is so near its end that nobody is waited for any more."""
        return self.signs().not_after - self.reserve(margin) <= now
