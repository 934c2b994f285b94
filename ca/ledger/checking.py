"""Finding out whether a log is what was written: pure, fed with rows in their order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ca.ledger.chain import ChainedRow, Head, Log, Segment, link
from ca.ledger.checkpoints import Checkpoint, CheckpointKind

_MOST_BREAKS: Final = 1000  # of a log that was rewritten, nobody reads more


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """Something that is not as it was written. `number` is the row's in its table, 0 where there is no row."""

    log: Log
    problem: str
    writer: str = ""
    position: int = 0
    number: int = 0


@dataclass(slots=True, kw_only=True)
class Report:
    """What checking one log has found."""

    log: Log
    rows: int = 0
    unchained: int = 0
    pruned: int = 0
    checkpoints: int = 0
    breaks: list[Break] = field(default_factory=list)
    more_breaks: int = 0
    signed_until: Checkpoint | None = None
    unsigned_rows: int = 0

    def add(self, found: Break) -> None:
        """Note a break, or only count it where there are very many."""
        if len(self.breaks) < _MOST_BREAKS:
            self.breaks.append(found)
        else:
            self.more_breaks += 1

    @property
    def is_intact(self) -> bool:
        """Whether nothing was found."""
        return not self.breaks


class LogCheck:
    """Checks one log, segment by segment: `begin` each in order, `add` its rows in order, `end` it; then `finish`.

    `signed` are checkpoints and anchors whose signature was checked: the store's own and those kept elsewhere.
    """

    def __init__(self, log: Log, segments: Sequence[Segment], signed: Sequence[Checkpoint]) -> None:
        self.report = Report(log=log)
        self._segments = segments
        self._signed: dict[str, list[Checkpoint]] = defaultdict(list)
        for checkpoint in signed:
            if checkpoint.log is log:
                self._signed[checkpoint.head.writer].append(checkpoint)
        self._expected: dict[int, list[Checkpoint]] = {}
        self._head = Head("", 0, b"")
        self._last_number = 0
        self._before: Head | None = None

    def begin(self, segment: Segment) -> Head:
        """Go on with `segment`; returns the head after which its rows begin."""
        if segment.after != self._before:
            self._say_wrong_link(segment)
        anchors = [c for c in self._signed[segment.writer] if c.kind is CheckpointKind.ANCHOR]
        newest = max(anchors, key=lambda anchor: anchor.head.position, default=None)
        genesis = segment.genesis()
        self._head = newest.head if newest is not None else genesis
        if newest is not None and newest.genesis != genesis.hash:
            self._say("the segment began otherwise: what it says of the one before it was changed")
        self._last_number = 0
        self.report.pruned += self._head.position
        self._expected = defaultdict(list)
        for checkpoint in self._signed[segment.writer]:
            if checkpoint.head.position >= self._head.position:  # what was pruned cannot be compared any more
                self._expected[checkpoint.head.position].append(checkpoint)
        self._compare(number=0)
        return self._head

    def add(self, row: ChainedRow) -> None:
        """The next row of the segment."""
        wanted = self._head.position + 1
        if row.position > wanted:
            self._say(f"{_rows(wanted, row.position - 1)} missing", position=wanted)
            # What the missing rows hashed to is not known: this row's own hash is where checking goes on.
            self._head = Head(row.writer, row.position, row.hash)
        else:
            if row.position < wanted:
                self._say(f"a second row has position {row.position}", position=row.position, number=row.number)
            elif link(self._head.hash, row.record) != row.hash:
                self._say(
                    f"row {row.position} was changed: {row.record.decode('ascii', 'replace')}",
                    position=row.position,
                    number=row.number,
                )
            self._head = Head(row.writer, max(row.position, self._head.position), row.hash)
        if row.number <= self._last_number:
            self._say(f"row {row.position} was moved", position=row.position, number=row.number)
        self._last_number = row.number
        self.report.rows += 1
        self._compare(row.number)

    def end(self) -> None:
        """No more rows in the segment."""
        for position in sorted(self._expected):
            checkpoint = self._expected[position][0]
            self._say(
                f"{_rows(self._head.position + 1, position)} missing at the end: a checkpoint of "
                f"{checkpoint.at.isoformat()} knows them",
                position=position,
            )
            break  # the others say the same of fewer rows
        self._before = self._head
        signed = [c for c in self._signed[self._head.writer] if c.head.position <= self._head.position]
        last = max(signed, key=lambda checkpoint: checkpoint.head.position, default=None)
        self.report.unsigned_rows = self._head.position - (last.head.position if last else 0)
        self.report.signed_until = last or self.report.signed_until

    def finish(self, census: Mapping[str, int]) -> Report:
        """`census` says how many rows each writer has, "" being those without a writer."""
        known = {segment.writer for segment in self._segments}
        self.report.unchained = census.get("", 0)
        recorded = self._segments[0].unchained if self._segments else self.report.unchained
        if self.report.unchained > recorded:
            self._say(f"{self.report.unchained - recorded} rows without a hash were inserted")
        for writer, rows in census.items():
            if writer and writer not in known:
                self._say(f"{rows} rows have a writer that was never recorded", writer=writer)
        for writer, signed in self._signed.items():
            if signed and writer not in known:
                furthest = max(checkpoint.head.position for checkpoint in signed)
                self._say(f"the whole segment, at least {furthest} rows, is missing", writer=writer)
        return self.report

    def _compare(self, number: int) -> None:
        for checkpoint in self._expected.pop(self._head.position, ()):
            self.report.checkpoints += 1
            if checkpoint.head.hash != self._head.hash:
                self._say(
                    f"row {self._head.position} or one before it was changed: a checkpoint of "
                    f"{checkpoint.at.isoformat()} has another hash",
                    position=self._head.position,
                    number=number,
                )

    def _say_wrong_link(self, segment: Segment) -> None:
        before, after = self._before, segment.after
        if after is None or (before is not None and before.writer != after.writer) or before is None:
            self._say("segments before it are missing or were moved", writer=segment.writer)
        elif after.position > before.position:
            rows = _rows(before.position + 1, after.position)
            self._say(f"{rows} missing at the end: the next segment knows them", writer=before.writer)
        elif after.position < before.position:
            rows = _rows(after.position + 1, before.position)
            self._say(f"{rows} added after the segment's end", writer=before.writer)
        else:
            self._say(f"row {before.position} is not the one that the next segment knows", writer=before.writer)

    def _say(self, problem: str, *, position: int = 0, number: int = 0, writer: str = "") -> None:
        writer = writer or self._head.writer
        found = Break(log=self.report.log, problem=problem, writer=writer, position=position, number=number)
        self.report.add(found)


def _rows(first: int, last: int) -> str:
    return f"row {first} is" if first == last else f"rows {first} to {last} are"
