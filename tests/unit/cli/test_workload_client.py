"""Our own client of the Workload API, against endpoints that behave and misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from grpc import aio

from citadel._wire import workload_pb2 as pb
from citadel.errors import CitadelError, FailedPrecondition, InvalidArgument, Reason, Unauthenticated, Unavailable
from citadel.svid import verify_x509_svid
from citadel.x509_context import X509Context, parse_x509_context
from cli.workload.address import EndpointAddress
from cli.workload.client import WorkloadClient
from cli.workload.folder import SvidFolder
from cli.workload.hook import Hook
from cli.workload.watching import FIRST_WAIT, LONGEST_WAIT, Watching
from tests import certificates
from tests.certificates import A_TEST, B_TEST, NOW
from tests.clock import FakeClock

ROOT = certificates.root()
ISSUER = certificates.intermediate(ROOT)
FOREIGN = certificates.root(uri="spiffe://b.test")
SECOND = timedelta(seconds=1)


def svid(name: str = "web", **changes: Any) -> pb.X509SVID:
    leaf = certificates.leaf(ISSUER, f"spiffe://a.test/{name}")
    fields = {
        "spiffe_id": f"spiffe://a.test/{name}",
        "x509_svid": leaf.der + ISSUER.der,
        "x509_svid_key": leaf.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        "bundle": ROOT.der,
    }
    return pb.X509SVID(**(fields | changes))


def response(*svids: pb.X509SVID, **federated: bytes) -> pb.X509SVIDResponse:
    return pb.X509SVIDResponse(
        svids=svids or [svid()], federated_bundles={f"spiffe://{name}.test": der for name, der in federated.items()}
    )


OTHER_KEY = certificates.leaf(ISSUER).key
UNUSABLE = {
    "no SVID": pb.X509SVIDResponse(),
    "no certificate": response(svid(x509_svid=b"")),
    "no key": response(svid(x509_svid_key=b"")),
    "no bundle": response(svid(bundle=b"")),
    "no ID": response(svid(spiffe_id="")),
    "another ID": response(svid(spiffe_id="spiffe://a.test/other")),
    "an ID that is none": response(svid(spiffe_id="web")),
    "PEM": response(svid(x509_svid=ISSUER.pem)),
    "not a certificate": response(svid(x509_svid=b"0\x03abc")),
    "another certificate's key": response(
        svid(x509_svid_key=OTHER_KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    ),
    "a key that is none": response(svid(x509_svid_key=b"abc")),
    "a bundle that is none": response(svid(bundle=b"abc")),
    "an empty foreign bundle": response(b=b""),
    "a foreign domain that is none": pb.X509SVIDResponse(svids=[svid()], federated_bundles={"B!": FOREIGN.der}),
}


class TestWhatIsMadeOfAMessage:
    def test_all_of_it(self) -> None:
        context = parse_x509_context(response(svid("web", hint="internal"), svid("job"), b=FOREIGN.der))
        assert [(each.svid.spiffe_id.path, each.hint) for each in context.svids] == [("/web", "internal"), ("/job", "")]
        assert context.choose() is context.svids[0]
        assert context.bundles.keys() == {A_TEST, B_TEST}
        assert "private_key" not in repr(context.svids[0])

    @pytest.mark.spec("WAPI-14")
    @pytest.mark.parametrize("message", UNUSABLE.values(), ids=UNUSABLE.keys())
    def test_one_that_lacks_something_is_refused(self, message: pb.X509SVIDResponse) -> None:
        with pytest.raises(InvalidArgument):
            parse_x509_context(message)

    @pytest.mark.spec("WAPI-24")
    def test_of_two_with_one_hint_the_first_holds(self) -> None:
        message = response(svid("a", hint="x"), svid("b", hint="x"), svid("c"), svid("d"))
        assert [each.svid.spiffe_id.path for each in parse_x509_context(message).svids] == ["/a", "/c", "/d"]

    @pytest.mark.spec("WAPI-28")
    def test_its_bundles_believe_no_jwt(self) -> None:
        context = parse_x509_context(response(b=FOREIGN.der))
        assert all(bundle.x509_authorities and not bundle.jwt_authorities for bundle in context.bundles.values())

    @pytest.mark.spec("WAPI-15")
    def test_a_peer_of_a_domain_without_a_bundle_is_not_trusted(self) -> None:
        peer = [certificates.leaf(FOREIGN, "spiffe://b.test/x").der]
        verify_x509_svid(peer, parse_x509_context(response(b=FOREIGN.der)).bundles, NOW)
        with pytest.raises(Unauthenticated):
            verify_x509_svid(peer, parse_x509_context(response()).bundles, NOW)


@dataclass
class FakeEndpoint:
    """Plays one script for each call: messages, and a status code that ends it (None: it stays open)."""

    scripts: list[tuple[list[pb.X509SVIDResponse], grpc.StatusCode | None]] = field(default_factory=list)
    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        del continuation
        self.calls.append((str(details.method), tuple(details.invocation_metadata or ())))
        return grpc.unary_stream_rpc_method_handler(
            self._play, pb.X509SVIDRequest.FromString, pb.X509SVIDResponse.SerializeToString
        )

    async def _play(self, request: Any, context: Any) -> AsyncIterator[pb.X509SVIDResponse]:
        del request
        messages, end = self.scripts.pop(0) if self.scripts else ([], None)
        for message in messages:
            yield message
        if end is None:
            await asyncio.Event().wait()
        if end is not grpc.StatusCode.OK:
            await context.abort(end, "as the script says")


@asynccontextmanager
async def serving(endpoint: FakeEndpoint, socket: Path) -> AsyncIterator[WorkloadClient]:
    class Interceptor(aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            return await endpoint.intercept_service(continuation, handler_call_details)

    server = aio.server(interceptors=[Interceptor()])
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        yield WorkloadClient(EndpointAddress.of_socket(socket))
    finally:
        await server.stop(grace=None)


class Watcher:
    """What a watch told, with a clock that stands still."""

    def __init__(self, source: Any) -> None:
        self.clock = FakeClock(NOW)
        self.changes: list[X509Context] = []
        self.troubles: list[Reason] = []
        self.failing: CitadelError | None = None
        self._watching = Watching(
            source=source,
            on_change=self._change,
            on_trouble=lambda error: self.troubles.append(error.reason),
            clock=self.clock,
        )

    async def _change(self, context: X509Context) -> None:
        if self.failing is not None:
            raise self.failing
        self.changes.append(context)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self._watching.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, condition: Callable[[], bool], *, step: float = 0.0) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await self.clock.advance(step)
                await asyncio.sleep(0.01)


ENDS_FOR_GOOD = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.UNIMPLEMENTED: FailedPrecondition,
}
TRIED_AGAIN = [
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
]


class TestCalling:
    @pytest.mark.spec("WEP-05", "WEP-25", "WAPI-04")
    async def test_every_call_carries_the_header_and_is_one_of_the_x509_profile(self, tmp_path: Path) -> None:
        endpoint = FakeEndpoint(
            [([response()], None), ([response()], grpc.StatusCode.UNAVAILABLE), ([response()], None)]
        )
        async with serving(endpoint, tmp_path / "a b.sock") as client:
            await client.fetch_x509_context(within=5)
            watcher = Watcher(client)
            async with watcher.running():
                await watcher.until(lambda: len(endpoint.calls) == 3, step=FIRST_WAIT)
        assert {method for method, _ in endpoint.calls} == {"/SpiffeWorkloadAPI/FetchX509SVID"}
        for _, metadata in endpoint.calls:
            assert [value for name, value in metadata if name == "workload.spiffe.io"] == ["true"]

    async def test_an_endpoint_that_says_nothing_is_not_waited_for_longer_than_was_said(self, tmp_path: Path) -> None:
        async with serving(FakeEndpoint(), tmp_path / "a.sock") as client:
            with pytest.raises(Unavailable):
                await client.fetch_x509_context(within=0.2)

    @pytest.mark.spec("WEP-08", "WEP-21")
    @pytest.mark.parametrize(("code", "kind"), ENDS_FOR_GOOD.items())
    async def test_what_would_be_refused_again_is_not_tried_again(
        self, tmp_path: Path, code: grpc.StatusCode, kind: type[CitadelError]
    ) -> None:
        endpoint = FakeEndpoint([([response()], code)])
        async with serving(endpoint, tmp_path / "a.sock") as client:
            watcher = Watcher(client)
            async with watcher.running() as task:
                with pytest.raises(kind):
                    await asyncio.wait_for(task, 5)
        assert len(endpoint.calls) == 1

    @pytest.mark.spec("WEP-18", "WEP-20", "WAPI-06")
    @pytest.mark.parametrize("code", TRIED_AGAIN)
    async def test_what_may_pass_is_tried_again_with_backoff(self, tmp_path: Path, code: grpc.StatusCode) -> None:
        endpoint = FakeEndpoint([([], code)] * 3 + [([response()], None)])
        async with serving(endpoint, tmp_path / "a.sock") as client:
            watcher = Watcher(client)
            async with watcher.running():
                await watcher.until(lambda: len(endpoint.calls) == 1)
                await asyncio.sleep(0.1)
                assert len(endpoint.calls) == 1  # not before time has passed
                await watcher.until(lambda: bool(watcher.changes), step=LONGEST_WAIT)
        assert len(watcher.troubles) == 1  # said once

    @pytest.mark.spec("WEP-18")
    async def test_an_endpoint_that_is_not_there_yet_is_waited_for(self, tmp_path: Path) -> None:
        socket = tmp_path / "a.sock"
        watcher = Watcher(WorkloadClient(EndpointAddress.of_socket(socket)))
        async with watcher.running():
            await watcher.until(lambda: watcher.troubles == [Reason.SERVER_UNREACHABLE])
            async with serving(FakeEndpoint([([response()], None)]), socket):
                await watcher.until(lambda: bool(watcher.changes), step=LONGEST_WAIT)


class TestWatching:
    @pytest.mark.spec("WAPI-11", "WAPI-12")
    async def test_each_message_replaces_all_of_the_one_before(self, tmp_path: Path) -> None:
        web = svid("web")
        endpoint = FakeEndpoint([([response(web, svid("job"), b=FOREIGN.der), response(web)], None)])
        async with serving(endpoint, tmp_path / "a.sock") as client:
            watcher = Watcher(client)
            async with watcher.running():
                await watcher.until(lambda: len(watcher.changes) == 2)
        assert watcher.changes[0].bundles.keys() == {A_TEST, B_TEST}
        assert watcher.changes[1].bundles.keys() == {A_TEST}
        assert [each.svid.spiffe_id.path for each in watcher.changes[1].svids] == ["/web"]

    async def test_the_same_content_after_a_reconnect_is_no_change(self, tmp_path: Path) -> None:
        same = response()
        endpoint = FakeEndpoint([([same], grpc.StatusCode.OK), ([same], None)])
        async with serving(endpoint, tmp_path / "a.sock") as client:
            watcher = Watcher(client)
            async with watcher.running():
                await watcher.until(lambda: len(endpoint.calls) == 2, step=FIRST_WAIT)
                await asyncio.sleep(0.1)
        assert len(watcher.changes) == 1
        assert watcher.troubles == []

    @pytest.mark.spec("WAPI-14")
    async def test_a_message_that_cannot_be_used_is_said_and_the_stream_goes_on(self, tmp_path: Path) -> None:
        endpoint = FakeEndpoint([([response(svid("a")), pb.X509SVIDResponse(), response(svid("b"))], None)])
        async with serving(endpoint, tmp_path / "a.sock") as client:
            watcher = Watcher(client)
            async with watcher.running():
                await watcher.until(lambda: len(watcher.changes) == 2)
        assert watcher.troubles == [Reason.SVID_MALFORMED]
        assert len(endpoint.calls) == 1

    async def test_a_change_that_could_not_be_taken_is_tried_again(self, tmp_path: Path) -> None:
        same = response()
        endpoint = FakeEndpoint([([same], None)] * 20)
        async with serving(endpoint, tmp_path / "a.sock") as client:
            watcher = Watcher(client)
            watcher.failing = Unavailable(Reason.STORE_UNAVAILABLE, "the disk is full")
            async with watcher.running():
                await watcher.until(lambda: len(endpoint.calls) >= 3, step=FIRST_WAIT)
                watcher.failing = None
                await watcher.until(lambda: bool(watcher.changes), step=FIRST_WAIT)
        assert watcher.troubles == [Reason.STORE_UNAVAILABLE]


class TestTheFolder:
    def test_a_set_that_cannot_be_written_leaves_the_old_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = parse_x509_context(response(svid("a"))), parse_x509_context(response(svid("b")))
        with SvidFolder.held(tmp_path / "d") as folder:
            folder.write(first.choose(), first)

            def full(path: Path, data: bytes) -> None:
                del data
                if path.name == "bundle.pem":
                    raise OSError(28, "No space left on device")
                path.touch()

            monkeypatch.setattr("cli.workload.folder.write_private", full)
            with pytest.raises(Unavailable) as refused:
                folder.write(second.choose(), second)
        assert refused.value.reason is Reason.STORE_UNAVAILABLE
        assert (tmp_path / "d" / "svid.pem").read_bytes() == first.choose().svid.chain_pem
        assert len(list((tmp_path / "d").glob("svid-*"))) == 1

    def test_foreign_bundles_are_files_of_their_own_and_go_when_they_go(self, tmp_path: Path) -> None:
        strange, long = "..", "l" * 255  # names of trust domains that are not names of files
        message = response(b=FOREIGN.der)
        for name in (strange, long):
            message.federated_bundles[f"spiffe://{name}"] = FOREIGN.der
        with_them, without = parse_x509_context(message), parse_x509_context(response())
        federated = tmp_path / "d" / "federated"
        with SvidFolder.held(tmp_path / "d") as folder:
            folder.write(with_them.choose(), with_them)
            assert {path.name for path in federated.iterdir()} == {"b.test.pem", "...pem"}
            assert (federated / "b.test.pem").read_bytes() == FOREIGN.pem
            folder.write(without.choose(), without)
            assert not list(federated.iterdir())

    def test_somebody_else_s_files_are_not_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir(mode=0o700)
        (tmp_path / "d" / "key.pem").write_text("mine")
        with pytest.raises(InvalidArgument) as refused, SvidFolder.held(tmp_path / "d"):
            pass
        assert refused.value.reason is Reason.FILE_UNSAFE

    def test_what_a_killed_one_left_is_tidied_up(self, tmp_path: Path) -> None:
        context = parse_x509_context(response())
        for name in ("svid-dead", "svid-older"):
            (tmp_path / "d" / name).mkdir(mode=0o700, parents=True)
        (tmp_path / "d").chmod(0o700)
        (tmp_path / "d" / ".current.new").symlink_to("svid-dead")
        with SvidFolder.held(tmp_path / "d") as folder:
            folder.write(context.choose(), context)
        assert len(list((tmp_path / "d").glob("svid-*"))) == 1
        assert not (tmp_path / "d" / ".current.new").is_symlink()


class TestTheHook:
    @pytest.mark.parametrize(("text", "words"), [("a 'b c' d", ("a", "b c", "d")), ("a; b $(c)", ("a;", "b", "$(c)"))])
    def test_no_shell_reads_it(self, text: str, words: tuple[str, ...]) -> None:
        assert Hook.parse(text, within=SECOND).words == words

    @pytest.mark.parametrize("text", ["", "  ", "a 'b"])
    def test_nonsense_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidArgument):
            Hook.parse(text, within=SECOND)

    @pytest.mark.parametrize(
        ("text", "problem"),
        [("true", ""), ("false", "ended with 1"), ("/no/such/program", "cannot be started"), ("sleep 60", "killed")],
    )
    async def test_how_it_ended_is_said(self, text: str, problem: str) -> None:
        said = await Hook.parse(text, within=SECOND / 2).run()
        assert problem in said
        assert bool(said) == bool(problem)

    async def test_it_is_gone_when_the_watch_is(self, tmp_path: Path) -> None:
        script = tmp_path / "hook"
        script.write_text(f"#!/bin/sh\nsleep 60 & echo $! > {tmp_path}/pid\nwait\n")
        script.chmod(0o755)
        running = asyncio.create_task(Hook.parse(str(script), within=60 * SECOND).run())
        async with asyncio.timeout(10):
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        child = Path("/proc", (tmp_path / "pid").read_text().strip())
        async with asyncio.timeout(10):
            while child.exists() and ") Z " not in (child / "stat").read_text():
                await asyncio.sleep(0.01)
