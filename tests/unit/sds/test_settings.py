"""What the settings of the agent refuse, each with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from citadel.config.loader import load
from citadel.errors import InvalidArgument
from sds.settings import AgentSettings


def load_agent(tmp_path: Path, line: str) -> AgentSettings:
    path = tmp_path / "agent.yaml"
    path.write_text(f"trust_domain: a.test\ndata_dir: d\n{line}\n")
    return load(path, AgentSettings)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("probes: 0.0.0.0:1", "'probes' is wrong (value '0.0.0.0:1'): not a loopback address"),
        ("reconnect: {initial: 0s}", "'reconnect.initial' is wrong (value '0s'): should be greater than or equal"),
        ("reconnect: {initial: 9ms}", "'reconnect.initial' is wrong (value '9ms'): should be greater than or equal"),
        ("reconnect: {maximum: 0s}", "'reconnect' is wrong: maximum must be at least initial"),
        ("reconnect: {initial: 6s}", "'reconnect' is wrong: maximum must be at least initial"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        load_agent(tmp_path, line)
    assert refused.value.message.startswith(f"{tmp_path / 'agent.yaml'}:3: {problem}")


@pytest.mark.parametrize("line", ["probes: '[::1]:0'", "reconnect: {initial: 10ms, maximum: 10ms}"])
def test_settings_up_to_the_bounds_are_taken(tmp_path: Path, line: str) -> None:
    load_agent(tmp_path, line)
