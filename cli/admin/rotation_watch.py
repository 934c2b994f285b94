"""Watching a rotation: every view of it, in place on a terminal, until it has ended."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Final

import click
import grpc
from grpc import aio
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from citadel._wire import rotation_pb2 as pb
from citadel._wire.rotation_pb2_grpc import RotationsStub
from citadel.clock import Clock
from citadel.errors import Kind
from cli.admin import rotation_view
from cli.admin.invocation import Invocation
from cli.admin.plain import to_plain
from cli.output import EXIT_CODES, EXIT_INTERRUPTED, Form, echo, print_json

_AWAY_SECONDS: Final = 60.0  # a server that restarts, or its standby, is back within this
_AGAIN_SECONDS: Final = 0.5
# What a server says that is stopping, and what gRPC says of one that is gone.
_AWAY: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
_AWAY_WORDS: Final = "the server does not answer; the rotation goes on when it is back"


def follow(invocation: Invocation) -> None:
    """Watch the rotation that runs until it ends, then sum it up, or the last one where none runs."""
    try:
        view = invocation.ask_service(lambda channel: _show_live(_views(channel, invocation.clock), invocation.clock))
    except KeyboardInterrupt:
        click.echo("\nthe rotation goes on; `citadel-cli rotate watch` shows it again", err=True)
        click.get_current_context().exit(EXIT_INTERRUPTED)
    if invocation.form is Form.JSON:
        print_json(to_plain(view or pb.RotationView()))
    elif view is None or not view.HasField("rotation"):
        echo("no rotation yet")
    else:
        rotation_view.print_summary(view)
    if view is not None and view.rotation.phase in ("aborted", "superseded"):
        click.get_current_context().exit(EXIT_CODES[Kind.FAILED_PRECONDITION])


async def _views(channel: aio.Channel, clock: Clock) -> AsyncIterator[pb.RotationView | None]:
    """Every view until the rotation has ended; None where the server is away, in which time the rotation waits too."""
    heard = clock.monotonic()
    while True:
        try:
            async for view in RotationsStub(channel).WatchRotation(pb.WatchRotationRequest()):
                heard = clock.monotonic()
                yield view
        except grpc.RpcError as error:
            if error.code() not in _AWAY or clock.monotonic() - heard > _AWAY_SECONDS:
                raise
            yield None
            await asyncio.sleep(_AGAIN_SECONDS)
        else:
            return


async def _show_live(views: AsyncIterator[pb.RotationView | None], clock: Clock) -> pb.RotationView | None:
    """Show every view on standard error: in place on a terminal, else a line for whatever is new."""
    return await (_show_in_place(views, clock) if sys.stderr.isatty() else _show_in_lines(views))


async def _show_in_place(views: AsyncIterator[pb.RotationView | None], clock: Clock) -> pb.RotationView | None:
    last: pb.RotationView | None = None
    is_away = False

    def frame() -> Group:
        # Made anew at each refresh, so that the seconds go on while nothing else changes.
        lines = rotation_view.status_lines(last, clock.now()) if last is not None else ["asking the server"]
        if is_away:
            lines.append(_AWAY_WORDS)
        return Group(*(Text(line, overflow="ellipsis", no_wrap=True) for line in lines))

    with Live(get_renderable=frame, console=Console(stderr=True), refresh_per_second=4, transient=True):
        async for view in views:
            is_away = view is None
            last = view or last
    return last


async def _show_in_lines(views: AsyncIterator[pb.RotationView | None]) -> pb.RotationView | None:
    last, told = None, set[str]()
    async for view in views:
        events = rotation_view.events(view) if view is not None else {_AWAY_WORDS: _AWAY_WORDS}
        if view is not None:
            last = view
            told.discard(_AWAY_WORDS)
        for event, line in events.items():
            if event not in told:
                told.add(event)
                click.echo(line, err=True)
    return last
