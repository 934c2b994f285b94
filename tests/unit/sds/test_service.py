from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.secret.v3 import sds_pb2_grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from citadel._wire import types_pb2
from citadel.errors import CitadelError, PermissionDenied, Reason
from citadel.rpc import from_rpc_error
from citadel.selector import Selector
from sds.attest.unix import UnixAttestor
from sds.serve.callers import LOOK_AGAIN
from sds.serve.resource import SECRET_TYPE_URL
from tests.certificates import NOW
from tests.unit.sds.holding import UID_1, entry, held, holdings, own_bundle
from tests.unit.sds.node import DIGEST, DeltaProxy, FakeAttestor, Node, Proxy, chain, eventually, unpacked

MYSELF = Selector("unix", f"uid:{os.geteuid()}")
REPORT = types_pb2.ResourceReport
SDS = "envoy.service.secret.v3.SecretDiscoveryService"
SECOND = timedelta(seconds=1)


@pytest.fixture
def attestor() -> Any:
    return FakeAttestor()


@pytest.fixture
async def node(tmp_path: Path, attestor: Any) -> AsyncIterator[Node]:
    node = Node(tmp_path / "agent.sock", attestor)
    await node.server.start()
    yield node
    await node.server.close(grace=0)


@pytest.fixture
async def channel(node: Node) -> AsyncIterator[aio.Channel]:
    async with aio.insecure_channel(node.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield channel


@pytest.fixture
async def connect(channel: aio.Channel) -> Callable[..., Any]:
    async def connect(*names: str) -> Proxy:
        proxy = Proxy(channel, *names)
        await proxy.ask(node={"id": "sidecar"})
        return proxy

    return connect


class TestWithTheKernelsWord:
    @pytest.fixture
    def attestor(self) -> UnixAttestor:
        return UnixAttestor()

    async def test_a_real_caller_gets_what_its_uid_is_entitled_to_and_no_more(
        self, node: Node, connect: Callable[..., Any]
    ) -> None:
        mine, theirs = entry("mine", MYSELF), entry("theirs", Selector("unix", f"uid:{os.geteuid() + 1}"))
        node.feed.publish(holdings([mine, theirs], [held(mine), held(theirs)]))
        proxy = await connect("default", "ROOTCA", "spiffe://a.test/theirs")
        secrets = await proxy.take()
        assert secrets.keys() == {"default", "ROOTCA"}
        assert chain(secrets["default"]) == node.feed.current.svids["mine"].svid.chain_pem
        (report,) = node.registry.live()
        assert (report.pid, report.uid, report.gid) == (os.getpid(), os.geteuid(), os.getegid())
        assert report.executable == str(Path("/proc/self/exe").resolve())
        assert (report.protocol, report.node_id) == ("sds", "sidecar")


async def test_a_caller_without_an_entry_waits_and_is_answered_when_one_appears(
    node: Node, connect: Callable[..., Any]
) -> None:
    proxy = await connect("default", "ROOTCA")
    await eventually(lambda: node.states() == [{"default": REPORT.WAITING, "ROOTCA": REPORT.WAITING}])
    web = entry("web")
    node.feed.publish(holdings([web]))
    assert (await proxy.take()).keys() == {"ROOTCA"}
    node.feed.publish(holdings([web], [held(web)], own_bundle()))
    assert (await proxy.take()).keys() == {"default", "ROOTCA"}


async def test_a_caller_without_an_entry_is_sent_nothing(node: Node, connect: Callable[..., Any]) -> None:
    other = entry("other", Selector("unix", "uid:2"))
    node.feed.publish(holdings([other], [held(other)]))
    proxy = await connect()
    assert await proxy.hears_nothing()


@pytest.mark.invariant(5)
async def test_a_renewed_certificate_is_pushed_and_reported_as_far_as_it_came(
    node: Node, connect: Callable[..., Any]
) -> None:
    web = entry("web")
    node.feed.publish(holdings([web], [held(web)]))
    proxy = await connect("default")
    await proxy.take()
    await eventually(lambda: node.states() == [{"default": REPORT.ACKNOWLEDGED}])
    renewed = held(web)
    node.feed.publish(replace(node.feed.current, svids={"web": renewed}))
    assert chain((await proxy.receive())["default"]) == renewed.svid.chain_pem
    assert node.states() == [{"default": REPORT.SENT}]
    await proxy.ask()
    await eventually(lambda: node.states() == [{"default": REPORT.ACKNOWLEDGED}])
    (report,) = node.registry.live()
    assert report.resources[0].serial == renewed.svid.serial
    assert report.resources[0].spiffe_id == "spiffe://a.test/web"
    assert report.resources[0].not_after.ToDatetime(tzinfo=NOW.tzinfo) == renewed.svid.not_after


@pytest.mark.invariant(1)
async def test_no_report_holds_anything_of_a_key(node: Node, connect: Callable[..., Any]) -> None:
    web = entry("web")
    mine = held(web)
    node.feed.publish(holdings([web], [mine]))
    with structlog.testing.capture_logs() as logs:
        secrets = await (await connect("default")).take()
    reported = b"".join(report.SerializeToString() for report in node.registry.take_changed()) + repr(logs).encode()
    key = secrets["default"].tls_certificate.private_key.inline_bytes
    assert key
    assert mine.private_key[-40:] not in reported
    assert key.splitlines()[1] not in reported


async def test_many_streams_of_one_connection_are_attested_once(node: Node, connect: Callable[..., Any]) -> None:
    web = entry("web")
    node.feed.publish(holdings([web], [held(web)]))
    for name in ("default", "ROOTCA", "spiffe://a.test/web"):
        assert (await (await connect(name)).take()).keys() == {name}
    assert node.attestor.asked == [False]
    assert len(node.registry.live()) == 3


async def test_a_caller_in_a_pod_is_no_user_of_the_node(node: Node, connect: Callable[..., Any]) -> None:
    shop = Selector("k8s", "ns:shop")
    user, pod = entry("user"), entry("pod", UID_1, shop)
    node.feed.publish(holdings([user, pod], [held(user), held(pod)]))
    node.attestor.is_in_pod, node.attestor.is_complete = True, False  # its pod is not known yet
    proxy = await connect("default", "spiffe://a.test/user", "spiffe://a.test/pod")
    await eventually(lambda: bool(node.states()) and set(node.states()[0].values()) == {REPORT.WAITING})
    node.attestor.seen, node.attestor.is_complete = {UID_1, shop}, True
    await node.clock.advance(LOOK_AGAIN)
    assert (await proxy.take()).keys() == {"default", "spiffe://a.test/pod"}


async def test_a_caller_that_could_not_be_seen_whole_is_looked_at_again_until_it_is(
    node: Node, connect: Callable[..., Any]
) -> None:
    web = entry("web", Selector("unix", "user:web"))
    node.feed.publish(holdings([web], [held(web)]))
    node.attestor.is_complete = False
    proxy = await connect("default")
    await eventually(lambda: node.states() == [{"default": REPORT.WAITING}])
    for looks in (1, 2, 3):
        assert len(node.attestor.asked) == looks
        await node.clock.advance(LOOK_AGAIN)
        await eventually(lambda looks=looks: len(node.attestor.asked) == looks + 1)
    node.attestor.seen, node.attestor.is_complete = {Selector("unix", "user:web")}, True
    await node.clock.advance(LOOK_AGAIN)
    assert (await proxy.take()).keys() == {"default"}
    looks = len(node.attestor.asked)
    await node.clock.advance(10 * LOOK_AGAIN)
    await asyncio.sleep(0.05)
    assert len(node.attestor.asked) == looks


async def test_the_caller_is_attested_again_when_an_entry_asks_for_a_digest(
    node: Node, connect: Callable[..., Any]
) -> None:
    node.feed.publish(holdings([entry("web")]))
    proxy = await connect("spiffe://a.test/strict", "ROOTCA")
    await proxy.take()
    strict = entry("strict", UID_1, DIGEST)
    node.feed.publish(replace(holdings([entry("web"), strict], [held(strict)]), bundles=node.feed.current.bundles))
    assert "spiffe://a.test/strict" in await proxy.take()
    assert node.attestor.asked == [False, True]


@pytest.mark.invariant(8)
async def test_an_entry_deleted_in_use_takes_nothing_from_the_other_names(
    node: Node, connect: Callable[..., Any]
) -> None:
    web, job, bundle = entry("web"), entry("job"), own_bundle()
    of_web, of_job = held(web), held(job)
    node.feed.publish(holdings([web, job], [of_web, of_job], bundle))
    proxy = await connect("spiffe://a.test/web", "spiffe://a.test/job")
    await proxy.take()
    node.feed.publish(holdings([job], [of_web, of_job], bundle))
    renewed = held(job)
    node.feed.publish(holdings([job], [of_web, renewed], bundle))
    secrets = await proxy.take()
    assert secrets.keys() == {"spiffe://a.test/job"}
    assert chain(secrets["spiffe://a.test/job"]) == renewed.svid.chain_pem


async def test_when_an_entry_expires_its_caller_gets_its_next_identity(node: Node, connect: Callable[..., Any]) -> None:
    first = entry("first", created_at=NOW - 2 * SECOND, expires_at=NOW + 30 * SECOND)
    second = entry("second", created_at=NOW - SECOND)
    node.feed.publish(holdings([first, second], [held(first), held(second)]))
    proxy = await connect("default")
    assert chain((await proxy.take())["default"]) == node.feed.current.svids["first"].svid.chain_pem
    await node.clock.advance(31)
    assert chain((await proxy.take())["default"]) == node.feed.current.svids["second"].svid.chain_pem


async def test_a_nack_is_reported_and_the_stream_waits_for_other_content(
    node: Node, connect: Callable[..., Any]
) -> None:
    web = entry("web")
    node.feed.publish(holdings([web], [held(web)]))
    proxy = await connect("default")
    await proxy.receive()
    with structlog.testing.capture_logs() as logs:
        for number in range(20):
            await proxy.ask(
                version_info="", node={"id": f"{number}"}, error_detail={"code": 13, "message": "KEY_VALUES_MISMATCH"}
            )
        await eventually(lambda: [report.node_id for report in node.registry.live()] == ["19"])
    assert node.states() == [{"default": REPORT.REFUSED}]
    assert [log["refusal"] for log in logs if log["event"] == "proxy refused a secret"] == ["KEY_VALUES_MISMATCH"]
    assert node.registry.live()[0].resources[0].refusal == "KEY_VALUES_MISMATCH"
    fresh = held(web)
    node.feed.publish(replace(node.feed.current, svids={"web": fresh}))
    assert chain((await proxy.take())["default"]) == fresh.svid.chain_pem


async def test_strange_requests_are_ignored_said_once_and_cost_no_work(node: Node, connect: Callable[..., Any]) -> None:
    web = entry("web")
    node.feed.publish(holdings([web], [held(web)]))
    proxy = await connect("default")
    await proxy.take()
    await eventually(lambda: node.states() == [{"default": REPORT.ACKNOWLEDGED}])
    with structlog.testing.capture_logs() as logs:
        for _ in range(50):
            await proxy.ask(type_url="type.googleapis.com/x")
            await proxy.ask(response_nonce="stale")
        fresh = held(web)
        node.feed.publish(replace(node.feed.current, svids={"web": fresh}))
        assert chain((await proxy.take())["default"]) == fresh.svid.chain_pem
    assert len([log for log in logs if "another type" in log["event"]]) == 1


async def test_changes_that_come_together_are_sent_as_one(node: Node, connect: Callable[..., Any]) -> None:
    web = entry("web")
    node.feed.publish(holdings([web], [held(web)]))
    proxy = await connect("default")
    await proxy.take()
    for _ in range(50):
        newest = held(web)
        node.feed.publish(replace(node.feed.current, svids={"web": newest}))
    assert chain((await proxy.take())["default"]) == newest.svid.chain_pem
    assert proxy.last.nonce == "2"


async def test_a_proxy_that_reads_nothing_gets_only_what_it_had_room_for_and_then_the_newest(node: Node) -> None:
    names = [f"w{number}" for number in range(40)]
    entries = [entry(name) for name in names]
    svids = [held(each) for each in entries]
    node.feed.publish(holdings(entries, svids))
    small_window = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_535)]
    async with aio.insecure_channel(node.address, options=small_window) as channel:
        proxy = Proxy(channel, *(f"spiffe://a.test/{name}" for name in names))
        await proxy.ask()
        rounds = 60  # of some 60 KB each
        for _ in range(rounds):
            svids = [held(entries[0]), *svids[1:]]
            node.feed.publish(replace(node.feed.current, svids={each.entry_id: each for each in svids}))
            await asyncio.sleep(0.01)
        received = 1
        while chain((await proxy.receive())["spiffe://a.test/w0"]) != svids[0].svid.chain_pem:
            received += 1
    assert received < rounds // 2


