"""Completion works in a real shell, as far as a shell can be asked without a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.citadel import main as citadel
from cli.citadel_cli import citadel_cli

_PROGRAMS = Path(sys.executable).parent


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_program_has_a_script_for_each_shell(shell: str) -> None:
    for program, name in ((citadel, "citadel"), (citadel_cli, "citadel-cli")):
        printed = CliRunner().invoke(program, ["completion", shell])
        assert printed.exit_code == 0
        assert name in printed.output


@pytest.mark.integration
@pytest.mark.parametrize(
    ("line", "word", "offered"),
    [("citadel-cli ", "", "entry"), ("citadel-cli entry ", "", "create"), ("citadel ser", "ser", "server")],
)
def test_a_shell_that_asks_gets_the_commands(line: str, word: str, offered: str) -> None:
    name = line.split(maxsplit=1)[0]
    asked = subprocess.run(
        [_PROGRAMS / name],
        env=os.environ
        | {
            f"_{name.replace('-', '_').upper()}_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split()) - bool(word)),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"plain,{offered}" in asked.stdout.splitlines()


@pytest.mark.integration
def test_bash_takes_the_script(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(CliRunner().invoke(citadel_cli, ["completion", "bash"]).output)
    subprocess.run(["bash", "-n", script], check=True)
