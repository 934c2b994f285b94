"""`citadel-cli rotate`: start rotations, watch them, and steer them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from citadel._wire import rotation_pb2 as pb
from citadel._wire.rotation_pb2_grpc import RotationsStub
from citadel.spiffe import SpiffeId
from citadel.wire import to_duration
from cli.admin import rotation_view
from cli.admin.invocation import CALL_SECONDS, Invocation, admin_command
from cli.admin.parameters import DurationType, SpiffeIdType, TextType
from cli.admin.plain import to_plain
from cli.admin.rotation_watch import follow
from cli.output import Form, echo, print_json, printable

if TYPE_CHECKING:
    from citadel._wire.rotation_pb2_grpc import RotationsAsyncStub  # exists for type checkers only

T = TypeVar("T")
_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])

_NOW: Final = "now"
_EMERGENCY_DEADLINE: Final = "30s"
_WHY: Final = click.option("--reason", type=TextType(), help="Why, for the audit log.")
_HOLDER: Final = "NODE|STREAM|NAME"
_NAME: Final = click.argument("name", metavar=_HOLDER, type=TextType())


class DeadlineType(DurationType):
    """A duration, or `now`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        return timedelta(0) if value == _NOW else super().convert(value, param, ctx)


@click.group("rotate")
def rotate_group() -> None:
    """Rotate roots, issuing authorities, SVIDs and the keys of JWT-SVIDs, one rotation at a time.

    Every proxy acknowledges the new root before anything is signed under it, and the old one goes when nobody depends
    on it any more. A rotation goes on by itself in the server, whether or not it is watched.
    """


_WINDOW: Final = click.option(
    "--window", type=DurationType(), help="Spread the renewal of SVIDs over this; else as is set."
)


def _starting(command: _Decorated) -> _Decorated:
    options = (
        click.option(
            "--skip",
            type=TextType(),
            multiple=True,
            metavar=_HOLDER,
            help="Go on without this one, as `rotate skip --help` says. May be repeated.",
        ),
        click.option("--plan", is_flag=True, help="Only say what would happen."),
        click.option("--detach", is_flag=True, help="Start it and do not watch."),
        _WHY,
    )
    for option in reversed(options):
        command = option(command)
    return command


def _urgent(what: str) -> Callable[[_Decorated], _Decorated]:
    def decorate(command: _Decorated) -> _Decorated:
        command = click.option("--yes", is_flag=True, help="Do not ask.")(command)
        return click.option(
            "--emergency",
            is_flag=False,
            flag_value=_EMERGENCY_DEADLINE,
            type=DeadlineType(),
            metavar="[=now|DURATION]",
            help=f"{what} after this time ({_EMERGENCY_DEADLINE} if none is given), whoever depends on it. Says what "
            "that costs, and asks.",
        )(command)

    return decorate


@admin_command("root", group=rotate_group, example="citadel-cli rotate root --reason 'yearly'")
@_WINDOW
@_starting
@_urgent("The root is not to be trusted any more: it is dropped")
def root(
    invocation: Invocation, *, emergency: timedelta | None, yes: bool, plan: bool, detach: bool, **wish: Any
) -> None:
    """Take a new root with a new key: prepare, observe, activate, renew, drain, retire."""
    _begin_urgent(invocation, _request("root", **wish), emergency, yes=yes, plan=plan, detach=detach)


@admin_command("jwt", group=rotate_group, example="citadel-cli rotate jwt --plan")
@_starting
@_urgent("The keys for JWT-SVIDs are not to be trusted any more: they are dropped")
def jwt(
    invocation: Invocation, *, emergency: timedelta | None, yes: bool, plan: bool, detach: bool, **wish: Any
) -> None:
    """Take a new key for JWT-SVIDs: prepare, observe, activate, drain until the last token has ended, retire."""
    request = _request("jwt", window=None, **wish)
    _begin_urgent(invocation, request, emergency, yes=yes, plan=plan, detach=detach)


@admin_command("issuer", group=rotate_group, example="citadel-cli rotate issuer --plan")
@_WINDOW
@_starting
def issuer(invocation: Invocation, *, plan: bool, detach: bool, **wish: Any) -> None:
    """Take a new issuing authority under the same root, and renew every SVID from it."""
    _begin(invocation, _request("issuer", **wish), plan=plan, detach=detach)


@admin_command("svid", group=rotate_group, example="citadel-cli rotate svid --spiffe-id spiffe://example.org/reviews")
@_WINDOW
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
    """Watch the rotation that runs until it ends, or show how the last one ended. Ctrl-C ends the watching alone."""
    follow(invocation)


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
def pause(invocation: Invocation, reason: str | None) -> None:
    """Let the rotation stay in its phase until `resume`."""
    request = pb.PauseRotationRequest(why=reason or "")
    _steer(invocation, "paused in", lambda server: server.PauseRotation(request, timeout=CALL_SECONDS))


