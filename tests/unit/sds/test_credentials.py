"""Credentials of gateways on every kind of stream, and what the agent keeps of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.secret.v3 import sds_pb2_grpc
from grpc import aio

from citadel._wire import agent_api_pb2 as pb
from citadel._wire import types_pb2
from citadel.errors import InvalidArgument, Reason
from sds.credentials.book import KEPT, MOST, MOST_OF_ONE, CredentialBook
from sds.credentials.received import received
from sds.holdings import HoldingsFeed
from sds.serve.resource import Resource
from tests.certificates import NOW
from tests.clock import FakeClock
from tests.secrets_of_gateways import CA, crl, key_pem, served
from tests.unit.sds.holding import entry, held, holdings
from tests.unit.sds.node import DeltaProxy, FakeAttestor, Node, Proxy, chain, eventually

WEB, CERT = "kubernetes://web", served(serial=0xABC)
GATEWAY = entry("gw", origin="k8s:main/shop/gw-1")
KEY = ("gw", WEB)
REPORT = types_pb2.ResourceReport


def resource(signed: Any = CERT, name: str = WEB) -> Resource:
    return received(name, pb.Credential(certificate_chain=signed.pem, private_key=key_pem(signed)))


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path / "agent.sock", FakeAttestor())
    node.feed.publish(holdings([GATEWAY], [held(GATEWAY)]))
    await node.server.start()
    yield node
    await node.server.close(grace=0)


@pytest.fixture
async def channel(node: Node) -> AsyncIterator[aio.Channel]:
    async with aio.insecure_channel(node.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield channel


async def proxy(channel: aio.Channel, *names: str) -> Proxy:
    asked = Proxy(channel, *names)
    await asked.ask(node={"id": "gateway"})
    return asked


def fetching(channel: aio.Channel, *names: str) -> Any:
    request = discovery_pb2.DiscoveryRequest(resource_names=names)
    return asyncio.ensure_future(sds_pb2_grpc.SecretDiscoveryServiceStub(channel).FetchSecrets(request, timeout=10))


def words(node: Node) -> dict[str, str]:
    return {each.name: each.refusal for report in node.registry.live() for each in report.resources}


class TestStreams:
    async def test_it_is_asked_for_waited_for_and_pushed_whenever_it_changes(
        self, node: Node, channel: aio.Channel
    ) -> None:
        asked = await proxy(channel, WEB, "default")
        assert (await asked.take()).keys() == {"default"}
        assert node.credentials.wanted == (KEY,)
        node.credentials.put(KEY, resource(), behind="")
        found = (await asked.take())[WEB]
        assert chain(found) == CERT.pem
        assert found.tls_certificate.private_key.inline_bytes == key_pem(CERT)
        await eventually(lambda: node.states() == [{WEB: REPORT.ACKNOWLEDGED, "default": REPORT.ACKNOWLEDGED}])
        (report,) = (each for each in node.registry.live()[0].resources if each.name == WEB)
        assert report.serial == "0abc"  # whole bytes, as Envoy and the ledger write it
        assert (report.spiffe_id, report.trust_domain, report.issuer_key_id) == ("", "", b"")
        renewed = served()
        node.credentials.put(KEY, resource(renewed), behind="")
        assert chain((await asked.take())[WEB]) == renewed.pem

    @pytest.mark.invariant(5)
    async def test_what_is_refused_later_keeps_what_is_there_and_says_why(
        self, node: Node, channel: aio.Channel
    ) -> None:
        asked = await proxy(channel, WEB)
        await eventually(lambda: node.credentials.wanted == (KEY,))
        node.credentials.refuse(KEY, "there is no secret web (credential_unknown)")
        await eventually(lambda: words(node) == {WEB: "there is no secret web (credential_unknown)"})
        assert node.states() == [{WEB: REPORT.WAITING}]
        node.credentials.put(KEY, resource(), behind="tls.key is encrypted (credential_invalid)")
        await asked.take()
        await eventually(lambda: node.states() == [{WEB: REPORT.ACKNOWLEDGED}])
        assert words(node) == {WEB: "tls.key is encrypted (credential_invalid)"}
        node.credentials.refuse(KEY, "gone")
        again = await proxy(channel, WEB)
        assert chain((await again.take())[WEB]) == CERT.pem

    async def test_delta_waits_in_silence_and_is_told_what_it_may_have_no_more(
        self, node: Node, channel: aio.Channel
    ) -> None:
        asked = DeltaProxy(channel)
        await asked.ask(WEB, "default", "kubernetes://-bad-")
        assert (await asked.take()).keys() == {"default"}
        assert list(asked.last.removed_resources) == ["kubernetes://-bad-"]
        node.credentials.put(KEY, resource(), behind="")
        assert (await asked.take()).keys() == {WEB}
        node.credentials.withdraw(KEY, "may not (credential_not_allowed)")
        assert (await asked.take()).keys() == set()
        assert list(asked.last.removed_resources) == [WEB]
        node.credentials.put(KEY, resource(), behind="")
        assert (await asked.take()).keys() == {WEB}

    async def test_a_single_fetch_waits_for_the_first_word_of_the_server(
        self, node: Node, channel: aio.Channel
    ) -> None:
        answer = fetching(channel, WEB, "default")
        await eventually(lambda: node.credentials.wanted == (KEY,))
        assert not answer.done()
        node.credentials.put(KEY, resource(), behind="")
        assert len((await answer).resources) == 2
        assert len((await fetching(channel, WEB)).resources) == 1  # it was kept
        answer = fetching(channel, "kubernetes://none", WEB)
        await eventually(lambda: len(node.credentials.wanted) == 2)
        node.credentials.refuse(("gw", "kubernetes://none"), "there is none")
        assert len((await answer).resources) == 1

    async def test_a_fetch_waits_no_longer_than_some_seconds(self, node: Node, channel: aio.Channel) -> None:
        answer = fetching(channel, WEB, "default")
        await eventually(lambda: node.credentials.wanted == (KEY,) and node.clock.is_awaited)
        await node.clock.advance(5)
        assert len((await answer).resources) == 1

    @pytest.mark.invariant(8)
    async def test_a_bad_name_and_one_that_is_not_allowed_are_counted_once_and_withhold_nothing(
        self, node: Node, channel: aio.Channel
    ) -> None:
        asked = await proxy(channel, "kubernetes://a/b/c", WEB)
        await eventually(lambda: node.credentials.wanted == (KEY,))
        node.credentials.put(KEY, resource(), behind="")
        assert (await asked.take()).keys() == {WEB}
        node.credentials.put(KEY, resource(served()), behind="")
        await asked.take()
        assert [error.reason for _, error in node.refusals] == [Reason.CREDENTIAL_UNKNOWN]

    async def test_a_caller_that_is_no_pod_gets_none(self, node: Node, channel: aio.Channel) -> None:
        mine = entry("web")
        node.feed.publish(holdings([mine], [held(mine)]))
        asked = await proxy(channel, WEB, "default")
        assert (await asked.take()).keys() == {"default"}
        assert node.credentials.wanted == ()
        assert [error.reason for _, error in node.refusals] == [Reason.CREDENTIAL_NOT_ALLOWED]
        await eventually(lambda: "credential_not_allowed" in words(node)[WEB])

    async def test_before_entries_are_told_nobody_is_refused(self, tmp_path: Path) -> None:
        node = Node(tmp_path / "late.sock", FakeAttestor())
        await node.server.start()
        async with aio.insecure_channel(node.address) as channel:
            asked = await proxy(channel, WEB)
            await eventually(lambda: node.states() == [{WEB: REPORT.WAITING}])
            assert node.refusals == []
            node.feed.publish(holdings([GATEWAY], [held(GATEWAY)]))
            await eventually(lambda: node.credentials.wanted == (KEY,))
            node.credentials.put(KEY, resource(), behind="")
            assert (await asked.take()).keys() == {WEB}
        await node.server.close(grace=0)

    async def test_the_oldest_entry_of_a_pod_says_for_whom(self, node: Node, channel: aio.Channel) -> None:
        node.feed.publish(holdings([entry("by-hand"), GATEWAY, entry("gx", origin="k8s:main/shop/gw-2")]))
        await proxy(channel, WEB)
        await eventually(lambda: node.credentials.wanted == (KEY,))

    async def test_what_is_asked_for_no_more_is_given_up(self, node: Node, channel: aio.Channel) -> None:
        asked = await proxy(channel, WEB)
        await eventually(lambda: node.credentials.wanted == (KEY,))
        running = asyncio.create_task(node.credentials.run())
        await asked.ask(resource_names=["default"])
        await asked.receive()
        await node.clock.advance(KEPT - 60)
        assert node.credentials.wanted == (KEY,)
        await node.clock.advance(120)
        assert node.credentials.wanted == ()
        running.cancel()


class TestBook:
    @pytest.fixture
    def book(self) -> CredentialBook:
        self.refusals: list[Any] = []
        self.feed, self.clock = HoldingsFeed(), FakeClock(NOW)
        self.feed.publish(holdings([GATEWAY]))
        return CredentialBook(feed=self.feed, clock=self.clock, on_refusal=lambda _, error: self.refusals.append(error))

    def ask(self, book: CredentialBook, holder: asyncio.Event, *names: str, of: Any = GATEWAY) -> Any:
        return book.ask(holder, of, names, is_known=True)

    async def test_with_its_entry_all_is_forgotten(self, book: CredentialBook) -> None:
        holder = asyncio.Event()
        self.ask(book, holder, WEB)
        book.put(KEY, resource(), behind="")
        running = asyncio.create_task(book.run())
        await self.clock.advance(1)
        holder.clear()
        self.feed.publish(holdings([]))
        await self.clock.advance(1)
        assert book.wanted == ()
        assert holder.is_set()
        book.put(KEY, resource(), behind="")  # a late word of the server
        assert book.wanted == ()
        running.cancel()

    async def test_one_gateway_and_all_of_them_have_limits_and_nobody_loses_what_it_has(
        self, book: CredentialBook
    ) -> None:
        first = asyncio.Event()
        names = [f"kubernetes://n{number}" for number in range(MOST_OF_ONE + 1)]
        known = self.ask(book, first, *names)
        assert [name for name, each in known.items() if each.is_ruled_out] == names[-1:]
        assert [error.reason for error in self.refusals] == [Reason.TOO_MANY_REQUESTS]
        for name in names[:-1]:
            book.put(("gw", name), resource(), behind="")
        for number in range(MOST // MOST_OF_ONE):
            self.ask(book, asyncio.Event(), *names[:-1], of=entry(f"g{number}", origin="k8s:main/shop/x"))
        assert len(book.wanted) == MOST
        assert {key for key in book.wanted if key[0] == "gw"} == {("gw", name) for name in names[:-1]}
        book.leave(first)  # what nobody asks for now makes room
        assert not self.ask(book, asyncio.Event(), WEB)[WEB].is_ruled_out
        assert len(book.wanted) == MOST

    @pytest.mark.parametrize("namespace", ["k8s:main/tenant", "k8s:main/shop"])
    async def test_pods_that_may_have_nothing_leave_room_for_a_gateway(
        self, book: CredentialBook, namespace: str
    ) -> None:
        names = [f"kubernetes://n{number}" for number in range(MOST_OF_ONE)]
        pods = [(entry(f"p{number}", origin=f"{namespace}/p-{number}"), asyncio.Event()) for number in range(5)]
        for pod, holder in pods:
            self.ask(book, holder, *names, of=pod)
        for key in book.wanted:
            book.withdraw(key, "may not (credential_not_allowed)")
        assert len(book.wanted) == MOST
        gateway = asyncio.Event()
        for name in names[:100]:
            assert self.ask(book, gateway, *names[:100])[name].is_pending
            book.put(("gw", name), resource(), behind="")
        for pod, holder in pods * 3:  # they ask again, and get no more than there is between them
            holder.clear()
            self.ask(book, holder, *names, of=pod)
        assert not any(holder.is_set() for _, holder in pods)
        assert all(each.resource for each in self.ask(book, gateway, *names[:100]).values())
        assert len(book.wanted) == MOST

    async def test_who_was_turned_away_asks_again_and_who_had_to_go_is_told(self, book: CredentialBook) -> None:
        names = [f"kubernetes://n{number}" for number in range(MOST_OF_ONE)]
        holders = [asyncio.Event() for _ in range(5)]
        for number, holder in enumerate(holders):
            self.ask(book, holder, *names, of=entry(f"p{number}", origin=f"k8s:main/n{number}/p"))
        assert [holder.is_set() for holder in holders] == [True] * 4 + [False]
        known = self.ask(book, holders[0], *names, of=entry("p0", origin="k8s:main/n0/p"))
        assert "1024 credentials of this node are wanted already" in known[names[-1]].why
        book.leave(holders[1])
        running = asyncio.create_task(book.run())
        self.feed.publish(holdings([entry(f"p{number}", origin=f"k8s:main/n{number}/p") for number in range(5)]))
        holders[0].clear()
        await self.clock.advance(31)
        assert holders[0].is_set()
        assert self.ask(book, holders[0], names[-1], of=entry("p0", origin="k8s:main/n0/p"))[names[-1]].is_pending
        running.cancel()

    async def test_those_turned_away_are_called_some_at_a_time_and_not_at_every_change(
        self, book: CredentialBook
    ) -> None:
        names = [f"kubernetes://n{number}" for number in range(MOST_OF_ONE + 1)]
        self.ask(book, asyncio.Event(), *names[:-1])
        holders = [asyncio.Event() for _ in range(200)]
        for holder in holders:
            self.ask(book, holder, names[-1])
        running = asyncio.create_task(book.run())
        called = []
        for change in range(3):
            self.feed.publish(holdings([GATEWAY]))
            await self.clock.advance(9)
            assert not any(holder.is_set() for holder in holders), change
        waiting = asyncio.create_task(self.clock.advance(30))
        while not all(holder.is_set() for holder in holders):
            await asyncio.sleep(0)
            called.append(sum(holder.is_set() for holder in holders))
        assert max(after - before for before, after in pairwise([0, *called])) <= 32
        await waiting
        running.cancel()

    async def test_that_the_server_is_away_is_said_of_what_was_not_heard_of(self, book: CredentialBook) -> None:
        holder = asyncio.Event()
        self.ask(book, holder, WEB)
        book.cannot_ask("the server is away")
        assert holder.is_set()
        assert self.ask(book, holder, WEB)[WEB].why == "the server is away"
        book.put(KEY, resource(), behind="")
        assert self.ask(book, holder, WEB)[WEB].why == ""


class TestReceived:
    def test_a_certificate_and_authorities(self) -> None:
        assert resource().version != resource(served()).version
        assert resource().version == resource().version
        context = received("kubernetes://web-cacert", pb.Credential(trusted_ca=CA.pem, crl=crl(CA)))
        assert "BEGIN" not in repr(context) + repr(resource())

    @pytest.mark.invariant(9)
    @pytest.mark.parametrize(
        ("name", "credential"),
        [
            (WEB, pb.Credential()),
            (WEB, pb.Credential(certificate_chain=CERT.pem)),
            (WEB, pb.Credential(certificate_chain=CERT.pem, private_key=b"x")),
            (WEB, pb.Credential(certificate_chain=CERT.pem, private_key=key_pem(served()))),
            (WEB, pb.Credential(trusted_ca=CA.pem)),
            ("kubernetes://web-cacert", pb.Credential(certificate_chain=CERT.pem, private_key=key_pem(CERT))),
            ("kubernetes://web-cacert", pb.Credential(trusted_ca=b"x")),
        ],
    )
    def test_what_no_envoy_is_given(self, name: str, credential: pb.Credential) -> None:
        with pytest.raises(InvalidArgument) as refused:
            received(name, credential)
        assert refused.value.reason is Reason.CREDENTIAL_INVALID
