from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import pytest
import structlog
from grpc import aio

from citadel import peer
from citadel.errors import CitadelError, FailedPrecondition, InvalidArgument, PermissionDenied, Reason
from citadel.peer import ROOT, Caller, Party, PeerCredentials
from citadel.relay import Relay
from citadel.rpc import ErrorBorder, from_rpc_error

ECHO = "/test/Echo"
MEGABYTE = 1024 * 1024


class EchoServer(grpc.GenericRpcHandler):
    """Answers every message with the caller's pid before it, and keeps what it learnt of its callers."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.peers: list[str] = []
        self.callers: list[Caller] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:  # noqa: ARG002 - grpc's signature
        async def echo(request: bytes, context: aio.ServicerContext) -> bytes:
            self.peers.append(context.peer())
            self.callers.append(self.relay.caller_of(context.peer()))
            return f"{self.callers[-1].credentials.pid} ".encode() + request

        return grpc.unary_unary_rpc_method_handler(echo)


def private_dir(path: Path) -> Path:
    return path.parent.with_name("private")


@contextlib.asynccontextmanager
async def serving(path: Path, **options: object) -> AsyncIterator[EchoServer]:
    relay = Relay(path, **({"mode": 0o666, "max_connections": 100, "private_dir": private_dir(path)} | options))
    server = aio.server(interceptors=[ErrorBorder()], options=[("grpc.max_receive_message_length", 64 * MEGABYTE)])
    echo = EchoServer(relay)
    server.add_generic_rpc_handlers((echo,))
    server.add_insecure_port(relay.private_address)
    await server.start()
    try:
        await relay.start()
        yield echo
    finally:
        await server.stop(0)
        await relay.close()


async def call(address: str, message: bytes = b"hi") -> bytes:
    options = [("grpc.max_receive_message_length", 64 * MEGABYTE), ("grpc.use_local_subchannel_pool", 1)]
    async with aio.insecure_channel(address, options=options) as channel:
        return await channel.unary_unary(ECHO)(message, timeout=10)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def open_descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not used


def raw_client(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(5)
    client.connect(str(path))
    return client


@contextlib.contextmanager
def another_user() -> Iterator[None]:
    """Act as a user who is not root; an ordinary user is one already."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(12345)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "public.sock"


async def test_a_handler_learns_who_calls(path: Path) -> None:
    async with serving(path) as echo:
        assert await call(f"unix:{path}") == f"{os.getpid()} hi".encode()
        assert echo.callers[0].credentials == PeerCredentials(os.getpid(), os.geteuid(), os.getegid())


async def test_two_connections_of_one_process_are_two_callers(path: Path) -> None:
    async with serving(path) as echo:
        await call(f"unix:{path}")
        await call(f"unix:{path}")
        assert echo.peers[0] != echo.peers[1]
        assert echo.callers[0] is not echo.callers[1]


async def test_large_messages_come_through_whole(path: Path) -> None:
    message = os.urandom(MEGABYTE) * 20
    async with serving(path):
        assert (await call(f"unix:{path}", message)).partition(b" ")[2] == message


async def test_a_client_that_stops_reading_is_waited_for_and_not_buffered(path: Path) -> None:
    relay, inner = await relay_to_a_raw_server(path)
    try:
        client = raw_client(path)
        end = (await asyncio.to_thread(inner.accept))[0]
        end.settimeout(0.5)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 64 * MEGABYTE:
                sent += await asyncio.to_thread(end.send, bytes(64 * 1024))
        assert sent < 4 * MEGABYTE
        got = 0
        while got < sent:
            got += len(await asyncio.to_thread(client.recv, MEGABYTE))
        assert got == sent
        client.close()
        end.close()
    finally:
        await relay.close()
        inner.close()