@pytest.mark.parametrize("how", ["cancelled", "half-closed", "connection cut"])
async def test_an_ended_stream_leaves_nothing_behind(node: Node, how: str) -> None:
    web = entry("web", expires_at=NOW + timedelta(hours=1))
    node.feed.publish(holdings([web], [held(web)]))
    channel = aio.insecure_channel(node.address, options=[("grpc.use_local_subchannel_pool", 1)])
    proxy = Proxy(channel, "default")
    await proxy.ask()
    await proxy.take()
    assert node.feed._watchers
    assert node.server._expiries._moments
    match how:
        case "cancelled":
            proxy.call.cancel()
        case "half-closed":
            await proxy.call.done_writing()
            assert await proxy.call.read() is aio.EOF
        case _:
            await channel.close()
    await eventually(lambda: not node.registry.live())
    await eventually(lambda: not node.feed._watchers and not node.server._expiries._moments)
    assert [report.closed for report in node.registry.take_changed()] == [True]
    await channel.close()
    del proxy, channel  # gRPC hangs up when nobody holds a call of the connection any more
    await eventually(lambda: not node.server._relay._callers)


async def test_a_caller_that_ended_while_it_was_attested_is_refused_with_a_reason(
    node: Node, connect: Callable[..., Any]
) -> None:
    node.attestor.error = PermissionDenied(Reason.CALLER_UNKNOWN, "process 1 ended")
    proxy = await connect("default")
    with pytest.raises(aio.AioRpcError) as refused:
        await proxy.receive()
    assert from_rpc_error(refused.value).reason is Reason.CALLER_UNKNOWN
    assert [(method.rpartition("/")[2], error.reason) for method, error in node.refusals] == [
        ("StreamSecrets", Reason.CALLER_UNKNOWN)
    ]
    assert not node.feed._watchers
    assert not node.registry.live()


