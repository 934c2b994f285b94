"""A listener that a service manager holds for this process, by sd_listen_fds(3)."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from citadel.relay import Relay
from citadel.unix_listener import inherited_unix

# What a program sees that was started with these descriptors.
PROGRAM = """
import json, os, sys
from pathlib import Path
from citadel.errors import InvalidArgument
from citadel.unix_listener import inherited_unix
try:
    found = inherited_unix(Path(sys.argv[1]), os.environ)
except InvalidArgument as error:
    sys.exit(print(json.dumps([error.reason, error.message])))
print(json.dumps(None if found is None else [found.fileno(), found.getblocking(), os.get_inheritable(found.fileno())]))
"""


async def seen(path: Path, *sockets: socket.socket, environment: str = "LISTEN_PID=$$ LISTEN_FDS=2") -> Any:
    """What a program finds whose descriptors from 3 on are `sockets`."""
    aside = " ".join(f"{50 + index}<&{each.fileno()}" for index, each in enumerate(sockets))  # from each other's way
    placed = " ".join(f"{3 + index}<&{50 + index}" for index in range(len(sockets)))
    script = f'exec {aside}; exec {placed}; {environment} exec "$0" -c "$1" "$2"'
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", script, sys.executable, PROGRAM, path),
        stdout=asyncio.subprocess.PIPE,
        pass_fds=[each.fileno() for each in sockets],
    )
    output, _ = await process.communicate()
    return json.loads(output)


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[Mapping[str, socket.socket]]:
    """Two listeners by their names, and one on no path."""
    made = {"one": socket.socket(socket.AF_UNIX), "two": socket.socket(socket.AF_UNIX), "tcp": socket.socket()}
    for name in ("one", "two"):
        made[name].bind(str(tmp_path / name))
        made[name].listen()
    yield made
    for each in made.values():
        each.close()


async def test_it_is_found_by_its_path_whatever_its_place(tmp_path: Path, sockets: Mapping[str, socket.socket]) -> None:
    assert await seen(tmp_path / "one", sockets["one"], sockets["two"]) == [3, False, False]
    assert await seen(tmp_path / "two", sockets["one"], sockets["two"]) == [4, False, False]
    assert await seen(tmp_path / "two", sockets["tcp"], sockets["two"]) == [4, False, False]


@pytest.mark.parametrize(
    "environment", ["", "LISTEN_PID=1 LISTEN_FDS=2", "LISTEN_PID=$$", "LISTEN_PID=$$ LISTEN_FDS=0"]
)
async def test_what_is_for_somebody_else_is_left_alone(
    tmp_path: Path, sockets: Mapping[str, socket.socket], environment: str
) -> None:
    assert await seen(tmp_path / "one", sockets["one"], sockets["two"], environment=environment) is None


async def test_another_path_is_none(tmp_path: Path, sockets: Mapping[str, socket.socket]) -> None:
    assert await seen(tmp_path / "three", sockets["one"], sockets["two"]) is None
    assert inherited_unix(tmp_path / "one", {}) is None


async def test_a_path_is_the_same_however_it_is_written(tmp_path: Path, sockets: Mapping[str, socket.socket]) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with socket.socket(socket.AF_UNIX) as linked:
        linked.bind(str(tmp_path / "link" / "three"))
        linked.listen()
        assert await seen(tmp_path / "three", sockets["one"], linked) == [4, False, False]
    assert await seen(tmp_path / "link" / "two", sockets["one"], sockets["two"]) == [4, False, False]


@pytest.mark.parametrize("kind", ["abstract", "unnamed"])
async def test_what_lies_on_no_path_is_passed_over(
    tmp_path: Path, sockets: Mapping[str, socket.socket], kind: str
) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        if kind == "abstract":
            other.bind(f"\0{tmp_path / 'two'}")
        assert await seen(tmp_path / "two", other, sockets["two"]) == [4, False, False]
        assert await seen(Path.cwd(), other, sockets["two"]) is None


@pytest.mark.parametrize("problem", ["is not a stream", "does not listen", "has no file any more", "no file any more"])
async def test_what_nobody_could_be_served_on_is_refused(tmp_path: Path, problem: str) -> None:
    path = tmp_path / "three"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM if "stream" in problem else socket.SOCK_STREAM) as held:
        held.bind(str(path))
        if "file" in problem:
            held.listen()
            path.unlink()
        if problem == "no file any more":
            path.touch()  # another one's
        reason, message = await seen(path, held, environment="LISTEN_PID=$$ LISTEN_FDS=1")
    assert reason == "config_invalid"
    assert message.startswith(f"the socket {path} that the service manager holds ")
    assert problem in message


@pytest.mark.parametrize("count", ["x", "-1", "", "2.0", "\u0662", "1000000000000"])
async def test_a_count_that_cannot_be_is_refused(
    tmp_path: Path, sockets: Mapping[str, socket.socket], count: str
) -> None:
    environment = f"LISTEN_PID=$$ LISTEN_FDS={count}"
    reason, message = await seen(tmp_path / "three", sockets["one"], sockets["two"], environment=environment)
    assert reason == "config_invalid"
    assert "LISTEN_FDS" in message


async def test_a_relay_takes_who_waited_and_leaves_the_file(tmp_path: Path) -> None:
    path, inner = tmp_path / "public", []

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner.append(writer)
        writer.write(b"here\n")
        await writer.drain()

    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(path))
        held.listen()
        held.settimeout(0)
        reader, writer = await asyncio.open_unix_connection(path)  # while nobody accepts
        relay = Relay(path, mode=0o600, private_dir=tmp_path / "private", listener=held.dup(), max_connections=10)
        server = await asyncio.start_unix_server(greet, relay.private_address.removeprefix("unix:"))
        await relay.start()
        assert await asyncio.wait_for(reader.readline(), 10) == b"here\n"
        writer.close()
        await relay.close()
        server.close()
        assert path.exists()
        _, again = await asyncio.open_unix_connection(path)
        again.close()
    for each in inner:
        each.close()