async def test_a_client_that_has_said_all_still_gets_its_answer(path: Path) -> None:
    relay, inner = await relay_to_a_raw_server(path)
    try:
        client = raw_client(path)
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        end = (await asyncio.to_thread(inner.accept))[0]
        end.settimeout(5)
        heard = [await asyncio.to_thread(end.recv, 100) for _ in range(2)]
        assert heard == [b"question", b""]
        end.sendall(b"answer")
        end.close()
        said = [await asyncio.to_thread(client.recv, 100) for _ in range(2)]
        assert said == [b"answer", b""]
        await eventually(lambda: not relay._splices)
        client.close()
    finally:
        await relay.close()
        inner.close()


@pytest.mark.parametrize("hangs_up", [False, True])
async def test_a_server_that_speaks_first_is_heard(path: Path, *, hangs_up: bool) -> None:
    relay, inner = await relay_to_a_raw_server(path)
    client = raw_client(path)
    end = (await asyncio.to_thread(inner.accept))[0]
    end.sendall(b"greeting")
    if hangs_up:
        end.shutdown(socket.SHUT_WR)
    assert await asyncio.to_thread(client.recv, 100) == b"greeting"
    if hangs_up:
        assert await asyncio.to_thread(client.recv, 100) == b""
    client.sendall(b"answer")
    assert await asyncio.to_thread(end.recv, 100) == b"answer"
    for each in (client, end):
        each.close()
    await relay.close()
    inner.close()


@pytest.mark.parametrize("first", ["the client", "the server"])
async def test_what_was_said_before_an_end_closed_still_arrives(path: Path, first: str) -> None:
    """More than fits into the sockets' buffers, to somebody who reads late."""
    relay, inner = await relay_to_a_raw_server(path)
    client = raw_client(path)
    server = (await asyncio.to_thread(inner.accept))[0]
    server.settimeout(5)
    message = os.urandom(4 * MEGABYTE)
    speaker, listener = (client, server) if first == "the client" else (server, client)

    def say_all() -> None:
        speaker.sendall(message)
        speaker.close()

    saying = asyncio.create_task(asyncio.to_thread(say_all))
    await asyncio.sleep(0.05)
    got = bytearray()
    while data := await asyncio.to_thread(listener.recv, MEGABYTE):
        got += data
    await saying
    assert bytes(got) == message
    listener.close()
    await eventually(lambda: not relay._splices)
    await relay.close()
    inner.close()


async def test_an_end_that_takes_no_more_ends_the_connection_once_its_own_words_are_carried(path: Path) -> None:
    relay, inner = await relay_to_a_raw_server(path)
    client = raw_client(path)
    server = (await asyncio.to_thread(inner.accept))[0]
    server.sendall(b"last words")
    server.close()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(10):
            client.sendall(b"unheard")
    assert await asyncio.to_thread(client.recv, 100) == b"last words"
    client.close()
    await eventually(lambda: not relay._splices)
    await relay.close()
    inner.close()


async def relay_to_a_raw_server(path: Path) -> tuple[Relay, socket.socket]:
    relay = Relay(path, mode=0o600, private_dir=private_dir(path), max_connections=10)
    inner = socket.socket(socket.AF_UNIX)
    inner.bind(relay.private_address.removeprefix("unix:"))
    inner.listen()
    inner.settimeout(5)
    await relay.start()
    return relay, inner


async def test_who_comes_past_the_relay_is_refused(path: Path) -> None:
    async with serving(path) as echo:
        with pytest.raises(aio.AioRpcError) as refused:
            await call(echo.relay.private_address)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert from_rpc_error(refused.value).reason is Reason.CALLER_UNKNOWN


