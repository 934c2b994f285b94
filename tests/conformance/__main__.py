"""Print the SPIFFE checklist as a table: each line, and the tests that show it or why it does not apply yet."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from tests.conformance.table import Row, Verdict, Witness, contradictions, rows

_STYLES = {Verdict.SHOWN: "green", Verdict.NOT_YET: "yellow", Verdict.FAILED: "bold red", Verdict.MISSING: "bold red"}


def main() -> int:
    """Run the tests that carry a line (or, with `--collect`, only look for them). 0 when nothing failed or lacks."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--collect", action="store_true", help="look for the tests, do not run them")
    has_run = not parser.parse_args().collect
    witness = Witness()
    options = ["-q", "-p", "no:cacheprovider"] if has_run else ["--collect-only", "-qq", "-p", "no:cacheprovider"]
    outcome = pytest.main([*options, *_files()], plugins=[witness])
    table = list(rows(witness, has_run=has_run))
    _print(table)
    problems = contradictions(witness)
    if problems:
        Console(stderr=True).print("\n".join(problems))
    return 1 if problems or outcome != pytest.ExitCode.OK else 0


def _files() -> list[str]:
    """Those with such tests: reading the text of all is much cheaper than importing all."""
    return [str(each) for each in sorted(Path("tests").rglob("test_*.py")) if "pytest.mark.spec(" in each.read_text()]


def _print(table: list[Row]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160)
    shown = Table("line", "what it asks", "verdict", "shown by, or why not yet", header_style="bold")
    for row in table:
        tests = "\n".join(test.removeprefix("tests/") for test in row.tests)
        shown.add_row(row.line, row.title, row.verdict, tests or row.why, style=_STYLES.get(row.verdict, ""))
    console.print(shown)
    counts = Counter(row.verdict for row in table)
    console.print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))


if __name__ == "__main__":
    sys.exit(main())
