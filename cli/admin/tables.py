"""Tables for people: no borders, fitted to a terminal's width, never cut when piped."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from citadel.config.types import format_duration
from cli.output import echo, printable

_UNBOUNDED: Final = 1 << 20  # columns: what is piped is never folded
_SERIAL_DIGITS: Final = 12  # enough to tell certificates apart


@dataclass(frozen=True, slots=True)
class Abridged:
    """A cell that is shown in full, except in a table that is wider than the terminal."""

    full: str
    short: str


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, none: str) -> None:
    """Rows under their column names, or the sentence `none` where there are no rows."""
    kept = [tuple(row) for row in rows]
    if not kept:
        echo(none)
        return
    console = _console()
    table = _table(columns, kept)
    if console.measure(table, options=console.options.update(width=_UNBOUNDED)).maximum > console.width:
        table = _table(columns, [[_shortened(value) for value in row] for row in kept])
    _print(table, console)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """One thing, a line for each of its fields."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields:
        table.add_row(name, _cell(value))
    _print(table, _console())


def print_heading(text: str) -> None:
    """A line above a table, after an empty one."""
    echo(f"\n{text}")


def counted(number: int, one: str, many: str = "") -> str:
    """A number and what there are so many of; `many` where that is more than an added s."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def moment(value: datetime | None) -> str:
    """A moment in UTC, RFC 3339 to the second."""
    return value.strftime("%Y-%m-%dT%H:%M:%SZ") if value is not None else "-"


def moment_and_distance(value: datetime | None, now: datetime) -> str:
    """A moment and how far away it is: `2026-01-01T00:00:00Z (in 59m12s)`."""
    if value is None:
        return "-"
    return f"{moment(value)} ({_distance(value, now)})"


def moment_cell(value: datetime | None, now: datetime) -> Abridged:
    """As `moment_and_distance`; only the distance where that is too wide."""
    return Abridged(moment_and_distance(value, now), "-" if value is None else _distance(value, now))


def serial_cell(serial: str) -> Abridged:
    """A serial number in hex; its first digits where that is too wide."""
    return Abridged(serial, f"{serial[:_SERIAL_DIGITS]}…" if len(serial) > _SERIAL_DIGITS else serial)


def about(value: timedelta) -> str:
    """A duration in no finer a unit than a person wants to read."""
    for size, step in ((timedelta(days=2), timedelta(hours=1)), (timedelta(hours=2), timedelta(minutes=1))):
        if value >= size:
            return format_duration(value // step * step)
    return format_duration(timedelta(seconds=int(value.total_seconds())))


def _distance(value: datetime, now: datetime) -> str:
    return f"in {about(value - now)}" if value > now else f"{about(now - value)} ago"


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    return table


def _shortened(value: object) -> object:
    return value.short if isinstance(value, Abridged) else value


def _cell(value: object) -> Text:
    if isinstance(value, Abridged):
        value = value.full
    if value is None or value == "":
        return Text("-")
    if isinstance(value, str):
        text = value
    elif isinstance(value, Iterable):
        text = ", ".join(str(item) for item in value) or "-"
    else:
        text = str(value)
    return Text(printable(text))


def _console() -> Console:
    # It never writes to standard output itself: `echo` does, and tells what goes wrong.
    is_terminal = sys.stdout.isatty()
    width = None if is_terminal else _UNBOUNDED
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=width, highlight=False)


def _print(table: Table, console: Console) -> None:
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        echo(line.rstrip())
