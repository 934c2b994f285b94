"""Which entries match a caller, without asking every entry of the node for every caller."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from citadel.entry import Entry
from citadel.selector import Selector

_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


class EntryIndex:
    """Entries by their rarest selector. Built once for each set of entries, then only read."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        entries = tuple(entries)
        commonness = Counter(selector for entry in entries for selector in entry.selectors)
        self._besides_digests = {
            frozenset(selector for selector in entry.selectors if not is_digest(selector))
            for entry in entries
            if any(map(is_digest, entry.selectors))
        }
        self._by_anchor: dict[Selector, list[Entry]] = defaultdict(list)
        for entry in entries:
            if entry.selectors:  # an entry without any is malformed, and must never match everybody
                anchor = min(entry.selectors, key=lambda selector: (commonness[selector], selector))
                self._by_anchor[anchor].append(entry)

    def wants_sha256(self, seen: frozenset[Selector]) -> bool:
        """Whether an entry that asks for the digest of an executable lacks nothing else of what was seen."""
        return any(others <= seen for others in self._besides_digests)

    def matching(self, seen: frozenset[Selector], now: datetime) -> list[Entry]:
        """The unexpired entries whose selectors were all seen, oldest first.

        For a caller in a pod only those that ask for something of pods: its author chooses its user, and whoever made
        an entry for a user of the node did not mean every pod with that number. Oldest first, so that a new entry does
        not take the place of the identity that a workload already has.
        """
        is_in_pod = any(map(is_of_pods, seen))
        found = (
            entry
            for selector in seen
            for entry in self._by_anchor.get(selector, ())
            if entry.matches(seen) and not entry.has_expired(now) and (asks_for_pods(entry) or not is_in_pod)
        )
        return sorted(found, key=lambda entry: (entry.created_at or _LONG_AGO, entry.spiffe_id, entry.id))


def asks_for_pods(entry: Entry) -> bool:
    """Whether a caller in a pod can have it at all."""
    return any(map(is_of_pods, entry.selectors))


def is_of_pods(selector: Selector) -> bool:
    """Whether it is a fact about a pod; every pod that is known has some."""
    return selector.type == "k8s"


def is_digest(selector: Selector) -> bool:
    """Whether it names the digest of an executable, which is looked at only where it is wanted."""
    return selector.type == "unix" and selector.value.startswith("sha256:")
