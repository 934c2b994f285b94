"""When an entry ends, said as a time or as a span."""

from __future__ import annotations

from datetime import datetime, timedelta

import click

from cli.admin.invocation import Invocation


def end_of(invocation: Invocation, expires_at: datetime | None, expires_in: timedelta | None) -> datetime | None:
    """The moment that either of the two options means."""
    if expires_at is not None and expires_in is not None:
        raise click.UsageError("--expires-at and --expires-in say the same thing: use one of them")
    if expires_in is None:
        return expires_at
    try:
        return invocation.clock.now() + expires_in
    except OverflowError:
        raise click.UsageError("--expires-in is later than any date can be") from None
