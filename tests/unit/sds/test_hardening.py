"""Callers that mean harm, on the agent's real socket: nobody gets another's identity, and nobody harms the others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import structlog
from grpc import aio

from citadel import peer
from citadel.errors import PermissionDenied, Reason, ResourceExhausted
from citadel.peer import Caller
from citadel.rpc import from_rpc_error
from citadel.selector import Selector
from cli.limits import raise_open_files
from sds.attest import unix
from sds.attest.unix import UnixAttestor
from sds.serve.admission import UserGate
from sds.settings import LimitSettings
from tests.standstill import no_standstill
from tests.unit.sds.holding import entry, held, holdings
from tests.unit.sds.node import DeltaProxy, FakeAttestor, Node, Proxy, chain, eventually
from tests.unit.sds.test_attest_unix import SLEEP, running, values

MYSELF = Selector("unix", f"uid:{os.geteuid()}")
MEGABYTE = 1024 * 1024
FETCH = "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets"
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
SOON = 5.0  # seconds, in which no flood ends by itself
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="for root")


@contextlib.asynccontextmanager
async def serving(path: Path, **limits: Any) -> AsyncIterator[Node]:
    node = Node(path, UnixAttestor(), limits=LimitSettings(**limits))
    web = entry("web", MYSELF)
    node.feed.publish(holdings([web], [held(web)]))
    await node.server.start()
    try:
        yield node
    finally:
        await node.server.close(grace=0)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with serving(tmp_path / "agent.sock") as node:
        yield node


async def is_served(node: Node) -> float:
    """The seconds that another caller, with a connection of its own, waits for its certificate."""
    begun = time.monotonic()
    async with aio.insecure_channel(node.address, options=OWN_CONNECTION) as channel:
        proxy = Proxy(channel, "default")
        await proxy.ask()
        assert (await proxy.receive()).keys() == {"default"}
    return time.monotonic() - begun


def raw_client(node: Node) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(node.address.removeprefix("unix:"))
    return client


class TestReusedPid:
    """The process that connected has ended, an heir holds its connection, and its number belongs to another process."""

    CHILD = """
import os, socket, sys, time
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
heir = os.fork()
if heir:
    print(heir, flush=True)
else:
    time.sleep(60)
"""

    @contextlib.contextmanager
    def connection_of_the_dead(self, tmp_path: Path) -> Iterator[tuple[socket.socket, int]]:
        """An accepted connection, and the number of the process that made it and ended before."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "s"))
            listener.listen()
            # In this process's group: a number stays taken for as long as a group or a session is called by it.
            command = [sys.executable, "-c", self.CHILD, str(tmp_path / "s")]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
                assert child.stdout is not None
                heir = int(child.stdout.readline())
                child.wait()
                accepted, _ = listener.accept()
                with accepted:
                    yield accepted, child.pid
                os.kill(heir, signal.SIGKILL)

    @staticmethod
    @contextlib.contextmanager
    def another_process_with(pid: int) -> Iterator[None]:
        last = Path("/proc/sys/kernel/ns_last_pid")
        until = time.monotonic() + 30  # others fork in between
        while time.monotonic() < until:
            last.write_text(str(pid - 1))
            with subprocess.Popen([SLEEP, "60"]) as process:
                try:
                    if process.pid == pid:
                        yield
                        return
                finally:
                    process.kill()
        pytest.fail("the number could not be had")

    @needs_root
    @pytest.mark.parametrize("kernel", ["this", "older"])
    async def test_is_never_taken_for_the_caller(self, tmp_path: Path, kernel: str) -> None:
        with self.connection_of_the_dead(tmp_path) as (connection, pid), self.another_process_with(pid):
            if kernel == "older":  # knows of no pidfd of a peer that is gone: Linux 6.5 to 6.15
                real = socket.socket.getsockopt

                class Older(socket.socket):
                    def getsockopt(self, level: int, option: int, *rest: int) -> Any:
                        if option == peer._SO_PEERPIDFD:
                            raise ProcessLookupError(3, "No such process")
                        return real(self, level, option, *rest)

                connection = Older(fileno=os.dup(connection.fileno()))  # noqa: PLW2901 - the same peer, as another kernel tells of it
            with pytest.raises(PermissionDenied) as refused:  # noqa: PT012 - at the one step or the other
                caller = Caller.of(connection)
                assert caller.credentials.pid == pid
                assert not caller.is_alive()
                with contextlib.closing(caller):
                    await UnixAttestor().attest(caller, want_sha256=True)
            connection.close()
        assert refused.value.reason is Reason.CALLER_UNKNOWN


