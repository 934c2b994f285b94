"""What the agent measures of its streams and of its signing."""

# ruff: noqa: ARG002, N802 - handlers have the shape of generated ones

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.secret.v3 import sds_pb2_grpc
from grpc import aio
from prometheus_client import CollectorRegistry

from citadel.errors import CitadelError, PermissionDenied, Reason, Unavailable
from sds.keep.signer import Signed, SigningRequest
from sds.metrics import MeteredSigner, StreamMeter
from sds.tokens.metrics import MeteredTokenSigner
from sds.tokens.signer import TokenRequest
from tests.clock import FakeClock

SIGNED = Signed(chain=(b"leaf",), lifetime_limited_by="default")
REFUSAL = PermissionDenied(Reason.ENTRY_NOT_AUTHORIZED, "no")


class Sds(sds_pb2_grpc.SecretDiscoveryServiceServicer):
    """Pushes a response whenever `push` is put something, and hears what comes."""

    def __init__(self) -> None:
        self.push: asyncio.Queue[str] = asyncio.Queue()
        self.heard = 0

    async def StreamSecrets(self, requests: Any, context: Any) -> AsyncIterator[discovery_pb2.DiscoveryResponse]:
        reading = asyncio.create_task(self._read(requests))
        try:
            while True:
                yield discovery_pb2.DiscoveryResponse(nonce=await self.push.get())
        finally:
            reading.cancel()

    async def _read(self, requests: Any) -> None:
        async for _ in requests:
            self.heard += 1


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@asynccontextmanager
async def a_stream(registry: CollectorRegistry, clock: FakeClock, sds: Sds, folder: Path) -> AsyncIterator[Any]:
    server = aio.server(interceptors=[StreamMeter(registry, clock=clock)])
    sds_pb2_grpc.add_SecretDiscoveryServiceServicer_to_server(sds, server)
    server.add_insecure_port(f"unix:{folder / 's'}")
    await server.start()
    async with aio.insecure_channel(f"unix:{folder / 's'}") as channel:
        call = sds_pb2_grpc.SecretDiscoveryServiceStub(channel).StreamSecrets()
        await call.write(discovery_pb2.DiscoveryRequest())
        yield call
        call.cancel()
    await server.stop(0)


async def heard(sds: Sds, number: int) -> None:
    async with asyncio.timeout(5):
        while sds.heard < number:
            await asyncio.sleep(0.005)


async def test_answers_are_told_from_changes_of_names_and_counted_once(
    registry: CollectorRegistry, tmp_path: Path
) -> None:
    clock, sds = FakeClock(), Sds()
    value = registry.get_sample_value
    async with a_stream(registry, clock, sds, tmp_path) as call:
        await heard(sds, 1)
        assert value("citadel_agent_streams", {"protocol": "sds"}) == 1
        await sds.push.put("1")
        assert (await call.read()).nonce == "1"
        await clock.advance(0.2)
        refused = discovery_pb2.DiscoveryRequest(response_nonce="1")
        refused.error_detail.message = "no"
        await call.write(refused)
        await call.write(discovery_pb2.DiscoveryRequest(response_nonce="1", resource_names=["more"]))
        await heard(sds, 3)
        assert value("citadel_agent_refused_by_proxies_total") == value("citadel_agent_streams_refusing") == 1
        assert value("citadel_agent_acknowledgement_seconds_count") == 0

        await sds.push.put("2")
        assert (await call.read()).nonce == "2"
        await clock.advance(0.2)
        await call.write(discovery_pb2.DiscoveryRequest(response_nonce="1"))  # overtaken
        await call.write(discovery_pb2.DiscoveryRequest(response_nonce="2"))
        await call.write(discovery_pb2.DiscoveryRequest(response_nonce="2", resource_names=["more"]))
        await heard(sds, 6)
        assert value("citadel_agent_streams_refusing") == 0
        assert value("citadel_agent_acknowledgement_seconds_count") == 1
        assert value("citadel_agent_acknowledgement_seconds_sum") == pytest.approx(0.2)
        assert value("citadel_agent_pushes_total", {"protocol": "sds"}) == 2