async def test_a_bound_name_that_was_never_given_out_is_refused_on_the_private_socket(path: Path) -> None:
    """A stranger inside the 0700 folder, who binds a name of the right form before connecting."""
    async with serving(path) as echo:
        front = Relay(path.with_name("other.sock"), mode=0o600, private_dir=private_dir(path), max_connections=1)
        front._private_path = echo.relay.private_address.removeprefix("unix:")
        await front.start()
        with pytest.raises(aio.AioRpcError) as refused:
            await call(f"unix:{path.with_name('other.sock')}")
        assert echo.peers[0].startswith("unix-abstract:citadel-")
        assert from_rpc_error(refused.value).reason is Reason.CALLER_UNKNOWN
        await front.close()


@pytest.mark.parametrize("shown", ["", "unix:", "ipv4:127.0.0.1:1", "citadel-x", "unix-abstract:citadel-y"])
async def test_other_kinds_of_peer_are_refused(path: Path, shown: str) -> None:
    async with serving(path) as echo:
        echo.relay._callers["citadel-x"] = Caller(PeerCredentials(1, 2, 3), -1)
        with pytest.raises(PermissionDenied):
            echo.relay.caller_of(shown)
        echo.relay._callers.clear()


async def test_a_name_read_from_proc_is_of_no_use_to_others(path: Path) -> None:
    async with serving(path) as echo:
        async with aio.insecure_channel(f"unix:{path}") as channel:
            await channel.unary_unary(ECHO)(b"hi")
            name = echo.peers[0].removeprefix("unix-abstract:")
            assert f"@{name}" in Path("/proc/net/unix").read_text()
            thief = socket.socket(socket.AF_UNIX)
            with pytest.raises(OSError, match="in use"):
                thief.bind(f"\0{name}")
        await eventually(lambda: f"@{name}" not in Path("/proc/net/unix").read_text())
        thief.bind(f"\0{name}")  # free again, and forgotten by then
        thief.close()
        with pytest.raises(PermissionDenied) as refused:
            echo.relay.caller_of(echo.peers[0])
        assert refused.value.reason is Reason.CALLER_UNKNOWN


async def test_the_private_socket_is_out_of_reach_of_other_users(path: Path) -> None:
    async with serving(path) as echo:
        folder = Path(echo.relay.private_address.removeprefix("unix:")).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(folder.iterdir()) == []