class TestReplacedBinary:
    async def test_between_two_looks_vouches_for_neither(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The caller runs another program by the time that all has been read of it."""
        program = Path(shutil.copy(SLEEP, tmp_path / "program"))
        other = Path(shutil.copy(SLEEP, tmp_path / "other"))
        with running(program) as caller, running(other) as successor:
            links = iter([unix._exe(caller.credentials.pid)])
            monkeypatch.setattr(
                unix, "_exe", lambda _: next(links, unix.Path(f"/proc/{successor.credentials.pid}/exe"))
            )
            attestation = await UnixAttestor().attest(caller, want_sha256=True)
        assert not values(attestation, "path") | values(attestation, "sha256")
        assert values(attestation, "uid")
        assert not attestation.is_complete, "it is looked at again"

    @pytest.mark.parametrize("selector", ["path", "sha256"])
    async def test_gets_nothing_that_the_old_one_was_entitled_to(self, tmp_path: Path, selector: str) -> None:
        program = Path(shutil.copy(sys.executable, tmp_path / "program"))
        wanted = (
            f"path:{program}"
            if selector == "path"
            else f"sha256:{unix.hashlib.sha256(program.read_bytes()).hexdigest()}"
        )
        client = (
            "import sys, time, grpc; sys.stdin.readline();"
            "from envoy.service.secret.v3 import sds_pb2_grpc; from envoy.service.discovery.v3 import discovery_pb2;"
            f"stub = sds_pb2_grpc.SecretDiscoveryServiceStub(grpc.insecure_channel('unix:{tmp_path}/agent.sock'));"
            "print(len(stub.FetchSecrets(discovery_pb2.DiscoveryRequest()).resources), flush=True)"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHOME": sys.base_prefix}

        async def resources_for(*, is_replaced: bool) -> int:
            process = await asyncio.create_subprocess_exec(
                program, "-c", client, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )
            if is_replaced:
                program.unlink()
                shutil.copy(sys.executable, program)
            output, _ = await process.communicate(b"go\n")
            return int(output)

        async with serving(tmp_path / "agent.sock") as node:
            strict = entry("strict", Selector("unix", wanted))
            node.feed.publish(holdings([strict], [held(strict)]))
            assert await resources_for(is_replaced=False) > 0
            assert await resources_for(is_replaced=True) == 0


class TestNameFromProc:
    async def test_tried_on_the_private_socket_is_nobody(self, node: Node) -> None:
        """A stranger who got into the private folder, and connects under a name that was a caller's a moment ago."""
        private = node.server._relay.private_address.removeprefix("unix:")
        async with aio.insecure_channel(node.address, options=OWN_CONNECTION) as channel:
            proxy = Proxy(channel, "default")
            await proxy.ask()
            await proxy.take()
            (name,) = node.server._relay._callers
            assert f"@{name}" in Path("/proc/net/unix").read_text()
            with socket.socket(socket.AF_UNIX) as thief, pytest.raises(OSError, match="in use"):
                thief.bind(f"\0{name}")
        del proxy, channel  # gRPC hangs up when nobody holds a call of the connection any more
        await eventually(lambda: f"@{name}" not in Path("/proc/net/unix").read_text())
        front = tmp_front(node)
        with forwarding(front, private, name):
            async with aio.insecure_channel(f"unix:{front}", options=OWN_CONNECTION) as channel:
                proxy = Proxy(channel, "default")
                await proxy.ask()
                with pytest.raises(aio.AioRpcError) as refused:
                    await proxy.receive()
        assert from_rpc_error(refused.value).reason is Reason.CALLER_UNKNOWN


def tmp_front(node: Node) -> Path:
    return Path(node.address.removeprefix("unix:")).with_name("front.sock")


@contextlib.contextmanager
def forwarding(front: Path, private: str, name: str) -> Iterator[None]:
    """One connection to `front`, carried to `private` under `name`."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as inner:
        listener.bind(str(front))
        listener.listen()
        inner.bind(f"\0{name}")
        inner.connect(private)

        def carry(source: socket.socket, sink: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    sink.sendall(data)

        def accept() -> None:
            outer, _ = listener.accept()
            threads = [threading.Thread(target=carry, args=ends) for ends in ((outer, inner), (inner, outer))]
            for thread in threads:
                thread.start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        yield
        inner.shutdown(socket.SHUT_RDWR)
        accepting.join()


class TestFloods:
    async def test_a_client_that_opens_streams_and_reads_nothing_takes_what_it_may_and_harms_nobody(
        self, tmp_path: Path
    ) -> None:
        async with serving(tmp_path / "agent.sock", max_streams_per_connection=16) as node:  # noqa: SIM117 - one after the other
            async with aio.insecure_channel(node.address, options=OWN_CONNECTION) as channel:
                silent = [Proxy(channel, "default") for _ in range(16)]
                for proxy in silent:
                    await proxy.ask()
                await eventually(lambda: len(node.registry.live()) == 16)
                silent += [Proxy(channel, "default") for _ in range(48)]
                rest = [asyncio.create_task(proxy.ask()) for proxy in silent[16:]]
                async with no_standstill():
                    for _ in range(100):
                        node.feed.publish(holdings([entry("web", MYSELF)], [held(entry("web", MYSELF))]))
                        await asyncio.sleep(0)
                    assert len(node.registry.live()) == 16, "the others wait in the client"
                    assert await is_served(node) < SOON
                for task in rest:
                    task.cancel()
                await asyncio.gather(*rest, return_exceptions=True)
                for proxy in silent:
                    proxy.call.cancel()

    async def test_a_message_of_100_megabytes_ends_its_own_stream_alone(self, node: Node) -> None:
        options = [*OWN_CONNECTION, ("grpc.max_send_message_length", -1)]
        async with aio.insecure_channel(node.address, options=options) as channel:
            call = channel.stream_stream("/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets")()
            sending = asyncio.create_task(call.write(bytes(100 * MEGABYTE)))
            with pytest.raises(aio.AioRpcError) as refused:
                await asyncio.wait_for(call.read(), 10)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            await asyncio.gather(sending, return_exceptions=True)
            proxy = Proxy(channel, "default")
            await proxy.ask()
            assert await proxy.take(), "even its other streams go on"

    async def test_100_megabytes_of_requests_keep_no_memory_and_harm_nobody(self, node: Node) -> None:
        names = [f"{number:04}" + "x" * 1000 for number in range(200)]
        async with aio.insecure_channel(node.address, options=OWN_CONNECTION) as channel:
            proxy = Proxy(channel, *names)
            with structlog.testing.capture_logs() as logs:
                async with no_standstill():
                    for _ in range(500):  # of a fifth of a megabyte each
                        await proxy.ask(response_nonce="")
                    assert await is_served(node) < SOON
            assert len([log for log in logs if "names ignored" in log["event"]]) == 1
            assert sum(report.ByteSize() for report in node.registry.live()) < 64 * 1024

    @pytest.mark.parametrize("says", [b"", b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096)])
    async def test_a_connection_that_never_speaks_http2_is_let_go(self, tmp_path: Path, says: bytes) -> None:
        async with serving(tmp_path / "agent.sock", handshake_timeout=timedelta(milliseconds=200)) as node:
            client = raw_client(node)
            client.sendall(says)
            while await asyncio.to_thread(client.recv, 65536):
                pass
            client.close()
            await eventually(lambda: not node.server._relay._splices)
            assert await is_served(node) < SOON

    async def test_one_that_speaks_is_not_cut_for_being_quiet_afterwards(self, tmp_path: Path) -> None:
        async with serving(tmp_path / "agent.sock", handshake_timeout=timedelta(milliseconds=200)) as node:  # noqa: SIM117 - one after the other
            async with aio.insecure_channel(node.address, options=OWN_CONNECTION) as channel:
                proxy = Proxy(channel, "default")
                await proxy.ask()
                await proxy.take()
                await asyncio.sleep(0.5)
                renewed = held(entry("web", MYSELF))
                node.feed.publish(holdings([entry("web", MYSELF)], [renewed]))
                assert chain((await proxy.take())["default"]) == renewed.svid.chain_pem

    async def test_a_thousand_callers_at_once_are_all_served_and_hold_up_nobody(self, node: Node) -> None:
        raise_open_files()
        clients = [raw_client(node) for _ in range(200)]  # half-open: they never say a word
        waited: list[float] = []

        async def call() -> None:
            waited.append(await is_served(node))

        async with no_standstill():
            others = [asyncio.create_task(call()) for _ in range(100)]
            more = await asyncio.gather(*(asyncio.to_thread(raw_client, node) for _ in range(800)))
            await asyncio.gather(*others)
        assert max(waited) < 5.0
        for client in (*clients, *more):
            client.close()
        await eventually(lambda: not node.server._relay._splices)

    async def test_more_connections_than_allowed_are_turned_away_and_the_rest_served(self, tmp_path: Path) -> None:
        async with serving(tmp_path / "agent.sock", max_connections=10) as node:
            clients = [raw_client(node) for _ in range(20)]
            await eventually(lambda: len(node.server._relay._splices) == 10)
            for client in clients:
                client.close()
            await eventually(lambda: not node.server._relay._splices)
            await is_served(node)


@pytest.mark.parametrize("service", ["SpiffeWorkloadAPI", "envoy.service.secret.v3.SecretDiscoveryService"])
async def test_names_of_methods_that_a_caller_makes_up_are_not_remembered(tmp_path: Path, service: str) -> None:
    node = Node(tmp_path / "agent.sock", FakeAttestor())
    await node.server.start()
    async with aio.insecure_channel(node.address, options=OWN_CONNECTION) as channel:
        for number in range(20):
            with pytest.raises(aio.AioRpcError):
                await channel.unary_unary(f"/{service}/Made{number}")(b"")
    assert not any("Made" in name for name in node.server._drain._wrapped)
    await node.server.close(grace=0)


async def test_requests_of_a_user_that_never_come_in_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "PeerCredentials", lambda pid, uid, gid: SomebodysCredentials(pid, uid or 1, gid))
    node = Node(tmp_path / "agent.sock", FakeAttestor(), limits=LimitSettings(max_streams_per_uid=2))
    await node.server.start()
    async with aio.insecure_channel(node.address, options=OWN_CONNECTION) as channel:
        fetch = channel.stream_unary(FETCH)
        unfinished = [fetch() for _ in range(2)]
        for call in unfinished:
            await call.wait_for_connection()
        async with asyncio.timeout(5):
            while True:
                with pytest.raises(aio.AioRpcError) as refused:
                    await channel.unary_unary(FETCH)(b"")
                if from_rpc_error(refused.value).reason is Reason.TOO_MANY_REQUESTS:
                    break
        for call in unfinished:
            call.cancel()
    await node.server.close(grace=0)


@pytest.mark.parametrize(
    "method",
    [
        FETCH,
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/SpiffeWorkloadAPI/FetchX509SVID",
        "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
        "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
    ],
)
async def test_a_call_counts_before_its_request_came_in_whatever_it_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(peer, "PeerCredentials", lambda pid, uid, gid: SomebodysCredentials(pid, uid or 1, gid))
    async with serving(tmp_path / "agent.sock") as node:  # noqa: SIM117 - one after the other
        async with aio.insecure_channel(node.address, options=OWN_CONNECTION) as channel:
            call = channel.stream_stream(method)(metadata=[("workload.spiffe.io", "true")])
            await eventually(lambda: node.server._gate.open == {1: 1})
            call.cancel()
            await eventually(lambda: not node.server._gate.open)


async def test_a_single_request_that_does_not_come_in_gives_its_place_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "PeerCredentials", lambda pid, uid, gid: SomebodysCredentials(pid, uid or 1, gid))
    async with serving(tmp_path / "agent.sock", request_timeout=timedelta(milliseconds=100)) as node:  # noqa: SIM117 - as above
        async with aio.insecure_channel(node.address, options=OWN_CONNECTION) as channel:
            with pytest.raises(aio.AioRpcError) as refused:
                await channel.stream_unary(FETCH)()
            assert "within 0.1 seconds" in from_rpc_error(refused.value).message
            await eventually(lambda: not node.server._gate.open)


class CallersByParty:
    """Callers whose peer is their party."""

    def caller_of(self, context_peer: Any) -> Any:
        return SimpleNamespace(party=context_peer)


def from_uid(party: peer.Party) -> Any:
    return SimpleNamespace(peer=lambda: party)


in_pod = from_uid


class TestStreamsOfAUser:
    def test_are_counted_by_user_root_aside(self) -> None:
        gate = UserGate(source=CallersByParty(), most_per_uid=2, most=100)
        with gate.admit("", from_uid(1)), gate.admit("", from_uid(1)), gate.admit("", from_uid(2)):
            with pytest.raises(ResourceExhausted) as refused, gate.admit("", from_uid(1)):
                pass
            with gate.admit("", from_uid(0)), gate.admit("", from_uid(0)), gate.admit("", from_uid(0)):
                pass
        assert refused.value.reason is Reason.TOO_MANY_REQUESTS
        with gate.admit("", from_uid(1)), gate.admit("", from_uid(1)):
            pass
        assert not gate.open

    def test_are_counted_by_pod_where_a_caller_is_known_by_it(self) -> None:
        gate = UserGate(source=CallersByParty(), most_per_uid=2, most=100)
        with gate.admit("", in_pod("a")), gate.admit("", in_pod("a")):
            with pytest.raises(ResourceExhausted), gate.admit("", in_pod("a")):
                pass
            with gate.admit("", in_pod("b")), gate.admit("", in_pod("b")):
                pass
        assert not gate.open

    async def test_of_root_of_a_pod_are_bounded(self, tmp_path: Path) -> None:
        async def party_of(caller: peer.Caller) -> peer.Party:
            del caller
            return "pod-a"

        node = Node(
            tmp_path / "agent.sock", FakeAttestor(), limits=LimitSettings(max_streams_per_uid=1), party_of=party_of
        )
        await node.server.start()
        async with aio.insecure_channel(node.address, options=OWN_CONNECTION) as channel:
            call = channel.stream_stream(FETCH)()
            await eventually(lambda: node.server._gate.open == {"pod-a": 1})
            with pytest.raises(aio.AioRpcError) as refused:
                await channel.unary_unary(FETCH)(b"")
            assert from_rpc_error(refused.value).reason is Reason.TOO_MANY_REQUESTS
            call.cancel()
        await node.server.close(grace=0)

    def test_are_counted_for_all_users_together_too(self) -> None:
        gate = UserGate(source=CallersByParty(), most_per_uid=2, most=2)
        with gate.admit("", from_uid(1)), gate.admit("", from_uid(2)):
            with (
                pytest.raises(ResourceExhausted, match="of all callers"),
                gate.admit("", from_uid(3)),
            ):
                pass
            with gate.admit("", from_uid(0)):
                pass
        assert not gate.open

    @pytest.mark.parametrize("kind", [Proxy, DeltaProxy])
    async def test_beyond_the_limit_are_refused_with_a_reason(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type
    ) -> None:
        monkeypatch.setattr(peer, "PeerCredentials", lambda pid, uid, gid: SomebodysCredentials(pid, uid or 1, gid))
        node = Node(tmp_path / "agent.sock", FakeAttestor(), limits=LimitSettings(max_streams_per_uid=1))
        web = entry("web")
        node.feed.publish(holdings([web], [held(web)]))
        await node.server.start()
        async with aio.insecure_channel(node.address, options=OWN_CONNECTION) as channel:
            first = kind(channel)
            await first.ask()
            await first.take()
            second = kind(channel)
            with pytest.raises(aio.AioRpcError) as refused:
                await second.receive()
            assert from_rpc_error(refused.value).reason is Reason.TOO_MANY_REQUESTS
            first.call.cancel()
            await eventually(lambda: not node.server._gate.open)
            third = kind(channel)
            await third.ask()
            assert await third.take()
        await node.server.close(grace=0)


SomebodysCredentials = peer.PeerCredentials