async def test_who_comes_past_the_relay_is_refused(node: Node) -> None:
    web = entry("web")
    node.feed.publish(holdings([web], [held(web)]))
    async with aio.insecure_channel(node.server._relay.private_address) as channel:
        proxy = Proxy(channel, "default")
        with pytest.raises(aio.AioRpcError) as refused:
            await proxy.receive()
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


class TestDelta:
    async def test_only_what_changed_is_pushed_and_reported_as_far_as_it_came(
        self, node: Node, channel: aio.Channel
    ) -> None:
        web = entry("web")
        first = held(web)
        node.feed.publish(holdings([web], [first]))
        proxy = DeltaProxy(channel)
        await proxy.ask("default", "ROOTCA", node={"id": "sidecar"})
        secrets = await proxy.take()
        assert chain(secrets["default"]) == first.svid.chain_pem
        await eventually(lambda: node.states() == [{"default": REPORT.ACKNOWLEDGED, "ROOTCA": REPORT.ACKNOWLEDGED}])
        renewed = held(web)
        node.feed.publish(replace(node.feed.current, svids={"web": renewed}))
        assert (await proxy.receive()).keys() == {"default"}
        (report,) = node.registry.live()
        assert (report.protocol, report.node_id) == ("sds-delta", "sidecar")
        assert report.connected_at.ToDatetime(tzinfo=NOW.tzinfo) == NOW
        svid = {each.name: each for each in report.resources}["default"]
        assert (svid.state, svid.serial, svid.held_serial) == (REPORT.SENT, renewed.svid.serial, first.svid.serial)
        await proxy.ask(response_nonce=proxy.last.nonce, error_detail={"code": 13, "message": "KEY_VALUES_MISMATCH"})
        await eventually(lambda: node.states()[0]["default"] == REPORT.REFUSED)
        svid = {each.name: each for each in node.registry.live()[0].resources}["default"]
        assert (svid.refusal, svid.held_serial) == ("KEY_VALUES_MISMATCH", first.svid.serial)

    async def test_a_deleted_entry_is_told_and_disturbs_no_other_name(self, node: Node, channel: aio.Channel) -> None:
        web, job, bundle = entry("web"), entry("job"), own_bundle()
        of_web, of_job = held(web), held(job)
        node.feed.publish(holdings([web, job], [of_web, of_job], bundle))
        proxy = DeltaProxy(channel)
        await proxy.ask("spiffe://a.test/web", "spiffe://a.test/job")
        await proxy.take()
        node.feed.publish(holdings([job], [of_job], bundle))
        assert await proxy.take() == {}
        assert list(proxy.last.removed_resources) == ["spiffe://a.test/web"]

    async def test_nothing_is_told_as_removed_before_the_server_has_told_its_entries(
        self, node: Node, channel: aio.Channel
    ) -> None:
        """As after a restart of the agent, where a proxy that asks on demand would give up what it has."""
        node.feed.publish(replace(node.feed.current, bundles=holdings([]).bundles))
        proxy = DeltaProxy(channel)
        await proxy.ask("default")
        await eventually(lambda: node.states() == [{"default": REPORT.WAITING}])
        web = entry("web")
        node.feed.publish(holdings([web]))  # its certificate is on the way
        await asyncio.sleep(0.05)
        node.feed.publish(holdings([web], [held(web)]))
        assert (await proxy.take()).keys() == {"default"}
        assert proxy.last.nonce == "1"

    async def test_nothing_is_told_as_removed_while_the_caller_could_not_be_seen_whole(
        self, node: Node, channel: aio.Channel
    ) -> None:
        web = entry("web", Selector("unix", "user:web"))
        node.feed.publish(holdings([web], [held(web)]))
        node.attestor.is_complete = False
        proxy = DeltaProxy(channel)
        await proxy.ask("default")
        await eventually(lambda: node.states() == [{"default": REPORT.WAITING}])
        node.attestor.seen, node.attestor.is_complete = {Selector("unix", "user:web")}, True
        await node.clock.advance(LOOK_AGAIN)
        assert (await proxy.take()).keys() == {"default"}
        assert proxy.last.nonce == "1"

    async def test_a_proxy_that_comes_back_gets_only_what_is_new_to_it(self, node: Node, channel: aio.Channel) -> None:
        web = entry("web")
        node.feed.publish(holdings([web], [held(web)]))
        before = DeltaProxy(channel)
        await before.ask("default", "ROOTCA")
        await before.take()
        versions = {each.name: each.version for each in before.last.resources}
        before.call.cancel()
        await eventually(lambda: not node.registry.live())
        same = DeltaProxy(channel)
        await same.ask("default", "ROOTCA", initial_resource_versions=versions)
        await eventually(lambda: node.states() == [{"default": REPORT.ACKNOWLEDGED, "ROOTCA": REPORT.ACKNOWLEDGED}])
        node.feed.publish(replace(node.feed.current, svids={"web": held(web)}))
        assert (await same.take()).keys() == {"default"}
        other = DeltaProxy(channel)
        await other.ask("default", "ROOTCA", initial_resource_versions=versions | {"ROOTCA": "old"})
        assert (await other.take()).keys() == {"default", "ROOTCA"}