def test_a_private_folder_that_others_can_enter_is_refused(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    with pytest.raises(InvalidArgument) as refused:
        Relay(path, mode=0o666, private_dir=folder, max_connections=1)
    assert refused.value.reason is Reason.FILE_UNSAFE


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
async def test_the_public_socket_has_the_mode_that_was_asked_for(path: Path, mode: int) -> None:
    async with serving(path, mode=mode):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert not path.exists()


async def test_a_stale_socket_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(path):
        assert await call(f"unix:{path}")


async def test_a_socket_that_answers_is_left_alone(path: Path) -> None:
    async with serving(path):
        second = Relay(path, mode=0o666, private_dir=private_dir(path), max_connections=1)
        with pytest.raises(FailedPrecondition, match="another process answers"):
            await second.start()
        await second.close()
        assert await call(f"unix:{path}")


async def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    relay = Relay(path, mode=0o666, private_dir=private_dir(path), max_connections=1)
    with pytest.raises(FailedPrecondition, match="not a socket"):
        await relay.start()
    await relay.close()
    assert path.read_text() == "precious"


async def test_a_path_that_cannot_be_listened_on_is_named(tmp_path: Path) -> None:
    relay = Relay(tmp_path / ("x" * 120), mode=0o666, private_dir=tmp_path / "private", max_connections=1)
    with pytest.raises(InvalidArgument, match="x" * 120):
        await relay.start()
    await relay.close()


async def test_a_successors_socket_is_not_removed(path: Path) -> None:
    async with serving(path):
        path.unlink()
        successor = socket.socket(socket.AF_UNIX)
        successor.bind(str(path))
    assert path.exists()
    successor.close()


async def test_a_caller_who_is_not_admitted_is_cut_off(path: Path) -> None:
    asked: list[PeerCredentials] = []

    def nobody(credentials: PeerCredentials) -> bool:
        asked.append(credentials)
        return False

    async with serving(path, admits=nobody):
        client = raw_client(path)
        assert await asyncio.to_thread(client.recv, 1) == b""
        client.close()
    assert asked == [PeerCredentials(os.getpid(), os.geteuid(), os.getegid())]


async def test_a_rule_that_fails_does_not_end_the_listening(path: Path) -> None:
    answers = iter([RuntimeError("a bug"), True])

    def rule(_: PeerCredentials) -> bool:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with serving(path, admits=rule):
        client = raw_client(path)
        assert await asyncio.to_thread(client.recv, 1) == b""
        client.close()
        assert await call(f"unix:{path}")


async def test_more_connections_than_allowed_are_turned_away_until_one_leaves(path: Path) -> None:
    async with serving(path, max_connections=2) as echo:
        first, second = raw_client(path), raw_client(path)
        await eventually(lambda: len(echo.relay._splices) == 2)
        third = raw_client(path)
        assert await asyncio.to_thread(third.recv, 1) == b""
        first.close()
        await eventually(lambda: len(echo.relay._splices) == 1)
        assert await call(f"unix:{path}")
        second.close()
        third.close()


async def test_one_user_cannot_take_all_connections(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(path, max_connections_per_uid=2) as echo:
        path.parent.chmod(0o755)
        monkeypatch.chdir(path.parent)  # the folders above are root's alone

        def connect() -> socket.socket:
            with another_user():
                return raw_client(Path(path.name))

        with structlog.testing.capture_logs() as logs:
            let_in = [connect() for _ in range(2)]
            await eventually(lambda: len(echo.relay._splices) == 2)
            for _ in range(3):
                with connect() as turned_away:
                    assert await asyncio.to_thread(turned_away.recv, 1) == b""
        assert [log["event"] for log in logs] == ["connections of a user are turned away"]
        if os.geteuid() == 0:
            assert await call(f"unix:{path}"), "others are served"
        let_in.pop().close()
        await eventually(lambda: len(echo.relay._splices) == 1)
        let_in.append(connect())
        await eventually(lambda: len(echo.relay._splices) == 2)
        for client in let_in:
            client.close()
        await eventually(lambda: not echo.relay._of_party)


class Places:
    """Says which pod the next caller is in."""

    def __init__(self) -> None:
        self.now: Party = "pod-a"

    async def of(self, caller: Caller) -> Party:
        del caller
        await asyncio.sleep(0)
        return self.now


async def test_who_shares_a_pod_is_counted_together_and_strangers_with_the_same_uid_apart(path: Path) -> None:
    places = Places()
    async with serving(path, max_connections_per_uid=2, party_of=places.of) as echo:
        with structlog.testing.capture_logs() as logs:
            clients = [raw_client(path) for _ in range(2)]
            await eventually(lambda: len(echo.relay._splices) == 2)
            for _ in range(3):  # root of a pod, where this is root
                with raw_client(path) as turned_away:
                    assert await asyncio.to_thread(turned_away.recv, 1) == b""
        told = [(log["event"], log["pod"]) for log in logs]
        assert told == [("connections of a pod are turned away", "pod-a")]
        places.now = "pod-b"
        assert await call(f"unix:{path}"), "another pod is served"
        places.now = ROOT
        clients += [raw_client(path) for _ in range(3)]
        await eventually(lambda: echo.relay._of_party[ROOT] == 3)
        for client in clients:
            client.close()
        await eventually(lambda: not echo.relay._of_party)


async def test_one_whose_party_cannot_be_told_is_not_let_in_and_the_next_is(path: Path) -> None:
    before = open_descriptors()
    answers: list[Exception | None] = [RuntimeError("closed"), None]

    async def party_of(caller: Caller) -> Party:
        del caller
        if (problem := answers.pop(0)) is not None:
            raise problem
        return "pod-a"

    async with serving(path, party_of=party_of):
        with raw_client(path) as turned_away:
            assert await asyncio.to_thread(turned_away.recv, 1) == b""
        assert await call(f"unix:{path}")
    await eventually(lambda: open_descriptors() <= before)


@pytest.mark.skipif(os.geteuid() != 0, reason="for root")
async def test_root_is_let_in_however_often(path: Path) -> None:
    async with serving(path, max_connections_per_uid=2) as echo:
        clients = [raw_client(path) for _ in range(5)]
        await eventually(lambda: len(echo.relay._splices) == 5)
        for client in clients:
            client.close()


CHILD = """
import os, socket, sys, time
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
if os.fork():
    print("connected", flush=True); sys.stdin.read()  # the parent, which connected
else:
    time.sleep(60)  # an heir of the socket
"""


async def test_the_connection_ends_with_the_process_that_made_it_even_if_an_heir_holds_it(path: Path) -> None:
    async with serving(path) as echo:
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        ) as child:
            assert child.stdout is not None
            await asyncio.to_thread(child.stdout.readline)
            await eventually(lambda: len(echo.relay._callers) == 1)
            (caller,) = echo.relay._callers.values()
            assert caller.credentials.pid == child.pid
            assert caller.is_alive()
            child.kill()
            await eventually(lambda: not caller.is_alive())
            await eventually(lambda: not echo.relay._splices)
            os.killpg(child.pid, signal.SIGKILL)


async def test_no_descriptor_is_left_behind(path: Path) -> None:
    async with serving(path, max_connections=8) as echo:
        await call(f"unix:{path}")
        await eventually(lambda: not echo.relay._splices)
        before = open_descriptors()
        clients = [raw_client(path) for _ in range(20)]  # more than are let in
        await asyncio.gather(*(call(f"unix:{path}") for _ in range(3)), return_exceptions=True)
        for client in clients:
            client.close()
        await eventually(lambda: not echo.relay._splices)
        for _ in range(20):
            await call(f"unix:{path}")
        await eventually(lambda: not echo.relay._splices)
        await eventually(lambda: open_descriptors() <= before)


async def test_closing_gives_everything_back_while_clients_are_connected(path: Path) -> None:
    async with serving(path):  # gRPC opens some for good when it is first used
        await call(f"unix:{path}")
    before = open_descriptors()
    async with serving(path) as echo:
        clients = [raw_client(path) for _ in range(5)]
        await eventually(lambda: len(echo.relay._splices) == 5)
    for client in clients:
        while client.recv(MEGABYTE):  # gRPC's greeting, then the end
            pass
        client.close()
    await eventually(lambda: open_descriptors() <= before)


async def test_nobody_listens_behind_the_relay(path: Path) -> None:
    relay = Relay(path, mode=0o600, private_dir=private_dir(path), max_connections=4)
    await relay.start()
    before = open_descriptors()
    client = raw_client(path)
    assert await asyncio.to_thread(client.recv, 1) == b""
    client.close()
    await eventually(lambda: open_descriptors() <= before)
    assert not relay._callers
    await relay.close()


class TestCallerWithoutPeerPidfd:
    """Kernels before Linux 6.5, where the pid is all there is."""

    @pytest.fixture(autouse=True)
    def _old_kernel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(peer, "_SO_PEERPIDFD", 9999)

    def test_the_process_is_found_by_its_number(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            caller = Caller.of(ours)
            assert caller.credentials.pid == os.getpid()
            assert caller.is_alive()
            caller.close()
            assert not caller.is_alive()

    def test_a_number_that_now_belongs_to_another_user_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(peer, "effective_ids", lambda _: (4242, 4242))
        before = open_descriptors()
        ours, theirs = socket.socketpair()
        with ours, theirs, pytest.raises(CitadelError) as refused:
            Caller.of(ours)
        assert refused.value.reason is Reason.CALLER_UNKNOWN
        assert open_descriptors() == before
