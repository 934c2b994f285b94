"""Revocation from the server's Update to the handshake that real Envoys refuse, with both kinds of context."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest

from citadel._wire import types_pb2
from cli.demo.plan import Sidecar
from tests import certificates
from tests.integration.meshes import until
from tests.integration.nodes import LiveNode, live_node
from tests.revocations import list_message, revocation_list, revocation_set, set_message, signed_list
from tests.unit.sds.fake_authority import FakeAuthority
from tests.unit.sds.fake_server import now

pytestmark = pytest.mark.integration

AS_ROOT = os.geteuid() == 0
HOUR = timedelta(hours=1)


def lists_of(authority: FakeAuthority, *revoked: int) -> types_pb2.RevocationSet:
    """What a server pushes: of the root, of the issuing authority, and of one that has ended since it signed."""
    ended = certificates.intermediate(
        authority.root, "ended", str(authority.bundle.trust_domain.id), not_before=now() - HOUR, not_after=now()
    )
    message = set_message(revocation_set(authority.root, authority.issuer, revoked=revoked))
    message.lists.extend(set_message(revocation_set(ended)).lists)
    return message


@pytest.fixture(params=["plain context", "SPIFFE validator"])
async def node(request: pytest.FixtureRequest) -> AsyncIterator[LiveNode]:
    """Serving, with empty lists."""
    federates = request.param == "SPIFFE validator"
    started = live_node(federates=federates, as_root=AS_ROOT, revocations=lists_of)
    async with started as node, node.agent(), node.envoys():
        yield node


async def refused_after(node: LiveNode, caller: Sidecar, begun: float) -> float:
    """Seconds from `begun` to the first request that is refused."""
    async with asyncio.timeout(10):
        while await node.calls(caller):
            pass
    return time.monotonic() - begun


@pytest.mark.parametrize("whose", ["caller", "server"])
async def test_the_next_handshake_with_what_was_revoked_is_refused_within_a_second(
    node: LiveNode, whose: str, record_property: Callable[[str, object], None]
) -> None:
    revoked = node.plan.productpage if whose == "caller" else node.plan.reviews
    refusing = node.plan.reviews if whose == "caller" else node.plan.productpage
    assert await node.calls(node.plan.productpage)
    assert await node.calls(node.plan.stranger)
    node.api.barred.add(revoked.name)
    lists = lists_of(node.authority, await node.serial_of(revoked))
    begun = time.monotonic()
    _, seconds = await asyncio.gather(node.push(lists), refused_after(node, node.plan.productpage, begun))
    record_property("milliseconds", round(seconds * 1000))
    assert seconds < 1.0
    for _ in range(20):
        assert not await node.calls(node.plan.productpage)
        assert await node.calls(node.plan.stranger) is (whose == "caller"), "who was not revoked goes on"
    assert await node.envoy(refusing).stat("ssl.fail_verify_error") > 0


@pytest.mark.invariant(5)
async def test_who_was_revoked_and_may_have_another_certificate_is_back_at_once(node: LiveNode) -> None:
    page = node.plan.productpage
    before = await node.serial_of(page)
    await node.push(lists_of(node.authority, before))

    async def is_back() -> bool:
        return await node.serial_of(page) != before and await node.calls(page)

    await until("productpage has another certificate", is_back, seconds=5)


@pytest.mark.invariant(5)
async def test_lists_that_do_not_name_who_calls_disturb_nobody_however_often_they_change(node: LiveNode) -> None:
    async with node.under_load() as tally:
        for number in range(30):
            match number % 3:
                case 0:
                    lists = types_pb2.RevocationSet()
                case 1:
                    lists = lists_of(node.authority)
                case _:
                    lists = lists_of(node.authority, *range(1000, 1000 + number * 100))
            version = await node.push(lists)
            assert bool(version) is bool(lists.lists)
            await until("every proxy holds it", lambda: holds(node, version), seconds=5)  # noqa: B023 - awaited here
        await asyncio.sleep(0.2)
    assert tally.done > 100
    assert not tally.failures
    for sidecar in node.plan.sidecars:
        assert await node.envoy(sidecar).stat("update_rejected") == 0


@pytest.mark.invariant(9)
async def test_lists_that_cannot_be_relied_on_never_reach_an_envoy(node: LiveNode) -> None:
    """Envoy acknowledges such lists, and then refuses everybody."""
    page, issuer = node.plan.productpage, node.authority.issuer
    good = await node.push(lists_of(node.authority))
    await until("every proxy holds it", lambda: holds(node, good), seconds=5)
    updates = [await node.envoy(each).stat("ssl_context_update_by_sds") for each in node.plan.sidecars]
    serial = await node.serial_of(page)
    tomorrow = signed_list(issuer, serial, begins=now() + HOUR)
    forged = signed_list(issuer, serial, key=node.authority.root.key)
    stale = signed_list(issuer, serial, lapses=now() - HOUR / 2)
    of_root = list_message(node.authority.root.certificate, revocation_list(node.authority.root).crl)
    for bad in (
        types_pb2.RevocationList(issuer=issuer.der, crl=b"garbage"),
        *(list_message(issuer.certificate, crl) for crl in (tomorrow, forged, stale)),
    ):
        assert await node.push(types_pb2.RevocationSet(lists=[of_root, bad])) == good
        assert await node.calls(page)
    assert [await node.envoy(each).stat("ssl_context_update_by_sds") for each in node.plan.sidecars] == updates
    node.api.barred.add(page.name)
    await node.push(lists_of(node.authority, serial))
    assert await refused_after(node, page, time.monotonic()) < 1.0


@pytest.mark.invariant(5)
async def test_what_is_revoked_stays_refused_while_the_agent_is_away_and_when_it_is_back() -> None:
    async with live_node(federates=False, as_root=AS_ROOT, revocations=lists_of) as node, AsyncExitStack() as envoys:
        page, stranger = node.plan.productpage, node.plan.stranger
        async with node.agent():
            await envoys.enter_async_context(node.envoys())
            node.api.barred.add(page.name)
            version = await node.push(lists_of(node.authority, await node.serial_of(page)))
            await refused_after(node, page, time.monotonic())
        assert not await node.calls(page)
        assert await node.calls(stranger)
        restarted = asyncio.create_task(_calls_until_held(node, version))
        async with node.agent():
            assert await restarted == {page.name: {False}, stranger.name: {True}}


async def _calls_until_held(node: LiveNode, version: str) -> dict[str, set[bool]]:
    """What became of the callers' requests until each proxy holds these lists again, by the word of a new agent."""
    streams, seen = len(node.api.syncs), {}
    async with asyncio.timeout(30):
        while len(node.api.syncs) == streams or not await holds(node, version):
            for caller in (node.plan.productpage, node.plan.stranger):
                seen.setdefault(caller.name, set()).add(await node.calls(caller))
    return seen


async def holds(node: LiveNode, version: str) -> bool:
    """Whether all three proxies hold the lists of this version."""
    return node.held_versions() == [version] * len(node.plan.sidecars)
