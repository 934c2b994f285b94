"""Two trust domains under one root: whoever keeps the CA of one is no server of the other, at any door."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from random import SystemRandom

import pytest
from cryptography import x509
from grpc import aio

from citadel._wire import agent_api_pb2 as pb
from citadel.clock import SystemClock
from citadel.config.types import HostPort
from citadel.errors import CitadelError, Reason, Unauthenticated, Unavailable
from citadel.join_string import JoinString
from citadel.spiffe import TrustDomain
from sds.holdings import HoldingsFeed
from sds.keep.keeper import RenewalProgress
from sds.keep.keys import new_key
from sds.keep.orders import OrderBook
from sds.link.bootstrap import Bootstrap, Invitation
from sds.link.identity import AgentIdentity, OwnIdentity
from sds.link.link import Heeding, Link, Telling
from sds.link.servers import Servers
from tests import certificates
from tests.unit.sds.fake_authority import A_TEST, FakeAuthority
from tests.unit.sds.fake_server import (
    AGENT,
    QUICK,
    FakeAgentApi,
    FakeBootstrap,
    FakeReports,
    make_identity,
    now,
    own_identity,
    serve_agents,
    serve_bootstrap,
)

B_TEST = TrustDomain("b.test")


class Clusters:
    """One of a.test and one of b.test. The root's keeper confines each to its own."""

    def __init__(self) -> None:
        dates = {"not_before": now() - timedelta(hours=1), "not_after": now() + timedelta(days=30)}
        self.root = certificates.root("shared", uri=None, **dates)
        self.a, self.b = self.of(A_TEST, "a"), self.of(B_TEST, "b")

    def of(self, trust_domain: TrustDomain, name: str) -> FakeAuthority:
        return FakeAuthority(now(), name, trust_domain=trust_domain, shared_root=self.root)


@pytest.fixture
def under() -> Clusters:
    return Clusters()


class TestJoiningAndComingBack:
    @staticmethod
    def bootstrap() -> Bootstrap:
        return Bootstrap(trust_domain=A_TEST, reconnect=QUICK, clock=SystemClock())

    @staticmethod
    def invitations(under: Clusters, address: HostPort) -> list[Invitation]:
        pinned = Invitation.of(
            JoinString(
                address=address, trust_domain=A_TEST, bundle_sha256=under.a.bundle.x509_digest(), token="a-token"
            )
        )
        identity = make_identity(under.a, address)
        back = Invitation(
            trust_domain=A_TEST,
            servers=(address,),
            credential=pinned.credential,
            known_bundle=identity.bundle,
            own_chain=identity.svid.chain,
        )
        return [pinned, back]

    async def test_the_right_server_lets_in(self, under: Clusters) -> None:
        service = FakeBootstrap(under.a)
        service.issuers = [b"no certificate", under.b.issuer.der, under.a.issuer.der]
        server, address = await serve_bootstrap(service, under.a)
        for invitation in self.invitations(under, address):
            assert (await self.bootstrap().join(invitation, key=new_key("ec-p256"))).svid.spiffe_id == AGENT
        await server.stop(None)

    @pytest.mark.invariant(1)
    @pytest.mark.parametrize("shown", ["theirs", "ours", "both", "none"])
    async def test_that_of_the_other_trust_domain_is_shown_nothing(self, under: Clusters, shown: str) -> None:
        theirs, ours = under.b.issuer.der, under.a.issuer.der
        service = FakeBootstrap(under.b)
        service.bundle = under.a.bundle
        service.issuers = {"theirs": [theirs], "ours": [ours], "both": [theirs, ours], "none": []}[shown]
        server, address = await serve_bootstrap(service, under.b)
        for invitation in self.invitations(under, address):
            with pytest.raises(CitadelError) as refused:
                await self.bootstrap().join(invitation, key=new_key("ec-p256"))
            assert refused.value.reason in (Reason.BUNDLE_MISMATCH, Reason.SERVER_UNREACHABLE)
        assert service.tokens == []
        await server.stop(None)

    async def test_a_server_that_shows_no_authority_of_the_trust_domain_is_told_from_one_that_is_away(
        self, under: Clusters
    ) -> None:
        service = FakeBootstrap(under.a)
        service.issuers = []
        server, address = await serve_bootstrap(service, under.a)
        joining, back = self.invitations(under, address)
        with pytest.raises(Unauthenticated, match=r"shows no issuing authority of a\.test"):
            await self.bootstrap().join(joining, key=new_key("ec-p256"))
        # Whoever was let in before knows who signed its own SVID.
        assert (await self.bootstrap().join(back, key=new_key("ec-p256"))).svid.spiffe_id == AGENT
        await server.stop(None)


