"""What an agent holds in memory for what its settings do not ask for: nothing."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

IMPORTS: Final = """
from cli.entry import begin
begin()
import cli.citadel, cli.agent_process, sys
print(*sys.modules)
"""


@pytest.fixture(scope="module")
def imported() -> frozenset[str]:
    """The modules of `citadel agent run` before it begins to work, in a process of its own."""
    done = subprocess.run([sys.executable, "-P", "-c", IMPORTS], capture_output=True, text=True, check=True)
    return frozenset(done.stdout.split())


@pytest.mark.parametrize(
    "package",
    [
        "rich",  # tables of commands, and tracebacks that show local variables
        "pygments",
        "httpx",  # keys of end users' issuers
        "httpcore",
        "citadel.access.document",  # reads policies
        "kubernetes",
        "sqlalchemy",
        "ca",
    ],
)
def test_an_agent_imports_nothing_that_its_settings_may_not_need(imported: frozenset[str], package: str) -> None:
    assert "sds.serve.server" in imported
    assert package not in imported


def test_rich_can_be_imported_after_the_beginning() -> None:
    code = "from cli.entry import begin; begin(); import rich.console, structlog; print('both')"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "both\n"
