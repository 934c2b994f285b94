"""Where the Workload API is: addresses as SPIFFE_Workload_Endpoint.md section 4 defines them (WEP-13 to WEP-16)."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote, unquote_to_bytes

from citadel.errors import InvalidArgument, Reason

ADDRESS_VARIABLE: Final = "SPIFFE_ENDPOINT_SOCKET"
_MAX_PORT: Final = 65535
_FORM: Final = "write it like unix:///run/citadel/agent.sock or tcp://127.0.0.1:8000"


@dataclass(frozen=True, slots=True)
class EndpointAddress:
    """A Workload API endpoint. `target` is what gRPC connects to."""

    text: str
    target: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `unix:///absolute/path` or `tcp://ip:port`. Raises `InvalidArgument` (`config_invalid`)."""
        if not text.isprintable() or " " in text:
            raise _bad(text, "has a character that no address has")
        if "?" in text or "#" in text:
            raise _bad(text, "has a query or a fragment")
        scheme, _, rest = text.partition(":")
        match scheme:
            case "unix":
                return cls(text, _unix_target(text, rest))
            case "tcp":
                return cls(text, _tcp_target(text, rest))
            case _:
                raise _bad(text, "has another scheme than unix or tcp")

    @classmethod
    def of_socket(cls, path: Path) -> Self:
        """The endpoint at an absolute path."""
        return cls.parse(f"unix://{quote(str(path))}")

    @classmethod
    def find(cls, explicit: str | None, environment: Mapping[str, str], default: Path) -> Self:
        """What was said explicitly, else what the environment says, else `default` (WEP-13).

        Explicitly, a path will do, as it does elsewhere on the command line.
        """
        if explicit is not None and "://" not in explicit and not explicit.startswith("unix:"):
            return cls.of_socket(Path(explicit).absolute())
        said = explicit if explicit is not None else environment.get(ADDRESS_VARIABLE)
        return cls.parse(said) if said is not None else cls.of_socket(default)

    def __str__(self) -> str:
        return self.text


def _unix_target(text: str, rest: str) -> str:
    authority, path = "", rest
    if rest.startswith("//"):
        authority, slash, path = rest[2:].partition("/")
        path = slash + path
    if authority:
        raise _bad(text, "has an authority: three slashes come before the path")
    if not path.startswith("/") or path == "/":
        raise _bad(text, "has no absolute path")
    decoded = unquote_to_bytes(path)
    if b"\0" in decoded:
        raise _bad(text, "has a NUL in its path")
    return f"unix:{quote(decoded)}"  # gRPC decodes it once more


def _tcp_target(text: str, rest: str) -> str:
    authority = rest.removeprefix("//")
    if authority == rest or "/" in authority:
        raise _bad(text, "is not an address and a port, and nothing else")
    host, _, port = authority.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) <= _MAX_PORT:
        raise _bad(text, "has no port")
    try:
        if host.startswith("[") and host.endswith("]"):
            ipaddress.IPv6Address(host[1:-1])
            return f"ipv6:{host}:{int(port)}"
        ipaddress.IPv4Address(host)
    except ValueError as error:
        raise _bad(text, "names its host by something else than an IP address") from error
    return f"ipv4:{host}:{int(port)}"


def _bad(text: str, problem: str) -> InvalidArgument:
    return InvalidArgument(Reason.CONFIG_INVALID, f"the Workload API address {text[:300]!r} {problem}", fix=_FORM)
