"""How old the authorities that sign are, and how much of their lives is left."""

from __future__ import annotations

from datetime import datetime, timedelta

from ca.authority.manager import AuthorityManager
from ca.authority.model import Authority, AuthorityKind, AuthorityState
from ca.rotation.leaving import Leaving


class Lives:
    """Of the root and the issuing authority that are active now."""

    def __init__(
        self,
        *,
        authorities: AuthorityManager,
        leaving: Leaving,
        margin: timedelta,
        root_at: float | None,
        issuer_at: float,
    ) -> None:
        """`root_at` and `issuer_at` are the shares of their lives after which they are old; None is never."""
        self._authorities = authorities
        self._leaving = leaving
        self._margin = margin
        self._root_at = root_at
        self._issuer_at = issuer_at

    def active(self, kind: AuthorityKind) -> Authority:
        """The one that signs."""
        authorities = (each for each in self._authorities.authorities() if each.kind is kind)
        return next(each for each in authorities if each.state is AuthorityState.ACTIVE)

    def is_root_old(self, now: datetime) -> bool:
        """Whether it is old enough to be rotated; never where roots are rotated by hand alone."""
        return self._root_at is not None and _is_older(self.active(AuthorityKind.ROOT), self._root_at, now)

    def is_issuer_old(self, now: datetime) -> bool:
        """Whether it is old enough to be rotated."""
        return _is_older(self.active(AuthorityKind.ISSUER), self._issuer_at, now)

    def left_of_the_root(self, now: datetime) -> timedelta:
        """Until it must be rotated, whatever else is due."""
        root = self.active(AuthorityKind.ROOT)
        return root.not_after - now - 2 * self.reserve(root)

    def reserve(self, authority: Authority) -> timedelta:
        """How much of its life must be left for its successor to be waited for."""
        return self._leaving.reserve(authority, self._margin)


def _is_older(authority: Authority, share: float, now: datetime) -> bool:
    return authority.not_before + (authority.not_after - authority.not_before) * share <= now