class TestFetch:
    async def test_answers_with_what_is_there_now(self, node: Node, channel: aio.Channel) -> None:
        web = entry("web")
        node.feed.publish(holdings([web], [held(web)]))
        stub = sds_pb2_grpc.SecretDiscoveryServiceStub(channel)

        async def fetch(*names: str) -> tuple[set[str], str]:
            answer = await stub.FetchSecrets(discovery_pb2.DiscoveryRequest(resource_names=names))
            assert answer.type_url == SECRET_TYPE_URL
            return {unpacked(each).name for each in answer.resources}, answer.version_info

        names, version = await fetch("default", "unknown", "ROOTCA")
        assert names == {"default", "ROOTCA"}
        assert await fetch("ROOTCA", "default") == (names, version)
        everything = {"default", "spiffe://a.test/web", "ROOTCA", "ALL", "spiffe://a.test"}
        assert (await fetch())[0] == (await fetch("*"))[0] == everything
        assert (await fetch("unknown"))[0] == set()
        node.feed.publish(replace(node.feed.current, svids={"web": held(web)}))
        assert (await fetch("default", "ROOTCA"))[1] != version
        assert not node.registry.live()

    async def test_a_caller_without_an_entry_gets_nothing(self, node: Node, channel: aio.Channel) -> None:
        other = entry("other", Selector("unix", "uid:2"))
        node.feed.publish(holdings([other], [held(other)]))
        stub = sds_pb2_grpc.SecretDiscoveryServiceStub(channel)
        assert not (await stub.FetchSecrets(discovery_pb2.DiscoveryRequest())).resources

    async def test_another_type_is_refused(self, channel: aio.Channel) -> None:
        stub = sds_pb2_grpc.SecretDiscoveryServiceStub(channel)
        with pytest.raises(aio.AioRpcError) as refused:
            await stub.FetchSecrets(discovery_pb2.DiscoveryRequest(type_url="x"))
        assert from_rpc_error(refused.value).reason is Reason.REQUEST_MALFORMED


