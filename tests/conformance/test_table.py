"""The table of conformance says of every stable line either which tests show it or why none does yet."""

from __future__ import annotations

import subprocess
import sys


def test_every_line_is_shown_or_excused_and_none_is_both() -> None:
    looked = subprocess.run(
        [sys.executable, "-m", "tests.conformance", "--collect"], capture_output=True, text=True, check=False
    )
    assert looked.stderr == ""
    assert looked.returncode == 0, looked.stdout[-2000:]
