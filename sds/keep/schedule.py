"""When each entry's SVID is due, as rules apart from clocks and tasks."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Final

from citadel.entry import Entry
from citadel.errors import Reason
from citadel.spiffe import SpiffeId

HALF: Final = 0.5
JITTER: Final = 0.2  # of the time until a renewal is due
RETRY_FLOOR: Final = timedelta(milliseconds=50)
_LONGEST_CALL: Final = timedelta(seconds=15)  # a forced rotation of a whole mesh keeps a batch waiting about as long
_SHORTEST_CALL: Final = timedelta(seconds=1)  # a server that is merely busy must have a chance to answer


def renewal_time(*, received: datetime, not_after: datetime, at: float = HALF, random: Random) -> datetime:
    """When to renew an SVID: after the share `at` of what was left of it when it came, or up to a fifth earlier.

    Never later, so that a server may be away for the rest of any leaf's life. Call it once per certificate: drawing the
    jitter again at every look skews renewals towards the early end.
    """
    return received + (not_after - received) * at * random.uniform(1 - JITTER, 1)


def retry_delay(
    failures: int, *, initial: timedelta, maximum: timedelta, left: timedelta | None, random: Random
) -> timedelta:
    """How long to wait after the `failures`-th failure in a row: exponential with full jitter.

    `left` is what remains of the SVID that waits for its replacement, if there is one: no wait is longer than a tenth
    of it, so that leaves of a few seconds are still renewed in time.
    """
    cap = maximum if left is None else min(maximum, left / 10)
    doublings = min(failures - 1, 16)  # enough to pass any sensible maximum, and no overflow
    spread = min(cap, initial * (1 << doublings))
    return max(RETRY_FLOOR, spread * random.random())


def call_timeout(left: timedelta | None) -> timedelta:
    """How long to wait for signatures: a third of what is `left` of the SVID that ends first, so that tries remain."""
    return _LONGEST_CALL if left is None else min(_LONGEST_CALL, max(_SHORTEST_CALL, left / 3))


@dataclass(frozen=True, slots=True)
class Terms:
    """What of an entry stands in its certificate: another value of these needs another certificate."""

    spiffe_id: SpiffeId
    ttl: timedelta | None
    dns_names: tuple[str, ...]

    @classmethod
    def of(cls, entry: Entry) -> Terms:
        """The terms of `entry`. Selectors, hint and flags do not stand in a certificate."""
        return cls(entry.spiffe_id, entry.x509_svid_ttl, entry.dns_names)


@dataclass(slots=True, kw_only=True)
class _Slot:
    """What is known of one entry. `issued` and `not_after` are None until it has an SVID; no `due` means now."""

    entry: Entry
    due: datetime | None = None
    issued: Terms | None = None
    not_after: datetime | None = None
    failures: int = 0
    last_refusal: Reason | None = None
    last_words: str = ""
    refused_at: datetime | None = None
    pause: timedelta = timedelta(0)

    def next_try(self, now: datetime) -> datetime:
        """When to ask. A clock that was set back to before a refusal ends the pause instead of stretching it."""
        moment = self.due or now
        if self.refused_at is not None and self.refused_at <= now:
            moment = max(moment, self.refused_at + self.pause)
        return moment

    def forget_refusals(self) -> None:
        self.failures, self.last_refusal, self.last_words, self.refused_at = 0, None, "", None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What comes next for one entry. `refusal` is None where it was not refused since its last SVID."""

    next_try: datetime
    refusal: Reason | None
    words: str


class Schedule:
    """Which entries need an SVID at a moment, the most urgent first."""

    def __init__(self, *, initial: timedelta, maximum: timedelta, random: Random, renew_at: float = HALF) -> None:
        """`renew_at` is the share of its life after which an SVID is renewed."""
        self._renew_at = renew_at
        self._initial = initial
        self._maximum = maximum
        self._random = random
        self._slots: dict[str, _Slot] = {}

    def follow(self, entries: Iterable[Entry]) -> None:
        """Take over the entries as they are: new and changed ones are due at once, absent ones forgotten."""
        slots = {}
        for entry in entries:
            slot = self._slots.get(entry.id)
            if slot is None:
                slot = _Slot(entry=entry)
            elif slot.entry != entry:
                # A change may be the remedy for what was refused, so that is tried again at once.
                if slot.failures or slot.issued != Terms.of(entry):
                    slot.due = None
                    slot.forget_refusals()
                slot.entry = entry
            slots[entry.id] = slot
        self._slots = slots

    def miss_all_but(self, held: Collection[str]) -> None:
        """Where an SVID was taken away, as by a revocation, another is due once no refusal asks for a pause any more.

        `held` are the ids of the entries that have theirs still.
        """
        for entry_id, slot in self._slots.items():
            if slot.issued is not None and entry_id not in held:
                slot.due, slot.issued, slot.not_after = None, None, None

    def due(self, now: datetime) -> list[Entry]:
        """The entries that need an SVID now: those without one first, then by what ends soonest."""
        slots = self._slots.values()
        waiting = [slot for slot in slots if slot.next_try(now) <= now and not slot.entry.has_expired(now)]
        waiting.sort(key=lambda slot: slot.not_after.timestamp() if slot.not_after else 0.0)
        return [slot.entry for slot in waiting]

    def next_due(self, now: datetime) -> datetime | None:
        """When the next entry is due, or None when there is none."""
        slots = self._slots.values()
        return min((slot.next_try(now) for slot in slots if not slot.entry.has_expired(now)), default=None)

    def outlook(self, entry_id: str, now: datetime) -> Outlook | None:
        """What comes next for this entry, or None for one that is not known."""
        slot = self._slots.get(entry_id)
        if slot is None:
            return None
        return Outlook(next_try=slot.next_try(now), refusal=slot.last_refusal, words=slot.last_words)

    def issued(self, entry: Entry, *, received: datetime, not_after: datetime) -> bool:
        """Note a new SVID for `entry`. False when the entry was removed or changed its terms since it was asked for."""
        slot = self._slots.get(entry.id)
        if slot is None or Terms.of(slot.entry) != Terms.of(entry):
            return False
        slot.issued, slot.not_after = Terms.of(entry), not_after
        slot.forget_refusals()
        slot.due = renewal_time(received=received, not_after=not_after, at=self._renew_at, random=self._random)
        return True

    def hasten(self, entry_id: str, by: datetime) -> None:
        """Renew the SVID of this entry by then, where it would be later."""
        slot = self._slots.get(entry_id)
        if slot is not None and slot.due is not None:
            slot.due = min(slot.due, by)

    def refused(self, entry: Entry, reason: Reason, now: datetime, *, words: str = "") -> bool:
        """Note that `entry` alone was refused, and wait before the next try. True when this reason is news."""
        slot = self._slots.get(entry.id)
        if slot is None or slot.entry != entry:
            return False
        slot.failures += 1
        is_news, slot.last_refusal = slot.last_refusal is not reason, reason
        slot.refused_at, slot.last_words = now, words
        slot.pause = retry_delay(
            slot.failures,
            initial=self._initial,
            maximum=self._maximum,
            left=_left(slot.not_after, now),
            random=self._random,
        )
        return is_news

    def shortest_left(self, now: datetime) -> timedelta | None:
        """What remains of the valid SVID that ends first, or None when there is none."""
        return min((left for slot in self._slots.values() if (left := _left(slot.not_after, now))), default=None)


def _left(not_after: datetime | None, now: datetime) -> timedelta | None:
    """What is left until `not_after`; None when it has passed, since then nothing is lost by waiting."""
    return not_after - now if not_after is not None and not_after > now else None