class Hurried(SystemClock):
    """Waits for nothing long."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.02))


class Agent:
    """A link of an agent of a.test."""

    def __init__(self, folder: Path, identity: AgentIdentity) -> None:
        self.own: OwnIdentity = own_identity(folder, identity)
        self.shown: list[FakeAuthority] = []
        self.looks = 0
        feed, orders = HoldingsFeed(), OrderBook()
        self.link = Link(
            identity=self.own,
            servers=Servers(identity=self.own, show=self._show, clock=Hurried(), random=SystemRandom()),
            hello=pb.Hello,
            feed=feed,
            telling=Telling(reports=FakeReports(), progress=RenewalProgress(orders, feed)),
            heeding=Heeding(
                on_up=lambda: None, on_order=orders.add, on_revocations=self._nothing, on_roots=lambda: None
            ),
            reconnect=QUICK,
            clock=SystemClock(),
        )

    async def _show(self, _identity: AgentIdentity) -> list[x509.Certificate]:
        self.looks += 1
        return [each.issuer.certificate for each in self.shown]

    async def _nothing(self) -> None: ...

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.link.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)


class TestTheLink:
    @pytest.mark.invariant(1)
    async def test_never_speaks_to_the_server_of_the_other_trust_domain(self, under: Clusters, tmp_path: Path) -> None:
        posing = FakeAgentApi(under.b)
        server, address = await serve_agents(posing, under.b)
        agent = Agent(tmp_path, make_identity(under.a, address))
        agent.shown = [under.b, under.a]
        async with agent.running():
            await agent.until(lambda: agent.looks > 1)
            with pytest.raises(aio.AioRpcError):
                await agent.link.api.RenewAgent(pb.RenewAgentRequest(), timeout=1)
        assert posing.attempts == 0
        assert posing.renewals == []
        await server.stop(None)

    async def test_finds_its_server_under_an_authority_that_signed_after_it_was_connected(
        self, under: Clusters, tmp_path: Path
    ) -> None:
        api = FakeAgentApi(under.a)
        server, address = await serve_agents(api, under.a)
        agent = Agent(tmp_path, make_identity(under.a, address))
        async with agent.running():
            await agent.until(lambda: agent.link.is_up)
            await server.stop(None)
            following = under.of(A_TEST, "next")
            agent.shown = [under.b, following]
            server, _ = await serve_agents(api, following, address.port)
            await agent.until(lambda: api.attempts > 1 and agent.link.is_up)
        await server.stop(None)

    async def test_finds_it_after_authorities_came_and_went_while_it_was_away(
        self, under: Clusters, tmp_path: Path
    ) -> None:
        third = under.of(A_TEST, "third")
        server, address = await serve_agents(FakeAgentApi(third), third)
        agent = Agent(tmp_path, make_identity(under.a, address))
        agent.shown = [third]
        async with agent.running():
            await agent.until(lambda: agent.link.is_up)
        await server.stop(None)

    async def test_is_not_led_away_from_what_it_knows_by_who_shows_less(self, under: Clusters, tmp_path: Path) -> None:
        following = under.of(A_TEST, "next")
        api = FakeAgentApi(following)
        server, address = await serve_agents(api, following)
        agent = Agent(tmp_path, make_identity(under.a, address))
        agent.shown = [following]
        async with agent.running():
            await agent.until(lambda: agent.link.is_up)
            agent.shown, before = [under.b], agent.looks
            await server.stop(None)
            await agent.until(lambda: agent.looks > before)
            server, _ = await serve_agents(api, following, address.port)
            await agent.until(lambda: agent.link.is_up)
        await server.stop(None)

    async def test_a_start_without_any_authority_at_hand_waits_for_one(self, under: Clusters, tmp_path: Path) -> None:
        gone = FakeAuthority(now(), "gone", shared_root=Clusters().root)
        server, address = await serve_agents(FakeAgentApi(under.a), under.a, roots=(under.a, gone))
        identity = make_identity(gone, address)
        agent = Agent(
            tmp_path,
            AgentIdentity(
                svid=identity.svid,
                key=identity.key,
                bundle=under.a.bundle,
                agent_api=address,
                bootstrap=address,
            ),
        )
        async with agent.running():
            await agent.until(lambda: agent.looks > 0)
            assert not agent.link.is_up
            agent.shown = [under.a]
            await agent.until(lambda: agent.link.is_up)
        await server.stop(None)


async def test_every_server_is_asked_and_those_away_show_none(under: Clusters) -> None:
    service = FakeBootstrap(under.a)
    server, address = await serve_bootstrap(service, under.a)
    bootstrap = TestJoiningAndComingBack.bootstrap()
    assert await bootstrap.issuers_shown_by([HostPort("127.0.0.1", 1), address]) == [under.a.issuer.certificate]
    await server.stop(None)
    assert await bootstrap.issuers_shown_by([address]) == []
    with pytest.raises(Unavailable):
        await bootstrap.shown_by([address])
