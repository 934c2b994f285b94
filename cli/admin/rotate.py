"""`citadel-cli rotate`: start rotations, watch them, and steer them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import grpc
from grpc import aio

from citadel._wire import rotation_pb2 as pb
from citadel._wire.rotation_pb2_grpc import RotationsStub
from citadel.errors import Kind
from citadel.spiffe import SpiffeId
from citadel.wire import to_duration
from cli.admin import rotation_view
from cli.admin.invocation import CALL_SECONDS, Invocation, admin_command
from cli.admin.parameters import DurationType, SpiffeIdType, TextType
from cli.admin.plain import to_plain
from cli.output import EXIT_CODES, EXIT_INTERRUPTED, Form, echo, print_json

if TYPE_CHECKING:
    from citadel._wire.rotation_pb2_grpc import RotationsAsyncStub  # exists for type checkers only

T = TypeVar("T")
_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])

_AWAY_SECONDS: Final = 60.0  # a server that restarts, or its standby, is back within this
_AGAIN_SECONDS: Final = 0.5
_EMERGENCY_DEADLINE: Final = timedelta(minutes=10)
_WHY: Final = click.option(
    # No default: it would be refused as an empty value.
    "--reason",
    type=TextType(),
    callback=lambda _context, _parameter, value: value or "",
    help="Why, for the audit log.",
)
_NAME: Final = click.argument("name", metavar="NODE|STREAM", type=TextType())


@click.group("rotate")
def rotate_group() -> None:
    """Rotate roots, issuing authorities and SVIDs, one rotation at a time.

    Every proxy acknowledges the new root before anything is signed under it, and the old one goes when nobody depends
    on it any more. A rotation goes on by itself in the server, whether or not it is watched.
    """


def _starting(command: _Decorated) -> _Decorated:
    options = (
        click.option("--window", type=DurationType(), help="Spread the renewal of SVIDs over this; else as is set."),
        click.option("--skip", multiple=True, metavar="NODE|STREAM", help="Go on without this one. May be repeated."),
        click.option("--plan", is_flag=True, help="Only say what would happen."),
        click.option("--detach", is_flag=True, help="Start it and do not watch."),
        _WHY,
    )
    for option in reversed(options):
        command = option(command)
    return command


@admin_command("root", group=rotate_group, example="citadel-cli rotate root --reason 'yearly'")
@_starting
@click.option(
    "--emergency",
    is_flag=False,
    flag_value=_EMERGENCY_DEADLINE,
    type=click.UNPROCESSED,
    metavar="[=now|DURATION]",
    help="The root is not to be trusted any more: it is dropped when this time is over (10m), whoever depends on it.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def root(invocation: Invocation, *, emergency: object, yes: bool, plan: bool, detach: bool, **wish: Any) -> None:
    """Take a new root with a new key: prepare, observe, activate, renew, drain, retire."""
    request = _request("root", **wish)
    if emergency is not None:
        deadline = timedelta(0) if emergency == "now" else DurationType().convert(emergency, None, None)
        request.emergency = True
        request.deadline.CopyFrom(to_duration(deadline))
        if not (yes or plan):
            _ask_first(invocation, request, deadline)
    _begin(invocation, request, plan=plan, detach=detach)


@admin_command("issuer", group=rotate_group, example="citadel-cli rotate issuer --plan")
@_starting
def issuer(invocation: Invocation, *, plan: bool, detach: bool, **wish: Any) -> None:
    """Take a new issuing authority under the same root, and renew every SVID from it."""
    _begin(invocation, _request("issuer", **wish), plan=plan, detach=detach)


@admin_command("svid", group=rotate_group, example="citadel-cli rotate svid --spiffe-id spiffe://example.org/reviews")
@_starting
@click.option("--all", "all_of_them", is_flag=True, help="Renew every SVID.")
@click.option("--spiffe-id", type=SpiffeIdType(), help="Renew the SVIDs of this identity.")
@click.option("--agent", metavar="NAME|ID", type=TextType(), help="Renew the SVIDs of this agent and its workloads.")
def svid(
    invocation: Invocation,
    *,
    all_of_them: bool,
    spiffe_id: SpiffeId | None,
    agent: str | None,
    plan: bool,
    detach: bool,
    **wish: Any,
) -> None:
    """Renew SVIDs before their time, with new keys."""
    if sum((all_of_them, spiffe_id is not None, agent is not None)) != 1:
        raise click.UsageError("give one of --all, --spiffe-id and --agent")
    request = _request("svid", **wish)
    request.spiffe_id, request.agent = str(spiffe_id or ""), agent or ""
    _begin(invocation, request, plan=plan, detach=detach)


@admin_command("status", group=rotate_group, example="citadel-cli rotate status")
def status(invocation: Invocation) -> None:
    """Show the rotation that runs, or the last one, and everybody whom it waits for."""
    view = _call(invocation, lambda server: server.GetRotation(pb.GetRotationRequest(), timeout=CALL_SECONDS))
    if invocation.form is Form.JSON:
        print_json(to_plain(view))
    else:
        rotation_view.print_status(view, invocation.clock.now())


@admin_command("watch", group=rotate_group, example="citadel-cli rotate watch")
def watch(invocation: Invocation) -> None:
    """Watch the rotation that runs until it ends. Ctrl-C ends the watching alone."""
    _follow(invocation)


@admin_command("history", group=rotate_group, example="citadel-cli rotate history --limit 5")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many, at most.")
def history(invocation: Invocation, limit: int) -> None:
    """List the last rotations, the newest first."""
    request = pb.ListRotationsRequest(limit=limit)
    answer = _call(invocation, lambda server: server.ListRotations(request, timeout=CALL_SECONDS))
    if invocation.form is Form.JSON:
        print_json({"rotations": [to_plain(each) for each in answer.rotations]})
    else:
        rotation_view.print_history(answer.rotations, invocation.clock.now())


@admin_command("pause", group=rotate_group, example="citadel-cli rotate pause --reason 'an incident'")
@_WHY
def pause(invocation: Invocation, reason: str) -> None:
    """Let the rotation stay in its phase until `resume`."""
    request = pb.PauseRotationRequest(why=reason)
    _steer(invocation, "paused in", lambda server: server.PauseRotation(request, timeout=CALL_SECONDS))


@admin_command("resume", group=rotate_group, example="citadel-cli rotate resume")
@_WHY
def resume(invocation: Invocation, reason: str) -> None:
    """Let a paused rotation go on."""
    request = pb.ResumeRotationRequest(why=reason)
    _steer(invocation, "goes on in", lambda server: server.ResumeRotation(request, timeout=CALL_SECONDS))


@admin_command("abort", group=rotate_group, example="citadel-cli rotate abort --reason 'the wrong day'")
@_WHY
def abort(invocation: Invocation, reason: str) -> None:
    """Undo a rotation that has not come to `activate`."""
    request = pb.AbortRotationRequest(why=reason)
    _steer(invocation, "is undone:", lambda server: server.AbortRotation(request, timeout=CALL_SECONDS))


@admin_command("skip", group=rotate_group, example="citadel-cli rotate skip node-7 --reason 'it burned'")
@_NAME
@_WHY
def skip(invocation: Invocation, name: str, reason: str) -> None:
    """Go on without a node or a stream: its workloads may lose their connections."""
    request = pb.SkipHolderRequest(name=name, why=reason)
    _steer(invocation, "goes on in", lambda server: server.SkipHolder(request, timeout=CALL_SECONDS))


def _request(kind: str, *, window: timedelta | None, skip: tuple[str, ...], reason: str) -> pb.StartRotationRequest:
    return pb.StartRotationRequest(
        kind=kind, window=to_duration(window) if window is not None else None, skip=skip, why=reason
    )


def _ask_first(invocation: Invocation, request: pb.StartRotationRequest, deadline: timedelta) -> None:
    plan = _call(invocation, lambda server: server.PlanRotation(request, timeout=CALL_SECONDS))
    when = f"{deadline.total_seconds():.0f} s from now" if deadline else "at once"
    click.confirm(
        f"Drop the root {when}, whoever depends on it? {plan.agents} agents and {plan.proxies} proxies are connected, "
        f"{plan.agents_away} agents are away. Whoever has not taken the new root by then is cut off.",
        abort=True,
        err=True,
    )


def _begin(invocation: Invocation, request: pb.StartRotationRequest, *, plan: bool, detach: bool) -> None:
    if plan:
        planned = _call(invocation, lambda server: server.PlanRotation(request, timeout=CALL_SECONDS))
        if invocation.form is Form.JSON:
            print_json(to_plain(planned))
        else:
            rotation_view.print_plan(planned, invocation.clock.now())
        return
    rotation = _call(invocation, lambda server: server.StartRotation(request, timeout=CALL_SECONDS))
    if not detach:
        _follow(invocation)
    elif invocation.form is Form.JSON:
        print_json(to_plain(rotation))
    else:
        echo(f"rotation {rotation.id} begins: see `citadel-cli rotate watch`")


def _follow(invocation: Invocation) -> None:
    try:
        view = invocation.ask_service(
            lambda channel: rotation_view.show_live(_views(channel), invocation.clock.now),
        )
    except KeyboardInterrupt:
        click.echo("\nthe rotation goes on; `citadel-cli rotate watch` shows it again", err=True)
        click.get_current_context().exit(EXIT_INTERRUPTED)
    if invocation.form is Form.JSON:
        print_json(to_plain(view or pb.RotationView()))
    elif view is None or not view.HasField("rotation"):
        echo("no rotation yet")
    else:
        rotation_view.print_summary(view)
    if view is not None and view.rotation.phase == "aborted":
        click.get_current_context().exit(EXIT_CODES[Kind.FAILED_PRECONDITION])


async def _views(channel: aio.Channel) -> AsyncIterator[pb.RotationView]:
    """Every view until the rotation has ended, also across a restart of the server, in which it goes on."""
    loop = asyncio.get_running_loop()
    heard = loop.time()
    while True:
        try:
            async for view in RotationsStub(channel).WatchRotation(pb.WatchRotationRequest(), wait_for_ready=False):
                heard = loop.time()
                yield view
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or loop.time() - heard > _AWAY_SECONDS:
                raise
            await asyncio.sleep(_AGAIN_SECONDS)
        else:
            return


def _steer(invocation: Invocation, what: str, change: Callable[[RotationsAsyncStub], Awaitable[pb.Rotation]]) -> None:
    rotation = _call(invocation, change)
    if invocation.form is Form.JSON:
        print_json(to_plain(rotation))
    else:
        echo(f"rotation {rotation.id} {what} {rotation.phase}")


def _call(invocation: Invocation, question: Callable[[RotationsAsyncStub], Awaitable[T]]) -> T:
    return invocation.ask_service(lambda channel: question(RotationsStub(channel)))
