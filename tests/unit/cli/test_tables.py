"""Tables fit a terminal, and keep everything where there is none."""

from __future__ import annotations

import io
import sys
from datetime import UTC, datetime, timedelta

import pytest

from cli.admin.tables import moment_cell, print_table, serial_cell

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SERIAL = "0123456789abcdef" * 2
FULL = ["SERIAL                            UNTIL", f"{SERIAL}  2026-01-01T01:00:00Z (in 1h)"]
SHORT = ["SERIAL         UNTIL", "0123456789ab…  in 1h"]


class Output(io.StringIO):
    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.mark.parametrize(("is_terminal", "columns", "lines"), [(True, 80, FULL), (True, 50, SHORT), (False, 50, FULL)])
def test_cells_are_shortened_only_where_the_terminal_is_too_narrow(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool, columns: int, lines: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    output = Output(is_terminal=is_terminal)
    monkeypatch.setattr(sys, "stdout", output)
    row = (serial_cell(SERIAL), moment_cell(NOW + timedelta(hours=1), NOW))
    print_table(("SERIAL", "UNTIL"), [row], none="none")
    assert [line.rstrip() for line in plain(output.getvalue()).splitlines()] == lines


def plain(text: str) -> str:
    return text.replace("\x1b[1m", "").replace("\x1b[0m", "")
