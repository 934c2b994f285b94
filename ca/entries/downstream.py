"""The entries whose identities may have an issuing authority of their own, by SPIFFE ID."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Final

from citadel.entry import Entry
from citadel.spiffe import SpiffeId

_NEVER: Final = datetime.max.replace(tzinfo=UTC)


class DownstreamEntries:
    """Kept by `ca.entries.directory`, in memory."""

    def __init__(self) -> None:
        self._by_identity: defaultdict[SpiffeId, dict[str, Entry]] = defaultdict(dict)
        self._watchers: list[Callable[[], None]] = []

    def watch(self, callback: Callable[[], None]) -> None:
        """Call `callback` at every change of one of them from now on. Nobody tells of an entry that expires."""
        self._watchers.append(callback)

    def of(self, spiffe_id: SpiffeId, now: datetime) -> Entry | None:
        """The entry of this identity that expires last; None where none is left."""
        living = [each for each in self._by_identity.get(spiffe_id, {}).values() if not each.has_expired(now)]
        return max(living, key=lambda each: each.expires_at or _NEVER, default=None)

    def one(self, spiffe_id: SpiffeId, entry_id: str, now: datetime) -> Entry | None:
        """This very entry of this identity; None where it is none of these, or has expired."""
        found = self._by_identity.get(spiffe_id, {}).get(entry_id)
        return found if found is not None and not found.has_expired(now) else None

    def identities(self, now: datetime) -> frozenset[SpiffeId]:
        """All that have one."""
        return frozenset(each for each in self._by_identity if self.of(each, now) is not None)

    def insert(self, entry: Entry) -> None:
        """Take an entry, also in the place of one with its id."""
        if entry.downstream:
            self._by_identity[entry.spiffe_id][entry.id] = entry

    def take_out(self, entry: Entry) -> None:
        """Forget this entry, unless another one has its place."""
        own = self._by_identity.get(entry.spiffe_id, {})
        if own.get(entry.id) is entry:
            del own[entry.id]
            if not own:
                del self._by_identity[entry.spiffe_id]

    def tell(self, changed: Iterable[Entry]) -> None:
        """These were changed."""
        if any(each.downstream for each in changed):
            for callback in self._watchers:
                callback()
