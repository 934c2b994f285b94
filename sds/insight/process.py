"""Why a process gets an identity or not: from facts to one answer (pure)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from citadel.entry import Entry
from citadel.selector import Selector
from citadel.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Miss:
    """A selector that an entry wants and the process does not have; `seen` is what it has instead, if anything."""

    wanted: Selector
    seen: Selector | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFacts:
    """One entry of the agent, held against one process.

    With `is_for_no_pod` the process is in a pod, and the entry asks for nothing of pods: then nothing makes it match.
    `serial` and `not_after` are set while there is an SVID; `refusal` is the last one since, `next_try` when it is
    asked for again.
    """

    entry: Entry
    misses: tuple[Miss, ...]
    is_for_no_pod: bool = False
    has_expired: bool = False
    serial: str = ""
    not_after: datetime | None = None
    refusal_reason: str = ""
    refusal: str = ""
    next_try: datetime | None = None

    @property
    def fits(self) -> bool:
        """Whether the process is one that the entry is for."""
        return not self.misses and not self.is_for_no_pod

    @property
    def matches(self) -> bool:
        """Whether the process is given this identity."""
        return self.fits and not self.has_expired


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFacts:
    """One open stream of the process: what waits on it, and what its proxy refused, in its own words."""

    stream_id: str
    waiting: tuple[str, ...] = ()
    refusals: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """All that the agent knows of one process.

    `trouble` is why nothing at all is signed for this agent now, `unseen` why something of the process is not seen.
    """

    uid: int
    executable: str
    entries: tuple[EntryFacts, ...]
    streams: tuple[StreamFacts, ...] = ()
    is_complete: bool = True
    unseen: str = ""
    is_connected: bool = True
    was_heard: bool = True
    trouble: str = ""

    @property
    def matching(self) -> Sequence[EntryFacts]:
        """The entries that give it an identity."""
        return [facts for facts in self.entries if facts.matches]


def misses(entry: Entry, seen: frozenset[Selector]) -> tuple[Miss, ...]:
    """What `entry` wants and was not seen, each beside the selector of the same kind that was."""
    of_kind = {_kind(selector): selector for selector in seen}
    return tuple(Miss(wanted, of_kind.get(_kind(wanted))) for wanted in sorted(entry.selectors - seen))


def judge_process(facts: ProcessFacts) -> Verdict:
    """The first thing that stands in the way, in the order in which a secret comes to a process."""
    return next(verdict for rule in _RULES if (verdict := rule(facts)) is not None)


def _knows_no_entry(facts: ProcessFacts) -> Verdict | None:
    if facts.entries:
        return None
    if not facts.was_heard:
        return Verdict(
            "this agent has not reached its server since it started, so it knows no entry",
            "look at the agent's log and its setting `server`",
        )
    return Verdict(
        "the server gives this agent no entry at all",
        "make an entry whose parent is this agent, or an alias that it matches",
    )


def _matches_nothing(facts: ProcessFacts) -> Verdict | None:
    if any(each.fits for each in facts.entries):
        return None
    if not facts.executable and any(_wants_file(miss.wanted) for each in facts.entries for miss in each.misses):
        return Verdict(
            "no entry matches, and the agent may not read which file this process runs",
            "run the agent as root or with CAP_SYS_PTRACE, or let the entry name the user alone",
        )
    if facts.unseen:
        return Verdict(f"no entry matches what is seen, and {facts.unseen}", "docs/reasons.md says more at pod_unseen")
    nearest = min(facts.entries, key=lambda each: (len(each.misses), each.entry.spiffe_id))
    if not nearest.misses:  # is_for_no_pod
        return Verdict(
            f"no entry matches: {nearest.entry.spiffe_id} has no k8s: selector, and so is not for processes in pods",
            "add one to the entry, such as k8s:ns:NAMESPACE, if it is meant for this pod",
        )
    wants = " and ".join(_miss_in_words(miss) for miss in nearest.misses)
    unseen = "" if facts.is_complete else "; something could not be seen now and is looked at again"
    return Verdict(
        f"no entry matches; the nearest, {nearest.entry.spiffe_id}, wants {wants}{unseen}",
        "correct the entry's selectors, or run the process as the entry expects",
    )


def _has_expired(facts: ProcessFacts) -> Verdict | None:
    if facts.matching:
        return None
    ended = next(each.entry for each in facts.entries if each.fits)
    return Verdict(f"its entry for {ended.spiffe_id} expired at {ended.expires_at}", "make a new entry")


def _has_no_svid(facts: ProcessFacts) -> Verdict | None:
    if any(each.not_after is not None for each in facts.matching):
        return None
    first = next((each for each in facts.matching if each.refusal_reason), facts.matching[0])
    identity = first.entry.spiffe_id
    if first.refusal_reason:
        again = f"; tried again at {first.next_try.isoformat(timespec='seconds')}" if first.next_try else ""
        return Verdict(
            f"the certificate for {identity} was refused: {first.refusal} ({first.refusal_reason}){again}",
            f"docs/reasons.md says what to do about {first.refusal_reason}",
        )
    if facts.trouble:
        return Verdict(f"nothing is signed for this agent now: {facts.trouble}", "look at the server and its log")
    if not facts.is_connected:
        return Verdict(
            f"the server is away, and there is no certificate for {identity} from before", "bring the server back"
        )
    return Verdict(f"the certificate for {identity} has been asked for and is on its way", "try again in a second")


def _was_refused(facts: ProcessFacts) -> Verdict | None:
    for stream in facts.streams:
        for name, words in stream.refusals:
            return Verdict(
                f"the proxy refused the secret {name!r} on stream {stream.stream_id}: {words}",
                "compare the proxy's configuration with its SDS names",
            )
    return None


def _waits(facts: ProcessFacts) -> Verdict | None:
    for stream in facts.streams:
        if stream.waiting:
            return Verdict(
                f"stream {stream.stream_id} asks for {stream.waiting[0]!r}, which this process may not have",
                "let it ask for one of its SDS names, or make an entry for that identity",
            )
    return None


def _asks_nothing(facts: ProcessFacts) -> Verdict | None:
    if facts.streams:
        return None
    return Verdict(
        f"{facts.matching[0].entry.spiffe_id} is ready for it, but it has no open stream to this agent",
        "point the process at this agent's socket",
    )


def _is_good(facts: ProcessFacts) -> Verdict | None:
    return Verdict(f"it has {facts.matching[0].entry.spiffe_id}", is_good=True)


_RULES: Final[Sequence[Callable[[ProcessFacts], Verdict | None]]] = (
    _knows_no_entry,
    _matches_nothing,
    _has_expired,
    _has_no_svid,
    _was_refused,
    _waits,
    _asks_nothing,
    _is_good,
)


def _miss_in_words(miss: Miss) -> str:
    return f"{miss.wanted} where {miss.seen or 'nothing of the kind'} was seen"


def _wants_file(selector: Selector) -> bool:
    return selector.value.startswith(("path:", "sha256:"))


def _kind(selector: Selector) -> tuple[str, str]:
    kind, _, rest = selector.value.partition(":")
    return (selector.type, f"{kind}:{rest.partition(':')[0]}" if kind == "pod-label" else kind)