@admin_command("resume", group=rotate_group, example="citadel-cli rotate resume")
@_WHY
def resume(invocation: Invocation, reason: str | None) -> None:
    """Let a paused rotation go on."""
    request = pb.ResumeRotationRequest(why=reason or "")
    _steer(invocation, "goes on in", lambda server: server.ResumeRotation(request, timeout=CALL_SECONDS))


@admin_command("abort", group=rotate_group, example="citadel-cli rotate abort --reason 'the wrong day'")
@_WHY
def abort(invocation: Invocation, reason: str | None) -> None:
    """Undo a rotation that has not come to `activate`."""
    request = pb.AbortRotationRequest(why=reason or "")
    _steer(invocation, "is undone:", lambda server: server.AbortRotation(request, timeout=CALL_SECONDS))


@admin_command("skip", group=rotate_group, example="citadel-cli rotate skip node-7 --reason 'it burned'")
@_NAME
@_WHY
def skip(invocation: Invocation, name: str, reason: str | None) -> None:
    """Go on without whom the rotation waits for: the workloads there may lose their connections.

    It is a node, a stream, a child cluster by the SPIFFE ID of its server, `parent` for the clusters above,
    `federation` for those who fetch the bundle, `kubernetes` for clients that Kubernetes brings and nothing is pushed
    to, `kubernetes/CLUSTER/bundles` for what a cluster holds, or `kubernetes/CLUSTER/bundles/NAMESPACE` for one of its
    ConfigMaps: each as `rotate status` names it.
    """
    view = _call(invocation, lambda server: server.GetRotation(pb.GetRotationRequest(), timeout=CALL_SECONDS))
    request = pb.SkipHolderRequest(name=name, why=reason or "")
    _steer(invocation, f"goes on without {name} in", lambda server: server.SkipHolder(request, timeout=CALL_SECONDS))
    if not rotation_view.waits_for(view, name):
        click.echo(f"warning: it did not wait for {printable(name)}: see `citadel-cli rotate status`", err=True)


def _request(
    kind: str, *, window: timedelta | None, skip: tuple[str, ...], reason: str | None
) -> pb.StartRotationRequest:
    return pb.StartRotationRequest(
        kind=kind, window=to_duration(window) if window is not None else None, skip=skip, why=reason or ""
    )


def _ask_first(invocation: Invocation, request: pb.StartRotationRequest) -> None:
    plan = _call(invocation, lambda server: server.PlanRotation(request, timeout=CALL_SECONDS))
    for line in rotation_view.emergency_cost(plan, request):
        click.echo(line, err=True)
    click.confirm(f"Rotate {rotation_view.WHAT_GOES[request.kind]} in an emergency?", abort=True, err=True)


def _begin_urgent(
    invocation: Invocation,
    request: pb.StartRotationRequest,
    emergency: timedelta | None,
    *,
    yes: bool,
    plan: bool,
    detach: bool,
) -> None:
    if emergency is not None:
        request.emergency = True
        request.deadline.CopyFrom(to_duration(emergency))
        if not (yes or plan):
            _ask_first(invocation, request)
    _begin(invocation, request, plan=plan, detach=detach)


def _begin(invocation: Invocation, request: pb.StartRotationRequest, *, plan: bool, detach: bool) -> None:
    if plan:
        planned = _call(invocation, lambda server: server.PlanRotation(request, timeout=CALL_SECONDS))
        if invocation.form is Form.JSON:
            print_json(to_plain(planned))
        else:
            rotation_view.print_plan(planned, request, invocation.clock.now())
        return
    rotation = _call(invocation, lambda server: server.StartRotation(request, timeout=CALL_SECONDS))
    if not detach:
        follow(invocation)
    elif invocation.form is Form.JSON:
        print_json(to_plain(rotation))
    else:
        echo(f"rotation {rotation.id} begins: see `citadel-cli rotate watch`")


def _steer(invocation: Invocation, what: str, change: Callable[[RotationsAsyncStub], Awaitable[pb.Rotation]]) -> None:
    rotation = _call(invocation, change)
    if invocation.form is Form.JSON:
        print_json(to_plain(rotation))
    else:
        echo(printable(f"rotation {rotation.id} {what} {rotation.phase}"))


def _call(invocation: Invocation, question: Callable[[RotationsAsyncStub], Awaitable[T]]) -> T:
    return invocation.ask_service(lambda channel: question(RotationsStub(channel)))
