"""Exit codes, errors in both forms, and help."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from grpc import aio

from citadel import errors
from citadel.errors import CitadelError, Kind, Reason
from cli.citadel_cli import citadel_cli
from cli.output import EXIT_CODES, CommandGroup, FileRefused
from tests.unit.cli.fake_admin import FakeAdmin, Program

REFUSALS = [
    (errors.InvalidArgument(Reason.ENTRY_MALFORMED, "m"), 3),
    (errors.NotFound(Reason.ENTRY_NOT_FOUND, "m"), 4),
    (errors.AlreadyExists(Reason.ENTRY_DUPLICATE, "m"), 5),
    (errors.PermissionDenied(Reason.CALLER_NOT_ALLOWED, "m"), 6),
    (errors.Unauthenticated(Reason.CALLER_UNKNOWN, "m"), 6),
    (errors.Unavailable(Reason.STORE_UNAVAILABLE, "m"), 7),
    (errors.FailedPrecondition(Reason.AGENT_BANNED, "m"), 8),
    (errors.ResourceExhausted(Reason.BATCH_TOO_LARGE, "m"), 9),
    (CitadelError(Reason.INTERNAL, "m"), 1),
]


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", list(commands(citadel_cli)), ids=" ".join)
def test_every_command_shows_an_example_of_itself(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(citadel_cli, [*path, "--help"])
    assert result.exit_code == 0
    example = result.output.partition("Example:\n")[2].strip()
    assert "citadel-cli" in example
    assert " ".join(path) in example
    assert "\n" not in example


def test_every_kind_of_error_has_an_exit_code() -> None:
    assert EXIT_CODES.keys() == set(Kind)
    assert 0 not in EXIT_CODES.values()
    assert 2 not in EXIT_CODES.values()


@pytest.mark.parametrize(("refusal", "exit_code"), REFUSALS, ids=[error.kind for error, _ in REFUSALS])
async def test_a_refusal_of_the_server_in_both_forms(
    admin: FakeAdmin, program: Program, refusal: CitadelError, exit_code: int
) -> None:
    admin.refusal = refusal
    text = await program("status")
    assert (text.exit_code, text.stdout) == (exit_code, "")
    assert text.stderr == f"error: m ({refusal.reason})\n"
    told = await program("-o", "json", "status")
    assert (told.exit_code, told.stdout) == (exit_code, "")
    assert json.loads(told.stderr)["error"] == {
        "reason": refusal.reason,
        "kind": refusal.kind,
        "message": "m",
        "fix": "",
        "exit_code": exit_code,
    }


STRANGE = "a\x1b]0;pwned\x07\r\x1b[2K"


async def test_a_name_of_a_stranger_in_an_error_steers_no_terminal_and_writes_no_line(
    admin: FakeAdmin, program: Program
) -> None:
    message = f"two roots have the name CN={STRANGE}\nexchanged: 1 X.509 authorities"
    admin.refusal = errors.InvalidArgument(Reason.BUNDLE_MALFORMED, message, fix=f"ask {STRANGE}")
    result = await program("status")
    first, fix = result.stderr.splitlines()
    assert first.endswith(r"CN=a\x1b]0;pwned\x07\r\x1b[2K\nexchanged: 1 X.509 authorities (bundle_malformed)")
    assert fix == r"  try: ask a\x1b]0;pwned\x07\r\x1b[2K"
    assert result.stderr.replace("\n", "").isprintable()
    told = await program("-o", "json", "status")
    assert json.loads(told.stderr)["error"]["message"] == message


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidArgument(Reason.CONFIG_INVALID, f"a.yaml:1: {STRANGE}\na.yaml:2: no"),
        FileRefused(Reason.ENTRY_RESERVED_ID, f"a.yaml:1: {STRANGE}\na.yaml:2: no"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_line_by_line(error: CitadelError) -> None:
    told = _told_by_a_command(error).splitlines()
    assert told == [r"error: a.yaml:1: a\x1b]0;pwned\x07\r\x1b[2K", f"a.yaml:2: no ({error.reason})"]


async def test_an_unexpected_error_of_the_server_shows_nothing_of_itself(admin: FakeAdmin, program: Program) -> None:
    admin.refusal = RuntimeError("s3cret")
    result = await program("status")
    assert result.exit_code == 1
    assert result.stderr.endswith("error: internal error (internal)\n  try: see the log of this process\n")


def test_a_refusal_in_the_command_itself_is_told_with_its_remedy() -> None:
    told = _told_by_a_command(errors.InvalidArgument(Reason.CONFIG_INVALID, "wrong", fix="do right"))
    assert told == "error: wrong (config_invalid)\n  try: do right\n"


def _told_by_a_command(error: CitadelError) -> str:
    @click.group(cls=CommandGroup)
    def root() -> None: ...

    @root.command()
    def act() -> None:
        raise error

    result = CliRunner().invoke(root, ["act"])
    assert result.exit_code == 3
    return result.stderr


async def test_a_missing_socket_says_how_to_name_it(program: Program) -> None:
    result = await program("status")
    assert (result.exit_code, result.stdout) == (7, "")
    assert f"the server is not running, or its admin socket is not at {program.socket}" in result.stderr
    assert "--socket or CITADEL_ADMIN_SOCKET" in result.stderr


async def test_a_socket_that_nobody_answers(program: Program) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(program.socket))
    result = await program("-o", "json", "status")
    assert result.exit_code == 7
    assert "nothing answers at" in json.loads(result.stderr)["error"]["message"]


async def test_a_server_that_hangs_up_is_told_from_one_that_is_away(program: Program) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_unix_server(hang_up, program.socket):
        result = await program("status")
    assert result.exit_code == 7
    assert "is open, but gave no answer" in result.stderr
    assert f"this is uid {os.getuid()}" in result.stderr


@pytest.mark.usefixtures("admin")
async def test_another_user_is_refused_as_such(program: Program) -> None:
    program.socket.chmod(0)
    # Root may open anything: as root, the program becomes nobody first.
    as_nobody = "import os, cli.citadel_cli as c; os.geteuid() or os.setuid(65534); c.main()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", as_nobody, "--socket", str(program.socket), "status"), stdout=-1, stderr=-1
    )
    out, err = await process.communicate()
    assert (process.returncode, out) == (6, b"")
    assert b"(caller_not_allowed)\n  try: run this as root or as the server's own user" in err


async def test_a_socket_of_another_service_says_so(program: Program) -> None:
    server = aio.server()
    server.add_insecure_port(f"unix:{program.socket}")
    await server.start()
    try:
        result = await program("status")
    finally:
        await server.stop(grace=None)
    assert result.exit_code == 7
    assert f"error: {program.socket} is not the admin socket of a server of this version" in result.stderr
    assert "  try: name the admin socket of the server with --socket" in result.stderr


async def test_an_empty_path_of_the_socket_is_wrong_usage(program: Program) -> None:
    result = await program("--socket", "", "status", env={})
    assert result.exit_code == 2
    assert "'--socket'" in result.stderr
    assert "the path is empty" in result.stderr


@pytest.mark.usefixtures("admin")
@pytest.mark.parametrize("arguments", [("entry", "list"), ("status",), ("bundle", "show"), ("-o", "json", "status")])
async def test_output_that_cannot_be_written_is_an_error(program: Program, arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli.citadel_cli", "--socket", str(program.socket), *arguments),
            stdout=full,
            stderr=-1,
        )
        _, err = await process.communicate()
    assert process.returncode == 1
    assert b"cannot write the output: No space left on device" in err
    assert err.count(b"\n") == 1


@pytest.mark.usefixtures("admin")
async def test_a_reader_that_has_seen_enough_is_no_error(program: Program) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.citadel_cli", "--socket", str(program.socket), "status"),
        stdout=writing,
        stderr=-1,
    )
    os.close(writing)
    _, err = await process.communicate()
    assert (process.returncode, err) == (1, b"")


async def test_the_socket_is_taken_from_the_environment(admin: FakeAdmin, program: Program) -> None:
    admin.status.trust_domain = "from.env"
    result = await program("-o", "json", "status", env={"CITADEL_ADMIN_SOCKET": str(program.socket)})
    assert json.loads(result.stdout)["trust_domain"] == "from.env"


@pytest.mark.parametrize("arguments", [("entry", "show", "-o", "json"), ("-o", "json", "entry", "show")])
async def test_wrong_usage_is_json_where_json_was_asked_for(program: Program, arguments: tuple[str, ...]) -> None:
    result = await program(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert json.loads(result.stderr)["error"] == {
        "reason": "usage",
        "kind": "INVALID_ARGUMENT",
        "message": "Missing argument 'ID'.",
        "fix": "",
        "exit_code": 2,
    }


async def test_ctrl_c_ends_the_program_cleanly(tmp_path: Path) -> None:
    path = tmp_path / "silent.sock"
    asked = asyncio.Event()

    async def keep_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        asked.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(keep_silent, path):
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli.citadel_cli", "--socket", str(path), "status"), stdout=-1, stderr=-1
        )
        await asked.wait()
        program.send_signal(signal.SIGINT)
        out, err = await program.communicate()
    assert (program.returncode, out) == (130, b"")
    assert b"Traceback" not in err
