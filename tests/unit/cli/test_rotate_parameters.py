"""What `citadel-cli rotate` takes, before it asks the server."""

from __future__ import annotations

import pytest

from tests.unit.cli.fake_admin import Program

CANNOT_BE_REACHED = 7


@pytest.mark.parametrize(
    "command",
    ["root", "issuer", "svid --all", "pause", "resume", "abort", "skip node-1"],
)
async def test_a_reason_may_be_left_out_but_is_not_empty(program: Program, command: str) -> None:
    assert (await program("rotate", *command.split())).exit_code == CANNOT_BE_REACHED
    refused = await program("rotate", *command.split(), "--reason", "")
    assert refused.exit_code == 2
    assert "the value is empty" in refused.stderr
