"""How often one address may ask at the bootstrap door."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ca.agents.joining import Joining
from ca.agents.rejoining import Rejoining
from ca.agents.x509pop import X509PopJoining
from ca.api.bootstrap import BootstrapService
from ca.api.gates import address
from ca.kubernetes.joining import KubernetesJoining
from citadel._wire import bootstrap_pb2 as pb
from citadel.bundle import TrustBundle
from citadel.config.types import HostPort
from citadel.errors import Reason, ResourceExhausted, Unauthenticated
from citadel.limiter import RateLimiter
from citadel.tally import Tally
from tests.clock import FakeClock
from tests.unit.ca.values import A_TEST


class KnowsNoToken:
    async def join(self, *_: object, **__: object) -> None:
        raise Unauthenticated(Reason.TOKEN_UNKNOWN, "there is no such join token")


class NoAuthorities:
    """A server of which nothing is known yet."""

    def joining_bundle(self) -> TrustBundle:
        return TrustBundle(trust_domain=A_TEST)

    def successions(self) -> tuple[()]:
        return ()

    def issuers(self) -> tuple[()]:
        return ()


def service(clock: FakeClock, *, joins_per_second: float) -> BootstrapService:
    return BootstrapService(
        authorities=NoAuthorities(),
        joining=cast("Joining", KnowsNoToken()),
        x509pop=cast("X509PopJoining", KnowsNoToken()),
        rejoining=cast("Rejoining", KnowsNoToken()),
        kubernetes=cast("KubernetesJoining", KnowsNoToken()),
        limiter=RateLimiter(clock=clock, per_second=joins_per_second),
        tally=Tally(clock=clock),
        agent_api=HostPort("127.0.0.1", 1),
    )


def caller(port: int, host: str = "10.0.0.7") -> Any:
    return SimpleNamespace(peer=lambda: f"ipv4:{host}:{port}")


async def refusal(service: BootstrapService, context: Any) -> Reason:
    with pytest.raises((Unauthenticated, ResourceExhausted)) as refused:
        await service.Join(pb.JoinRequest(token="t"), context)
    return refused.value.reason


@pytest.mark.parametrize("rate", [1.0, 0.1])
async def test_a_slow_limit_leaves_room_to_read_the_bundle_and_join(rate: float) -> None:
    clock = FakeClock()
    door = service(clock, joins_per_second=rate)
    for port in range(3):  # each try: the bundle first, then the token, from another port
        await door.GetBundle(pb.GetBundleRequest(), caller(port))
        assert await refusal(door, caller(port)) is Reason.TOKEN_UNKNOWN
        await door.GetBundle(pb.GetBundleRequest(), caller(port))
        assert await refusal(door, caller(port)) is Reason.TOO_MANY_REQUESTS
        await clock.advance(1 / rate)


async def test_reading_the_bundle_is_limited_for_each_address() -> None:
    door = service(FakeClock(), joins_per_second=1)
    for port in range(50):
        await door.GetBundle(pb.GetBundleRequest(), caller(port))
    with pytest.raises(ResourceExhausted):
        await door.GetBundle(pb.GetBundleRequest(), caller(99))
    await door.GetBundle(pb.GetBundleRequest(), caller(1, host="10.0.0.8"))


@pytest.mark.parametrize(
    ("peer", "counted"),
    [
        ("ipv4:10.0.0.7:41234", "ipv4:10.0.0.7"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:41234", "ipv6:2001:db8:1:2::/64"),
        ("ipv6:%5B2001:db8:1:2::1%5D:1", "ipv6:2001:db8:1:2::/64"),
        ("ipv6:%5B::1%5D:1", "ipv6:::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", "ipv6:fe80::/64"),
        ("ipv6:%5B::ffff:10.0.0.7%5D:1", "ipv4:10.0.0.7"),
    ],
)
def test_a_host_with_a_network_of_its_own_counts_once(peer: str, counted: str) -> None:
    assert address(SimpleNamespace(peer=lambda: peer)) == counted
