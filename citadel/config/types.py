"""The value types that settings are made of, each parsed from the form people write."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from citadel.errors import InvalidArgument
from citadel.spiffe import TrustDomain

_UNITS: Final = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_DURATION: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|[smhd]))+")
_DURATION_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[smhd])")
# Beyond any certificate; and what is added to a date stays a date that X.509 can say (RFC 5280, 4.1.2.5: year 9999).
_LONGEST: Final = timedelta(days=36_525)
# A Unix socket's path has 107 bytes (unix(7)), and those of relays lie in a folder of data_dir.
_LONGEST_DATA_DIR: Final = 92


class Settings(BaseModel):
    """Base of every settings section: frozen, unknown keys refused, durations and addresses as types."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)

    # Whether a text may stand in the place of the keys; a validator of mode "before" says what it means, or refuses it.
    takes_text: ClassVar[bool] = False
    # Keys that people know from elsewhere and that are not here, each with what to do instead.
    not_here: ClassVar[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class HostPort:
    """A TCP address, written `host:port`, `[v6]:port`; port 0 asks the system for a free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises `ValueError` naming what is missing."""
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{text!r} is not an address; write it like 127.0.0.1:8443 or [::1]:8443")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it. A name is not: it may resolve to anything."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_duration(text: str) -> timedelta:
    """Parse `90s`, `1h30m`, `7d`, `250ms`.

    Raises `ValueError`; a bare number is refused, because its unit would be a guess.
    """
    if _DURATION.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a duration; write it like 30s, 1h30m or 7d")
    try:
        return sum((float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text)), timedelta())
    except OverflowError as error:
        raise ValueError(f"{text!r} is longer than any duration can be") from error


def format_duration(value: timedelta) -> str:
    """The shortest form that `parse_duration` takes back, in whole units: `1h30m`, `45s`, `250ms`."""
    milliseconds = round(value.total_seconds() * 1000)
    parts = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, milliseconds = divmod(milliseconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def _duration(value: object) -> timedelta:
    duration = value if isinstance(value, timedelta) else parse_duration(str(value))
    if not timedelta(0) <= duration <= _LONGEST:
        raise ValueError(f"must be between 0s and {_LONGEST.days}d")
    return duration


def _host_port(value: object) -> HostPort:
    return value if isinstance(value, HostPort) else HostPort.parse(str(value))


def _with_room_for_sockets(path: Path) -> Path:
    if (length := len(os.fsencode(path))) > _LONGEST_DATA_DIR:
        raise ValueError(f"a path of {length} bytes leaves no room for Unix sockets; at most {_LONGEST_DATA_DIR} do")
    return path


def _trust_domain(value: object) -> TrustDomain:
    if isinstance(value, TrustDomain):
        return value
    try:
        return TrustDomain.parse(str(value))
    except InvalidArgument as error:
        raise ValueError(str(error)) from error


Duration = Annotated[timedelta, BeforeValidator(_duration)]
AtLeastASecond = Annotated[Duration, Field(ge=timedelta(seconds=1))]
AtLeastADay = Annotated[Duration, Field(ge=timedelta(days=1))]
Address = Annotated[HostPort, BeforeValidator(_host_port)]
DataDir = Annotated[Path, AfterValidator(_with_room_for_sockets)]
TrustDomainName = Annotated[TrustDomain, BeforeValidator(_trust_domain)]


class ProbesSettings(Settings):
    """Where `/live`, `/ready` and `/metrics` are served; `probes_outside` lets that be an address that others reach."""

    probes_outside: bool = False
    probes: Address

    @field_validator("probes")
    @classmethod
    def _on_loopback(cls, address: HostPort, others: ValidationInfo) -> HostPort:
        if address.is_loopback or others.data.get("probes_outside"):
            return address
        raise ValueError(
            "not a loopback address; write 127.0.0.1:port or [::1]:port, or set probes_outside to let others reach it"
        )


class LogSettings(Settings):
    """Level and form of the log on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
