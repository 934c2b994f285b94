"""Tables for people: no borders, folded to a terminal's width, never cut when piped."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from citadel.config.types import format_duration

_UNBOUNDED: Final = 1 << 20  # columns: what is piped is never folded


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, none: str) -> None:
    """Rows under their column names, or the sentence `none` where there are no rows."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    if table.row_count:
        _print(table)
    else:
        click.echo(none)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """One thing, a line for each of its fields."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields:
        table.add_row(name, _cell(value))
    _print(table)


def print_heading(text: str) -> None:
    """A line above a table, after an empty one."""
    click.echo(f"\n{text}")


def moment(value: datetime | None) -> str:
    """A moment in UTC, RFC 3339 to the second."""
    return value.strftime("%Y-%m-%dT%H:%M:%SZ") if value is not None else "-"


def moment_and_distance(value: datetime | None, now: datetime) -> str:
    """A moment and how far away it is: `2026-01-01T00:00:00Z (in 59m12s)`."""
    if value is None:
        return "-"
    if value > now:
        return f"{moment(value)} (in {about(value - now)})"
    return f"{moment(value)} ({about(now - value)} ago)"


def about(value: timedelta) -> str:
    """A duration in no finer a unit than a person wants to read."""
    for size, step in ((timedelta(days=2), timedelta(hours=1)), (timedelta(hours=2), timedelta(minutes=1))):
        if value >= size:
            return format_duration(value // step * step)
    return format_duration(timedelta(seconds=int(value.total_seconds())))


def _cell(value: object) -> Text:
    if value is None or value == "":
        return Text("-")
    if isinstance(value, str):
        text = value
    elif isinstance(value, Iterable):
        text = ", ".join(str(item) for item in value) or "-"
    else:
        text = str(value)
    # Some of it comes from proxies: it must not steer the terminal of an administrator.
    return Text(text if text.isprintable() else text.encode("unicode_escape").decode("ascii"))


def _print(table: Table) -> None:
    is_terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, width=None if is_terminal else _UNBOUNDED, highlight=False)
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())
