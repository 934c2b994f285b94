"""Addresses of Workload API endpoints: what is one and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from citadel.errors import InvalidArgument, Reason
from cli.workload.address import ADDRESS_VARIABLE, EndpointAddress
from cli.workload.commands import DEFAULT_SOCKET
from sds.settings import AgentSettings

ACCEPTED = {
    "unix:///run/x.sock": "unix:/run/x.sock",
    "unix:/run/x.sock": "unix:/run/x.sock",
    "unix:///run/a%20b.sock": "unix:/run/a%20b.sock",
    "tcp://127.0.0.1:8000": "ipv4:127.0.0.1:8000",
    "tcp://[::1]:8000": "ipv6:[::1]:8000",
}
REFUSED = {
    "": "scheme",
    "/run/x.sock": "scheme",
    "http://h": "scheme",
    "blah": "scheme",
    "npipe:x": "scheme",
    "UNIX:///run/x.sock": "scheme",
    "unix://host/x": "authority",
    "unix://": "absolute path",
    "unix:///": "absolute path",
    "unix:opaque": "absolute path",
    "unix:///x?q": "query or a fragment",
    "unix:///x?": "query or a fragment",
    "unix:///x#f": "query or a fragment",
    "unix:///x%00y": "NUL",
    "unix:///x\n": "character",
    "unix:///a b": "character",
    "tcp://localhost:8000": "IP address",
    "tcp://1.2.3.4": "port",
    "tcp://1.2.3.4:": "port",
    "tcp://1.2.3.4:0": "port",
    "tcp://1.2.3.4:65536": "port",
    "tcp://1.2.3.4:+80": "port",
    "tcp://1.2.3.4:5/p": "nothing else",
    "tcp://1.2.3.4:5/": "nothing else",
    "tcp://1.2.3.4:5?q": "query or a fragment",
    "tcp://1.2.3.4:5#f": "query or a fragment",
    "tcp://u@1.2.3.4:5": "IP address",
    "tcp://::1:5": "IP address",
    "tcp://[1.2.3.4]:5": "IP address",
    "tcp:1.2.3.4:5": "nothing else",
}


@pytest.mark.spec("WEP-14", "WEP-15", "WEP-16")
@pytest.mark.parametrize(("text", "target"), ACCEPTED.items())
def test_these_are_addresses(text: str, target: str) -> None:
    assert EndpointAddress.parse(text).target == target


@pytest.mark.spec("WEP-14", "WEP-15", "WEP-16")
@pytest.mark.parametrize(("text", "problem"), REFUSED.items())
def test_these_are_none(text: str, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem) as refused:
        EndpointAddress.parse(text)
    assert refused.value.reason is Reason.CONFIG_INVALID


@pytest.mark.spec("WEP-13")
@pytest.mark.parametrize(
    ("explicit", "said", "target"),
    [
        ("unix:///said", "unix:///in-the-environment", "unix:/said"),
        ("/a/path", "unix:///in-the-environment", "unix:/a/path"),
        ("/a/pa%th?", None, "unix:/a/pa%25th%3F"),
        (None, "unix:///in-the-environment", "unix:/in-the-environment"),
        (None, None, "unix:/default"),
    ],
)
def test_what_is_said_wins_over_the_environment_and_that_over_the_default(
    explicit: str | None, said: str | None, target: str
) -> None:
    environment = {ADDRESS_VARIABLE: said} if said is not None else {}
    assert EndpointAddress.find(explicit, environment, Path("/default")).target == target


def test_an_environment_that_says_nonsense_is_not_passed_over() -> None:
    with pytest.raises(InvalidArgument):
        EndpointAddress.find(None, {ADDRESS_VARIABLE: ""}, Path("/default"))


def test_the_default_is_the_agent_s_own() -> None:
    assert AgentSettings.model_fields["socket"].default == DEFAULT_SOCKET
