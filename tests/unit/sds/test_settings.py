"""What the settings of the agent refuse, each with its line."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from pydantic import ValidationError

from citadel.config.loader import load
from citadel.config.types import HostPort
from citadel.errors import InvalidArgument
from citadel.relay import Relay
from citadel.spiffe import TrustDomain
from sds.settings import AgentSettings, JoinSettings

CERTIFICATE = {"certificate_file": "c", "key_file": "k"}


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


def test_a_data_dir_is_short_enough_for_the_sockets_in_it(tmp_path: Path) -> None:
    fits = tmp_path / "d" / ("x" * (92 - len(f"{tmp_path}/d/")))
    data_dir = AgentSettings(trust_domain=TrustDomain("a.test"), data_dir=fits).relay_dir
    relay = Relay(tmp_path / "s", mode=0o600, private_dir=data_dir, max_connections=1)
    with socket.socket(socket.AF_UNIX) as inner:
        inner.bind(relay.private_address.removeprefix("unix:"))
    with pytest.raises(ValidationError, match="a path of 93 bytes leaves no room for Unix sockets; at most 92 do"):
        AgentSettings(trust_domain=TrustDomain("a.test"), data_dir=fits.with_name(f"{fits.name}x"))


@pytest.mark.parametrize(
    ("join", "problem"),
    [
        ({"x509pop": {"certificate_file": "c"}}, "both certificate_file and key_file"),
        ({"x509pop": {"key_file": "k"}}, "both certificate_file and key_file"),
        ({"x509pop": CERTIFICATE, "servers": ["h:1"], "bundle_file": "b", "string_file": "s"}, "set one of"),
        ({"x509pop": CERTIFICATE, "bundle_file": "b"}, "x509pop needs servers"),
        ({"x509pop": CERTIFICATE, "servers": ["h:1"]}, "x509pop needs bundle_file"),
        ({"servers": ["h"]}, "is not an address"),
    ],
)
def test_ways_to_join_that_do_not_fit_together_are_refused(join: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        JoinSettings.model_validate(join)


def test_a_certificate_needs_no_join_string() -> None:
    settings = JoinSettings.model_validate({"x509pop": CERTIFICATE, "servers": ["h:1", "h:2"], "bundle_file": "b"})
    assert settings.servers == (HostPort("h", 1), HostPort("h", 2))


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ("{default: ROOTCA}", "three different names"),
        ("{default: x, root: y, all: y}", "three different names"),
        ("{default: ''}", "cannot be the name of a secret"),
        ("{root: '*'}", "cannot be the name of a secret"),
        ('{root: "a\\nb"}', "cannot be the name of a secret"),
        (f"{{all: {'x' * 2049}}}", "cannot be the name of a secret"),
        ("{default: spiffe://a.test/web}", "looks like a SPIFFE ID"),
        ("{root: SPIFFE://a.test}", "looks like a SPIFFE ID"),
    ],
)
def test_names_of_secrets_that_cannot_be_told_apart_are_refused(tmp_path: Path, names: str, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        load_agent(tmp_path, f"sds: {{names: {names}}}")


@pytest.mark.parametrize(
    "limit",
    [
        "max_connections: 0",
        "max_connections_per_uid: 0",
        "max_streams_per_connection: 0",
        "max_streams: 0",
        "max_streams_per_uid: 0",
        "max_names: 0",
        "max_request_bytes: 131071",
        "handshake_timeout: 99ms",
        "request_timeout: 99ms",
    ],
)
def test_a_limit_that_would_shut_everybody_out_is_refused(tmp_path: Path, limit: str) -> None:
    with pytest.raises(InvalidArgument, match=f"limits.{limit.partition(':')[0]}"):
        load_agent(tmp_path, f"limits: {{{limit}}}")
