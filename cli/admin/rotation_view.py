"""How a rotation is shown: its lines while it runs, its summary, the plan, and the history."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from math import ceil
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from citadel._wire import rotation_pb2 as pb
from citadel.config.types import format_duration
from citadel.wire import from_duration, from_timestamp
from cli.admin.cluster_view import cluster_events, cluster_lines
from cli.admin.tables import (
    about,
    moment,
    moment_and_distance,
    moment_cell,
    print_fields,
    print_heading,
    print_table,
)
from cli.output import echo, printable

_MOST_HOLDERS: Final = 10  # in the live view; `rotate status` lists more
_NUMBERS: Final = re.compile(r"\d+")
WHAT_GOES: Final[Mapping[str, str]] = {"root": "the root", "jwt": "the keys for JWT-SVIDs"}


def status_lines(view: pb.RotationView, now: datetime) -> list[str]:
    """The live view, a line each: phase, counts, and who holds it up since when."""
    if not view.HasField("rotation"):
        return []
    lines = _state_lines(view, now)
    lines += [
        f"  waits for {each.name}, {_since(each.since, now)}: {each.words}{_until(each, now)}"
        for each in view.holders[:_MOST_HOLDERS]
    ]
    if view.holder_count > _MOST_HOLDERS:
        lines.append(f"  and for {view.holder_count - _MOST_HOLDERS} more: see `citadel-cli rotate status`")
    return [printable(line) for line in lines]


def _state_lines(view: pb.RotationView, now: datetime) -> list[str]:
    rotation = view.rotation
    acknowledged = f"{view.proxies_acknowledged} of {view.proxies}"
    lines = [
        f"rotation {rotation.id} of {_what(rotation)}: {_phase(rotation)} for {_since(rotation.phase_since, now)}",
        *(
            [f"  programs that were sent the new key         {acknowledged}"]
            if rotation.kind == "jwt"
            else [
                f"  proxies that have acknowledged the bundle   {acknowledged}",
                f"  SVIDs renewed                               {_renewed(view)}",
            ]
        ),
        f"  agents                                      {view.agents} connected, {view.agents_away} away",
    ]
    lines += cluster_lines(view.clusters, now)
    deadline = _time(rotation.deadline)
    if deadline is not None:
        what = "the old keys are dropped at" if rotation.kind == "jwt" else "the old root is dropped at "
        lines.append(f"  {what}                 {moment_and_distance(deadline, now)}")
    if rotation.skipped:
        lines.append(f"  goes on without                             {', '.join(rotation.skipped)}")
    if rotation.alarm:
        lines.append(f"  alarm: {rotation.alarm}")
    return lines


def events(view: pb.RotationView) -> Mapping[str, str]:
    """What is worth a line of its own where lines stay, each under a key by which it is known to be the same."""
    rotation = view.rotation
    found = {f"phase {_phase(rotation)}": _phase(rotation)} if view.HasField("rotation") else {}
    if rotation.alarm:
        found[f"alarm {rotation.alarm}"] = f"  alarm: {rotation.alarm}"
    found |= cluster_events(view.clusters)
    for each in view.holders[:_MOST_HOLDERS]:
        until = _time(each.until)
        at_most = f" (until {moment(until)} at most)" if until is not None else ""
        # Numbers that count down are not told one by one.
        found[f"{rotation.phase} {each.name} {_NUMBERS.sub('', each.words)}"] = (
            f"  waits for {each.name}: {each.words}{at_most}"
        )
    return {key: printable(line) for key, line in found.items()}


def waits_for(view: pb.RotationView, name: str) -> bool:
    """Whether somebody of this name, or of this agent, is waited for; in doubt, yes."""
    is_known = any(f"{each.name}/".startswith(f"{name}/") for each in view.holders)
    return is_known or view.holder_count > len(view.holders)


def print_summary(view: pb.RotationView) -> None:
    """What came of a rotation that has ended."""
    rotation = view.rotation
    took = from_timestamp(rotation.ended_at) - from_timestamp(rotation.started_at)
    ended = {"aborted": "aborted, everything is as it was", "superseded": "ended where it was, by an emergency"}.get(
        rotation.phase, "done"
    )
    print_fields(
        (
            ("rotation", rotation.id),
            ("of", _what(rotation)),
            ("ended", f"{ended}, after {took.total_seconds():.1f} s"),
            *(
                ()
                if rotation.kind == "jwt"
                else (
                    ("proxies", f"{view.proxies_acknowledged} of {view.proxies} have acknowledged the bundle"),
                    ("SVIDs", f"{view.svids_renewed} of {view.svids} renewed"),
                )
            ),
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
    for line in _state_lines(view, now):
        echo(printable(line))
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


def print_plan(plan: pb.RotationPlan, request: pb.StartRotationRequest, now: datetime) -> None:
    """What the rotation that is asked for would do."""
    is_jwt = request.kind == "jwt"
    print_fields(
        (
            ("steps", " → ".join(plan.steps)),
            ("agents", f"{plan.agents} connected, {plan.agents_away} away"),
            *((("streams of keys", plan.proxies),) if is_jwt else (("proxies", plan.proxies), ("SVIDs", plan.svids))),
            *(
                ((f"{'old keys are' if is_jwt else 'the old root is'} dropped", _when_dropped(request)),)
                if request.emergency
                else (("takes at least", _in_seconds(from_duration(plan.takes))),)
            ),
        )
    )
    print_heading("would be waited for" if not request.emergency else "would be waited for until then")
    print_holders(plan.holders, now)
    if is_jwt:
        return
    print_heading("have an identity and never asked for a bundle: nobody knows what they trust")
    print_table(("STREAM",), ((each,) for each in plan.without_bundle), none="none")


def emergency_cost(plan: pb.RotationPlan, request: pb.StartRotationRequest) -> list[str]:
    """What an emergency costs as things are now, a line each."""
    if request.kind == "jwt":
        return _emergency_cost_of_keys(plan, request)
    lines = [
        f"The root is tainted, and dropped {_when_dropped(request)}, whoever depends on it. As things are now:",
        f"  proxies     {plan.proxies} need the new root and {plan.svids} new SVIDs: whoever lacks one is cut off",
        f"  agents      {plan.agents} connected, renewed first and all at once",
        f"  away        {plan.agents_away} agents, cut off with their workloads until they are back",
    ]
    late = [holder.name for holder in plan.holders]
    if late:
        lines.append(f"  held up by  {len(late)}: {_some(late)}")
    if plan.without_bundle:
        lines.append(f"  unknown     {len(plan.without_bundle)} never asked for a bundle: {_some(plan.without_bundle)}")
    return [printable(line) for line in lines]


def _emergency_cost_of_keys(plan: pb.RotationPlan, request: pb.StartRotationRequest) -> list[str]:
    ends = [end for each in plan.holders if each.name.startswith("jwt/") and (end := _time(each.until)) is not None]
    late = [holder.name for holder in plan.holders if not holder.name.startswith("jwt/")]
    tokens = f"live until {moment(max(ends))} at most: refused from then on" if ends else "none lives"
    lines = [
        f"The keys for JWT-SVIDs are tainted, and dropped {_when_dropped(request)}, whatever tokens live. Now:",
        f"  tokens      {tokens}",
        f"  streams     {plan.proxies} of programs that check tokens: whoever lacks the new key refuses new ones",
        f"  agents      {plan.agents} connected",
        f"  away        {plan.agents_away} agents, whose workloads believe the old keys until they are back",
        "  others      with OIDC, whoever finds keys by discovery believes the old ones until oidc.max_age has passed",
    ]
    if late:
        lines.append(f"  held up by  {len(late)}: {_some(late)}")
    return [printable(line) for line in lines]


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


def _when_dropped(request: pb.StartRotationRequest) -> str:
    deadline = from_duration(request.deadline)
    return f"{format_duration(deadline)} after it begins" if deadline else "at once"


def _in_seconds(least: timedelta) -> str:
    """Rounded up, so that what is shown is not less than what it takes."""
    return format_duration(timedelta(seconds=ceil(least.total_seconds())))


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_HOLDERS
    return ", ".join(names[:_MOST_HOLDERS]) + (f" and {more} more" if more > 0 else "")


def _what(rotation: pb.Rotation) -> str:
    what = {"svid": f"SVIDs ({rotation.scope})", "jwt": "keys for JWT-SVIDs"}.get(rotation.kind, rotation.kind)
    return f"{what}, emergency" if rotation.emergency else what


def _end(rotation: pb.Rotation) -> str:
    if not rotation.HasField("ended_at"):
        return f"runs: {rotation.phase}"
    took = from_timestamp(rotation.ended_at) - from_timestamp(rotation.started_at)
    return f"{rotation.phase} after {took.total_seconds():.1f} s"


def _phase(rotation: pb.Rotation) -> str:
    return f"{rotation.phase}, paused" if rotation.paused else rotation.phase


def _renewed(view: pb.RotationView) -> str:
    # Agents say how many there are once they are told to renew them.
    return f"{view.svids_renewed} of {view.svids}" if view.svids else "not begun"


def _since(message: Timestamp, now: datetime) -> str:
    return about(max(now - from_timestamp(message), timedelta(0)))


def _until(holder: pb.Holder, now: datetime) -> str:
    until = _time(holder.until)
    return f" (at most for {about(until - now)} more)" if until is not None and until > now else ""


def _time(message: Timestamp) -> datetime | None:
    # A time that was not sent reads as 1970, which nothing here happened in.
    return from_timestamp(message) if message.ByteSize() else None
