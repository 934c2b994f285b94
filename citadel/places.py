"""Who gives way where more is wanted than there are places (pure).

Whoever wants much that comes to nothing keeps nobody else out: places without a use are shared out evenly, first among
groups, then within one, so that more members give a group no more of them. What is of use stays, up to the share of its
group; beyond that it gives way to who has nothing, when all places are of use.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who wants something: a member of a group that could have any number of them."""

    group: str
    name: str = ""


class Worth(IntEnum):
    """What is lost with a place."""

    NOTHING = 0  # it was refused, or nobody wants it now
    UNKNOWN = 1
    USED = 2


class Places(Generic[_Key]):
    """Who has which. A place that was given up for somebody and is asked for again takes none from that one."""

    def __init__(self, *, share: int) -> None:
        """Where no place is without a use, a group with fewer than `share` gets one of a group with more."""
        self._share = share
        self._taken: dict[_Key, tuple[Asker, Worth]] = {}
        self._idle: _Counted[_Key] = _Counted()
        self._used: _Counted[_Key] = _Counted()

    def __len__(self) -> int:
        return len(self._taken)

    def of(self, asker: Asker) -> Sequence[_Key]:
        """What it has, first what is without a use."""
        return (*self._idle.of(asker), *self._used.of(asker))

    def put(self, key: _Key, asker: Asker, worth: Worth = Worth.UNKNOWN) -> None:
        """It has a place from now on at the latest, and is worth that."""
        self._taken[key] = asker, worth
        into, other = (self._used, self._idle) if worth is Worth.USED else (self._idle, self._used)
        into.add(key, asker)
        other.discard(key, asker)

    def mark(self, key: _Key, worth: Worth) -> None:
        """It is worth that now."""
        self.put(key, self._taken[key][0], worth)

    def drop(self, key: _Key) -> None:
        """It has none any more."""
        asker, _ = self._taken.pop(key)
        self._idle.discard(key, asker)
        self._used.discard(key, asker)

    def giving_way(self, asker: Asker) -> _Key | None:
        """What has to go for one thing more of `asker`; None where others have no more than their part."""
        found = self._idle.fullest(asker, lambda has, mine: has > mine + 1)
        if not found and not self._idle.of_group(asker.group):
            found = self._used.fullest(asker, lambda has, mine: mine < self._share < has)
        # Of equal ones the newest.
        return min(reversed(found), key=lambda key: self._taken[key][1], default=None)


class _Counted(Generic[_Key]):
    """Keys by those who have them."""

    def __init__(self) -> None:
        self._groups: Counter[str] = Counter()
        self._members: defaultdict[str, dict[str, dict[_Key, None]]] = defaultdict(dict)

    def of(self, asker: Asker) -> dict[_Key, None]:
        return self._members.get(asker.group, {}).get(asker.name, {})

    def of_group(self, group: str) -> int:
        return self._groups[group]

    def add(self, key: _Key, asker: Asker) -> None:
        keys = self._members[asker.group].setdefault(asker.name, {})
        if key not in keys:
            keys[key] = None
            self._groups[asker.group] += 1

    def discard(self, key: _Key, asker: Asker) -> None:
        keys = self.of(asker)
        if key not in keys:
            return
        del keys[key]
        self._groups[asker.group] -= 1
        if not keys:
            del self._members[asker.group][asker.name]
        if not self._groups[asker.group]:
            del self._groups[asker.group], self._members[asker.group]

    def fullest(self, asker: Asker, gives: Callable[[int, int], bool]) -> dict[_Key, None]:
        """What the fullest member of the fullest group has, or else of the asker's own, if that one `gives`."""
        group = max(self._groups, key=self._groups.__getitem__, default="")
        if gives(self._groups[group], self._groups[asker.group]):
            return max(self._members[group].values(), key=len)
        found = max(self._members.get(asker.group, {}).values(), key=len, default={})
        return found if gives(len(found), len(self.of(asker))) else {}
