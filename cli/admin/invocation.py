"""What every command of `citadel-cli` is given, how it asks the server, and how it is declared."""

from __future__ import annotations

import asyncio
import os
import socket as sockets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click
import grpc
from grpc import aio

from citadel._wire.admin_pb2_grpc import AdminStub
from citadel.clock import Clock
from citadel.errors import CitadelError, PermissionDenied, Reason, Unavailable
from citadel.rpc import from_rpc_error
from cli.output import CommandGroup, Form

if TYPE_CHECKING:
    from citadel._wire.admin_pb2_grpc import AdminAsyncStub  # exists for type checkers only

T = TypeVar("T")

DEFAULT_SOCKET: Final = Path("/run/citadel/admin.sock")
SOCKET_VARIABLE: Final = "CITADEL_ADMIN_SOCKET"
CALL_SECONDS: Final = 30.0
_NAME_THE_SOCKET: Final = (
    f"start `citadel server run`, or name its socket with --socket or {SOCKET_VARIABLE}; a server that runs may still "
    "wait, such as for its parent or for Vault: /ready and its log say for what"
)
_NAME_THE_RIGHT_SOCKET: Final = (
    f"name the admin socket of the server with --socket or {SOCKET_VARIABLE}; its citadel-cli is of the same version"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One call of the program: where the server listens, in which form to answer, what time it is."""

    socket: Path
    form: Form
    clock: Clock

    def ask(self, question: Callable[[AdminAsyncStub], Awaitable[T]]) -> T:
        """Put a question to the server. Raises the server's own refusal, or `Unavailable` that says what to do."""
        return self.ask_service(lambda channel: question(AdminStub(channel)))

    def ask_service(self, question: Callable[[aio.Channel], Awaitable[T]]) -> T:
        """As `ask`, of whichever service the question makes its stub for."""
        return asyncio.run(self._ask(question))

    async def _ask(self, question: Callable[[aio.Channel], Awaitable[T]]) -> T:
        options = (
            # The status of a large mesh is larger than gRPC's default limit, and this server is trusted.
            ("grpc.max_receive_message_length", -1),
            # Who watches finds a server that was restarted soon: gRPC itself would wait up to two minutes.
            ("grpc.max_reconnect_backoff_ms", 1000),
        )
        async with aio.insecure_channel(f"unix:{self.socket}", options=options) as channel:
            try:
                return await question(channel)
            except grpc.RpcError as error:
                refusal = from_rpc_error(error)
                if isinstance(error, aio.AioRpcError) and error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    refusal = _unreachable(
                        f"{self.socket} is not the admin socket of a server of this version", fix=_NAME_THE_RIGHT_SOCKET
                    )
                elif refusal.reason is Reason.SERVER_UNREACHABLE:
                    refusal = _why_unreachable(self.socket, refusal)
                raise refusal from error


class AdminGroup(CommandGroup):
    """The root of `citadel-cli`, whose form of output is an option."""

    def form_of(self, context: click.Context) -> Form:
        return context.obj.form if isinstance(context.obj, Invocation) else Form.TABLE


def admin_command(
    name: str, *, example: str, group: click.Group | None = None
) -> Callable[[Callable[..., None]], click.Command]:
    """Declare a command that is given the `Invocation` first; `example` is shown by its help."""
    command = group.command if group is not None else click.command

    def declare(function: Callable[..., None]) -> click.Command:
        given = click.option(
            "-o",
            "--output",
            type=click.Choice(list(Form), case_sensitive=False),
            is_eager=True,  # before the other options, whose errors are told in this form
            expose_value=False,
            callback=_set_form,
            help="As the option of the same name before the command.",
        )(click.pass_obj(function))
        return command(name, epilog=f"\b\nExample:\n  {example}")(given)

    return declare


def _set_form(context: click.Context, _: click.Parameter, form: Form | None) -> None:
    if form is not None:
        context.obj = context.find_root().obj = replace(context.obj, form=form)


def _why_unreachable(socket: Path, refusal: CitadelError) -> CitadelError:
    """Say what the operating system says, since gRPC's text does not tell a missing socket from a forbidden one."""
    try:
        with sockets.socket(sockets.AF_UNIX) as probe:
            probe.settimeout(1)
            probe.connect(str(socket))
    except FileNotFoundError:
        return _unreachable(f"the server is not running, or its admin socket is not at {socket}")
    except ConnectionRefusedError:
        return _unreachable(f"the server is not running: nothing answers at {socket}")
    except PermissionError:
        return PermissionDenied(
            Reason.CALLER_NOT_ALLOWED,
            f"uid {os.getuid()} may not open {socket}",
            fix="run this as root or as the server's own user",
        )
    except OSError as error:
        return _unreachable(f"{socket} cannot be used: {error}")
    return Unavailable(
        Reason.SERVER_UNREACHABLE,
        f"{socket} is open, but gave no answer: {refusal.message}",
        fix=f"the admin socket admits root and the server's own user, this is uid {os.getuid()}; see the server's log",
    )


def _unreachable(message: str, *, fix: str = _NAME_THE_SOCKET) -> Unavailable:
    return Unavailable(Reason.SERVER_UNREACHABLE, message, fix=fix)