async def test_a_request_that_is_no_message_ends_only_its_own_stream(
    node: Node, channel: aio.Channel, connect: Callable[..., Any]
) -> None:
    web = entry("web")
    node.feed.publish(holdings([web], [held(web)]))
    garbage = channel.stream_stream(f"/{SDS}/StreamSecrets")()
    await garbage.write(b"\xff\xff\xff")
    with pytest.raises(aio.AioRpcError):
        await asyncio.wait_for(garbage.read(), 10)
    assert await (await connect("default")).take()
    await eventually(lambda: len(node.registry.live()) == 1)


@pytest.mark.parametrize("service", ["", SDS])
async def test_health_is_served(channel: aio.Channel, service: str) -> None:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_lists_the_services(channel: aio.Channel) -> None:
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    names = {service.name for service in (await call.read()).list_services_response.service}
    assert {SDS, "grpc.health.v1.Health"} <= names


async def test_closing_ends_streams_and_removes_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    node = Node(path, FakeAttestor())
    await node.server.start()
    async with aio.insecure_channel(node.address) as channel:
        proxy = Proxy(channel, "default")
        await proxy.ask()
        await eventually(lambda: len(node.registry.live()) == 1)
        await asyncio.wait_for(node.server.close(grace=0), 10)
        assert await proxy.call.read() is aio.EOF
    assert not path.exists()
    await eventually(lambda: not node.feed._watchers and not node.registry.live())


