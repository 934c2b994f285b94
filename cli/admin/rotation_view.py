"""How a rotation is shown: the live view, its summary, the plan, and the history."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime
from typing import Final

import click
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from citadel._wire import rotation_pb2 as pb
from citadel.config.types import format_duration
from citadel.wire import from_duration, from_timestamp
from cli.admin.tables import about, moment_and_distance, moment_cell, print_fields, print_heading, print_table
from cli.output import echo

_MOST_HOLDERS: Final = 10  # in the live view; `rotate status` lists more


def status_lines(view: pb.RotationView, now: datetime) -> list[str]:
    """The live view, a line each: phase, counts, and who holds it up since when."""
    rotation = view.rotation
    phase = f"{rotation.phase}, paused" if rotation.paused else rotation.phase
    lines = [
        f"rotation {rotation.id} of {_what(rotation)}: {phase} for {_since(rotation.phase_since, now)}",
        f"  proxies that have acknowledged the bundle   {view.proxies_acknowledged} of {view.proxies}",
        f"  SVIDs renewed                               {view.svids_renewed} of {view.svids}",
        f"  agents                                      {view.agents} connected, {view.agents_away} away",
    ]
    lines += [
        f"  waits for {each.name}, {_since(each.since, now)}: {each.words}{_until(each, now)}"
        for each in view.holders[:_MOST_HOLDERS]
    ]
    if view.holder_count > _MOST_HOLDERS:
        lines.append(f"  and for {view.holder_count - _MOST_HOLDERS} more: see `citadel-cli rotate status`")
    return [_safe(line) for line in lines]


async def show_live(views: AsyncIterator[pb.RotationView], now: Callable[[], datetime]) -> pb.RotationView | None:
    """Show every view on standard error: in place on a terminal, else a line for each phase and each one waited for."""
    if sys.stderr.isatty():
        return await _show_in_place(views, now)
    return await _show_in_lines(views, now)


async def _show_in_place(views: AsyncIterator[pb.RotationView], now: Callable[[], datetime]) -> pb.RotationView | None:
    last: list[pb.RotationView] = []

    def frame() -> Group:
        # Made anew at each refresh, so that the seconds go on while nothing else changes.
        lines = status_lines(last[-1], now()) if last else ["asking the server"]
        return Group(*(Text(line, overflow="ellipsis", no_wrap=True) for line in lines))

    with Live(get_renderable=frame, console=Console(stderr=True), refresh_per_second=4, transient=True):
        async for view in views:
            last[:] = [view]
    return last[-1] if last else None


async def _show_in_lines(views: AsyncIterator[pb.RotationView], now: Callable[[], datetime]) -> pb.RotationView | None:
    last, phase, named = None, "", set[str]()
    async for last in views:
        if last.rotation.phase != phase:
            phase, named = last.rotation.phase, set()
            click.echo(f"{phase}", err=True)
        for holder in last.holders[:_MOST_HOLDERS]:
            if (text := f"{holder.name}: {holder.words}") not in named:
                named.add(text)
                click.echo(_safe(f"  waits for {text}{_until(holder, now())}"), err=True)
    return last


def print_summary(view: pb.RotationView) -> None:
    """What came of a rotation that has ended."""
    rotation = view.rotation
    took = from_timestamp(rotation.ended_at) - from_timestamp(rotation.started_at)
    ended = "aborted, everything is as it was" if rotation.phase == "aborted" else "done"
    print_fields(
        (
            ("rotation", rotation.id),
            ("of", _what(rotation)),
            ("ended", f"{ended}, after {took.total_seconds():.1f} s"),
            ("proxies", f"{view.proxies_acknowledged} of {view.proxies} have acknowledged the bundle"),
            ("SVIDs", f"{view.svids_renewed} of {view.svids} renewed"),
            ("agents", f"{view.agents} connected, {view.agents_away} away"),
            *((("went on without", sorted(rotation.skipped)),) if rotation.skipped else ()),
            *((("alarm", rotation.alarm),) if rotation.alarm else ()),
        )
    )


def print_status(view: pb.RotationView, now: datetime) -> None:
    """The rotation that runs, or the last one, with everybody who is waited for."""
    if not view.HasField("rotation"):
        echo("no rotation yet")
        return
    if view.rotation.HasField("ended_at"):
        print_summary(view)
        return
    for line in status_lines(view, now)[:4]:
        echo(line)
    if view.rotation.alarm:
        echo(f"  alarm: {_safe(view.rotation.alarm)}")
    print_heading("waits for")
    print_holders(view.holders, now)
    if view.holder_count > len(view.holders):
        echo(f"and {view.holder_count - len(view.holders)} more")


def print_holders(holders: Sequence[pb.Holder], now: datetime) -> None:
    """Who is waited for, in whose words, since and until when."""
    print_table(
        ("NAME", "SINCE", "UNTIL", "WHY"),
        (
            (each.name, moment_cell(_time(each.since), now), moment_cell(_time(each.until), now), each.words)
            for each in holders
        ),
        none="nobody",
    )


def print_plan(plan: pb.RotationPlan, now: datetime) -> None:
    """What a rotation would do."""
    print_fields(
        (
            ("steps", " → ".join(plan.steps)),
            ("agents", f"{plan.agents} connected, {plan.agents_away} away"),
            ("proxies", plan.proxies),
            ("SVIDs", plan.svids),
            ("takes at least", format_duration(from_duration(plan.takes))),
        )
    )
    print_heading("would be waited for")
    print_holders(plan.holders, now)
    print_heading("have an identity and never asked for a bundle: nobody knows what they trust")
    print_table(("STREAM",), ((each,) for each in plan.without_bundle), none="none")


def print_history(rotations: Iterable[pb.Rotation], now: datetime) -> None:
    """The last rotations, the newest first."""
    print_table(
        ("ID", "OF", "BEGAN", "BY", "ENDED", "WHY", "ALARM"),
        (
            (
                each.id,
                _what(each),
                moment_and_distance(_time(each.started_at), now),
                each.started_by,
                _end(each),
                each.why,
                each.alarm,
            )
            for each in rotations
        ),
        none="no rotation yet",
    )


def _what(rotation: pb.Rotation) -> str:
    what = f"SVIDs ({rotation.scope})" if rotation.kind == "svid" else rotation.kind
    return f"{what}, emergency" if rotation.emergency else what


def _end(rotation: pb.Rotation) -> str:
    if not rotation.HasField("ended_at"):
        return f"runs: {rotation.phase}"
    took = from_timestamp(rotation.ended_at) - from_timestamp(rotation.started_at)
    return f"{rotation.phase} after {took.total_seconds():.1f} s"


def _since(message: Timestamp, now: datetime) -> str:
    return about(max(now - from_timestamp(message), now - now))


def _until(holder: pb.Holder, now: datetime) -> str:
    until = _time(holder.until)
    return f" (at most for {about(until - now)} more)" if until is not None and until > now else ""


def _time(message: Timestamp) -> datetime | None:
    # A time that was not sent reads as 1970, which nothing here happened in.
    return from_timestamp(message) if message.ByteSize() else None


def _safe(text: str) -> str:
    # Some of it comes from proxies: it must not steer the terminal of an administrator.
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