async def test_a_stream_that_ends_takes_its_refusal_along(registry: CollectorRegistry, tmp_path: Path) -> None:
    sds = Sds()
    value = registry.get_sample_value
    async with a_stream(registry, FakeClock(), sds, tmp_path) as call:
        await sds.push.put("1")
        await call.read()
        refused = discovery_pb2.DiscoveryRequest(response_nonce="1")
        refused.error_detail.message = "no"
        await call.write(refused)
        await heard(sds, 2)
        assert value("citadel_agent_streams_refusing") == 1
        call.cancel()
        async with asyncio.timeout(5):
            while value("citadel_agent_streams", {"protocol": "sds"}):
                await asyncio.sleep(0.005)
        assert value("citadel_agent_streams_refusing") == 0


class Server:
    """A signer that answers what it is told to."""

    def __init__(self, answer: Sequence[Signed | CitadelError] | CitadelError) -> None:
        self.answer = answer

    async def sign(self, requests: Sequence[SigningRequest], *, within: timedelta) -> Sequence[Signed | CitadelError]:
        if isinstance(self.answer, CitadelError):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "renewals", "refused"),
    [
        ([SIGNED, SIGNED], 2, {}),
        ([SIGNED, REFUSAL], 1, {"entry_not_authorized": 1}),
        (Unavailable(Reason.SERVER_UNREACHABLE, "away"), 0, {"server_unreachable": 2}),
    ],
)
async def test_what_the_server_signs_and_refuses_is_counted(
    registry: CollectorRegistry,
    answer: Sequence[Signed | CitadelError] | CitadelError,
    renewals: int,
    refused: dict[str, int],
) -> None:
    signer = MeteredSigner(Server(answer), registry=registry, clock=FakeClock())
    requests = [SigningRequest(entry_id=entry_id, csr=b"") for entry_id in "ab"]
    with suppress(Unavailable):
        assert await signer.sign(requests, within=timedelta(seconds=1)) == answer
    value = registry.get_sample_value
    assert value("citadel_agent_svid_renewals_total") == renewals
    assert {reason: value("citadel_agent_signing_refused_total", {"reason": reason}) for reason in refused} == refused
    assert value("citadel_agent_signing_queue") == 0


class TokenServer:
    """A signer of tokens that answers what it is told to."""

    def __init__(self, answer: Sequence[str | CitadelError] | CitadelError) -> None:
        self.answer = answer

    async def sign(self, requests: Sequence[TokenRequest], *, within: timedelta) -> Sequence[str | CitadelError]:
        if isinstance(self.answer, CitadelError):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "signed", "refused"),
    [
        (["a", "b"], 2, {}),
        (["a", REFUSAL], 1, {"entry_not_authorized": 1}),
        (Unavailable(Reason.SERVER_UNREACHABLE, "away"), 0, {"server_unreachable": 2}),
    ],
)
async def test_tokens_are_counted_too(
    registry: CollectorRegistry, answer: Sequence[str | CitadelError] | CitadelError, signed: int, refused: Any
) -> None:
    signer = MeteredTokenSigner(TokenServer(answer), registry=registry, clock=FakeClock())
    requests = [TokenRequest(entry_id=entry_id, audience=("one",)) for entry_id in "ab"]
    with suppress(Unavailable):
        assert await signer.sign(requests, within=timedelta(seconds=1)) == answer
    value = registry.get_sample_value
    assert value("citadel_agent_jwt_svids_signed_total") == signed
    told = {reason: value("citadel_agent_jwt_signing_refused_total", {"reason": reason}) for reason in refused}
    assert told == refused
    assert value("citadel_agent_jwt_signing_seconds_count") == 1