async def test_a_start_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    path.write_text("no socket")
    node = Node(path, FakeAttestor())
    with pytest.raises(CitadelError, match="not a socket"):
        await node.server.start()
    assert path.read_text() == "no socket"
    assert list((tmp_path / "relay").iterdir()) == []


class TestWhatIsHeldAfterwards:
    @pytest.mark.invariant(4)
    async def test_who_closed_its_stream_and_its_connection_is_told_until_it_is_back(
        self, node: Node, connect: Callable[..., Any]
    ) -> None:
        web = entry("web")
        node.feed.publish(holdings([web], [held(web)]))
        channel = aio.insecure_channel(node.address, options=[("grpc.use_local_subchannel_pool", 1)])
        proxy = Proxy(channel, "default")
        await proxy.ask()
        await proxy.take()
        await eventually(lambda: node.states() == [{"default": REPORT.ACKNOWLEDGED}])
        await channel.close()
        del proxy, channel  # gRPC hangs up when nobody holds a call of the connection any more
        await eventually(lambda: not node.registry.live() and not node.server._relay._callers)
        (left,) = node.registry.snapshot()
        assert (left.pid, left.closed, left.HasField("closed_for")) == (os.getpid(), True, True)
        assert left.resources[0].held_serial == node.feed.current.svids["web"].svid.serial
        node.registry.take_changed()
        back = await connect("default")
        await back.take()
        await eventually(lambda: node.states() == [{"default": REPORT.ACKNOWLEDGED}])
        assert left.stream_id in [each.stream_id for each in node.registry.take_changed() if each.closed]
        assert [each.closed for each in node.registry.snapshot()] == [False]

    @pytest.mark.invariant(4)
    async def test_who_fetched_without_a_stream_is_told_once_however_often_it_fetches(self, node: Node) -> None:
        web = entry("web")
        node.feed.publish(holdings([web], [held(web)]))
        async with aio.insecure_channel(node.address) as channel:
            stub = sds_pb2_grpc.SecretDiscoveryServiceStub(channel)
            for _ in range(3):
                await stub.FetchSecrets(discovery_pb2.DiscoveryRequest(resource_names=["default", "unknown"]))
            (left,) = node.registry.snapshot()
        assert left.HasField("closed_for")
        assert [(each.name, each.held_serial) for each in left.resources] == [
            ("default", node.feed.current.svids["web"].svid.serial)
        ]
        await node.server.close(grace=0)
        assert node.registry.snapshot() == [], "with the server all processes are let go"
