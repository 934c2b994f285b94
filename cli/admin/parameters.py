"""Parameters of commands, parsed into the values of the shared language at the border.

What Citadel's own types refuse is raised as it is, so that the reason code is the same wherever a rule is applied.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from citadel.config.types import parse_duration
from citadel.selector import Selector
from citadel.spiffe import SpiffeId, TrustDomain


class TextType(click.ParamType[str]):
    """Text that is not empty: an empty value is a shell variable that was not set."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value:
            self.fail("the value is empty", param, ctx)
        return str(value)


class SocketType(click.ParamType[Path]):
    """The path of a socket. Whether it can be used is found out by connecting, which also says why not."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if not str(value):
            self.fail("the path is empty", param, ctx)
        return Path(value)


class DurationType(click.ParamType[timedelta]):
    """`90s`, `1h30m`, `7d`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class MomentType(click.ParamType[datetime]):
    """An RFC 3339 time with its offset: a time without one means something else on every machine."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        except ValueError:
            moment = None
        if moment is None or moment.utcoffset() is None:
            self.fail(f"{value!r} is not a time with an offset; write it like 2030-01-31T12:00:00Z", param, ctx)
        return moment.astimezone(UTC)


class SpiffeIdType(click.ParamType[SpiffeId]):
    """`spiffe://trust-domain/path`."""

    name = "spiffe_id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> SpiffeId:  # noqa: ARG002
        return value if isinstance(value, SpiffeId) else SpiffeId.parse(str(value))


class SelectorType(click.ParamType[Selector]):
    """`type:value`."""

    name = "selector"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Selector:  # noqa: ARG002
        return value if isinstance(value, Selector) else Selector.parse(str(value))


class TrustDomainType(click.ParamType[TrustDomain]):
    """`example.org`."""

    name = "trust_domain"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> TrustDomain:  # noqa: ARG002
        return value if isinstance(value, TrustDomain) else TrustDomain.parse(str(value))
