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


def _section(path: Path, name: str) -> configparser.SectionProxy:
    unit = _Unit(interpolation=None, strict=False)  # systemd takes a key more than once
    unit.read(path)
    return unit[name]


_COMMANDS: Final = [
    (path, key) for path in _UNITS for key in ("ExecStartPre", "ExecStart") if key in _section(path, "Service")
]


@pytest.mark.parametrize(("path", "key"), _COMMANDS, ids=lambda value: getattr(value, "name", value))
def test_commands_exist_and_name_shipped_settings(path: Path, key: str) -> None:
    program, *arguments = shlex.split(_section(path, "Service")[key])
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
    service = _section(_DEPLOY / "systemd" / f"citadel-{name}.service", "Service")
    settings = yaml.safe_load((_DEPLOY / f"{name}.yaml").read_text("utf-8"))
    assert settings["data_dir"] == f"/var/lib/{service['StateDirectory']}"
    assert service["StateDirectoryMode"] == "0700"
    made = model.model_construct(data_dir=Path(settings["data_dir"]))
    assert (service["ProtectSystem"], made.relay_dir.parent) == ("strict", made.data_dir)
    socket = model.model_fields["socket"].default if "socket" in model.model_fields else None
    assert socket is None or str(socket.parent) == service["ReadWritePaths"]
    assert "/run/citadel 1775 root citadel" in (_DEPLOY / "systemd" / "citadel.tmpfiles").read_text("utf-8")


def test_server_and_agent_are_two_users() -> None:
    users = {_section(path, "Service")["User"] for path in _UNITS}
    declared = (_DEPLOY / "systemd" / "citadel.sysusers").read_text("utf-8")
    assert users == {"citadel", "citadel-agent"}
    assert all(f"u {user} -:citadel" in declared for user in users)


def test_the_agents_socket_outlives_it_and_it_is_back_at_once() -> None:
    socket = _section(_DEPLOY / "systemd" / "citadel-agent.socket", "Socket")
    assert socket["ListenStream"] == str(AgentSettings.model_fields["socket"].default)
    assert socket["SocketMode"] == "0666"
    service = _DEPLOY / "systemd" / "citadel-agent.service"
    assert socket["SocketUser"] == _section(service, "Service")["User"]
    assert "citadel-agent.socket" in _section(service, "Unit")["Wants"]
    assert _section(service, "Unit")["StartLimitIntervalSec"] == "0"
    assert (_section(service, "Service")["Restart"], _section(service, "Service")["RestartSec"]) == ("always", "100ms")
