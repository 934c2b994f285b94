"""Tokens that are kept: a bounded number, of which no identity can take the place of the others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from citadel.jwt_svid import JwtSvid

_MOST_OF_ONE: Final = 64  # a workload that speaks to more services at a time asks for some of them anew
_MOST: Final = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenKey:
    """What a token is kept under. The order of the audiences is the caller's, as it stands in the token."""

    entry_id: str
    audience: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldToken:
    """A token that was checked. From `renew_at` on another one is asked for first."""

    svid: JwtSvid
    renew_at: datetime


class TokenCache:
    """Forgets what was not asked for the longest: of the entry that has its share, and in all of whoever has most."""

    def __init__(self, *, most_of_one: int = _MOST_OF_ONE, most: int = _MOST) -> None:
        self._most_of_one = most_of_one
        self._most = most
        self._by_entry: dict[str, OrderedDict[tuple[str, ...], HeldToken]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def get(self, key: TokenKey) -> HeldToken | None:
        """What is kept under `key`."""
        of_one = self._by_entry.get(key.entry_id)
        if of_one is None or key.audience not in of_one:
            return None
        of_one.move_to_end(key.audience)
        return of_one[key.audience]

    def put(self, key: TokenKey, held: HeldToken) -> None:
        """Keep it in the place of what was there."""
        of_one = self._by_entry.setdefault(key.entry_id, OrderedDict())
        self._count += key.audience not in of_one
        of_one[key.audience] = held
        of_one.move_to_end(key.audience)
        if len(of_one) > self._most_of_one:
            self._forget_oldest(key.entry_id)
        elif self._count > self._most:
            self._forget_oldest(max(self._by_entry, key=lambda entry_id: len(self._by_entry[entry_id])))

    def drop(self, key: TokenKey) -> None:
        """Forget what is kept under `key`, if anything is."""
        of_one = self._by_entry.get(key.entry_id)
        if of_one is not None and of_one.pop(key.audience, None) is not None:
            self._count -= 1
            if not of_one:
                del self._by_entry[key.entry_id]

    def keep_only(self, is_good: Callable[[str, HeldToken], bool]) -> None:
        """Forget all but what `is_good` says so of, asked with the id of the entry."""
        for entry_id, of_one in tuple(self._by_entry.items()):
            for audience, held in tuple(of_one.items()):
                if not is_good(entry_id, held):
                    self.drop(TokenKey(entry_id=entry_id, audience=audience))

    def _forget_oldest(self, entry_id: str) -> None:
        self.drop(TokenKey(entry_id=entry_id, audience=next(iter(self._by_entry[entry_id]))))
