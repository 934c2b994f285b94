"""What a command says and how it ends: the forms of output, the exit codes, and the one place where errors become both.

| exit code | meaning                                                        |
|-----------|----------------------------------------------------------------|
| 0         | done                                                           |
| 1         | an error of none of the kinds below                            |
| 2         | wrong usage of the command line                                |
| 3         | an argument, a file or an answer breaks a rule                 |
| 4         | what was named does not exist                                  |
| 5         | it exists already                                              |
| 6         | not authenticated or not allowed                               |
| 7         | the server cannot be reached, or cannot do it now              |
| 8         | the state does not allow it; a log whose chain is broken       |
| 9         | a limit was reached                                            |
| 10        | a dry run that would change something (`entry apply`)          |
| 130       | interrupted                                                    |
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, NoReturn

import click
import grpc

from citadel.errors import CitadelError, InvalidArgument, Kind, Reason
from citadel.rpc import from_rpc_error

EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells report it
EXIT_CODES: Final[Mapping[Kind, int]] = {
    Kind.INTERNAL: 1,
    Kind.INVALID_ARGUMENT: 3,
    Kind.NOT_FOUND: 4,
    Kind.ALREADY_EXISTS: 5,
    Kind.PERMISSION_DENIED: 6,
    Kind.UNAUTHENTICATED: 6,
    Kind.UNAVAILABLE: 7,
    Kind.FAILED_PRECONDITION: 8,
    Kind.RESOURCE_EXHAUSTED: 9,
}


class Form(StrEnum):
    """Tables for people, JSON for programs."""

    TABLE = "table"
    JSON = "json"


class CommandGroup(click.Group):
    """A root command at which every error of Citadel becomes text (or JSON) on standard error and an exit code.

    `form_of` may be overridden where a command line has an option for the form.
    """

    def form_of(self, context: click.Context) -> Form:  # noqa: ARG002 - for subclasses
        """The form in which to tell errors."""
        return Form.TABLE

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CitadelError as error:
            _fail(ctx, error, self.form_of(ctx))
        except grpc.RpcError as error:
            _fail(ctx, from_rpc_error(error), self.form_of(ctx))
        except click.UsageError as error:
            if self.form_of(ctx) is not Form.JSON:
                raise  # click says it, with the usage line
            print_json_error("usage", "INVALID_ARGUMENT", error.format_message(), "", EXIT_USAGE)
            ctx.exit(EXIT_USAGE)
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)


def echo(text: str | bytes, *, nl: bool = True) -> None:
    """Write to standard output. Raises `CitadelError` where it cannot be written, such as to a full disk."""
    try:
        click.echo(text, nl=nl)
    except BrokenPipeError:
        raise  # the reader has seen enough: click ends the program without a word
    except OSError as error:
        with contextlib.suppress(OSError):
            sys.stdout.close()  # else the interpreter tries once more at its end, and complains
        raise CitadelError(Reason.INTERNAL, f"cannot write the output: {error.strerror or error}") from error


class FileRefused(InvalidArgument):
    """All that is wrong with a file of one's own, a line each."""


def printable(text: str) -> str:
    """The text, escaped where it could steer a terminal: some of what is shown comes from strangers."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def print_json(document: object) -> None:
    """One JSON document on standard output.

    In ASCII: texts of others stand in it as they are, and some letters turn round what a terminal shows after them.
    """
    echo(json.dumps(document, indent=2))


def print_error(error: CitadelError, form: Form) -> None:
    """Say on standard error what is wrong, its reason code, and what to do."""
    if form is Form.JSON:
        print_json_error(error.reason.value, error.kind.value, error.message, error.fix, EXIT_CODES[error.kind])
        return
    # Only what is wrong with a file of one's own is told in several lines; elsewhere a name could write one of its own.
    is_of_a_file = isinstance(error, FileRefused) or error.reason is Reason.CONFIG_INVALID
    lines = error.message.split("\n") if is_of_a_file else [error.message]
    message = "\n".join(map(printable, lines))
    click.echo(f"error: {message} ({error.reason.value})", err=True)
    if error.fix:
        click.echo(f"  try: {printable(error.fix)}", err=True)


def print_json_error(reason: str, kind: str, message: str, fix: str, exit_code: int) -> None:
    """The form of every error for programs."""
    fields = {"reason": reason, "kind": kind, "message": message, "fix": fix, "exit_code": exit_code}
    click.echo(json.dumps({"error": fields}), err=True)


def _fail(context: click.Context, error: CitadelError, form: Form) -> NoReturn:
    print_error(error, form)
    context.exit(EXIT_CODES[error.kind])
