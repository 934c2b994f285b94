"""The units start what there is, with the files that the shipped settings name."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path
from typing import Final

import click
import pytest
import yaml

from ca.settings import ServerSettings
from cli.citadel import main
from sds.settings import AgentSettings

_DEPLOY: Final = Path(__file__).resolve().parents[2] / "deploy"
_UNITS: Final = sorted((_DEPLOY / "systemd").glob("*.service"))


class _Unit(configparser.ConfigParser):
    def optionxform(self, optionstr: str) -> str:
        return optionstr


def _service(path: Path) -> configparser.SectionProxy:
    unit = _Unit(interpolation=None)
    unit.read(path)
    return unit["Service"]


@pytest.mark.parametrize("path", _UNITS, ids=lambda path: path.name)
@pytest.mark.parametrize("key", ["ExecStartPre", "ExecStart"])
def test_commands_exist_and_name_shipped_settings(path: Path, key: str) -> None:
    program, *arguments = shlex.split(_service(path)[key])
    assert Path(program).name == "citadel"
    group, command, option, settings = arguments
    found = main.commands[group]
    assert isinstance(found, click.Group)
    assert option in [each for parameter in found.commands[command].params for each in parameter.opts]
    assert (_DEPLOY / Path(settings).name).exists()


@pytest.mark.parametrize(
    ("name", "model"), [("server", ServerSettings), ("agent", AgentSettings)], ids=["server", "agent"]
)
def test_units_give_the_folders_that_the_settings_ask_for(
    name: str, model: type[ServerSettings | AgentSettings]
) -> None:
    service = _service(_DEPLOY / "systemd" / f"citadel-{name}.service")
    settings = yaml.safe_load((_DEPLOY / f"{name}.yaml").read_text("utf-8"))
    assert settings["data_dir"] == f"/var/lib/{service['StateDirectory']}"
    assert service["StateDirectoryMode"] == "0700"
    socket = model.model_fields["socket"].default if "socket" in model.model_fields else None
    assert socket is None or str(socket.parent) == service["ReadWritePaths"]
    assert "/run/citadel 1775 root citadel" in (_DEPLOY / "systemd" / "citadel.tmpfiles").read_text("utf-8")


def test_server_and_agent_are_two_users() -> None:
    users = {_service(path)["User"] for path in _UNITS}
    declared = (_DEPLOY / "systemd" / "citadel.sysusers").read_text("utf-8")
    assert users == {"citadel", "citadel-agent"}
    assert all(f"u {user} -:citadel" in declared for user in users)
