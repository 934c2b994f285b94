"""The serving side of an agent on a real socket, and proxies that speak to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.secret.v3 import sds_pb2_grpc
from grpc import aio

from citadel.actor import Actor
from citadel.errors import CitadelError
from citadel.peer import Caller
from citadel.selector import Selector
from sds.authz.counts import Decisions
from sds.credentials.book import CredentialBook
from sds.holdings import HoldingsFeed
from sds.serve.callers import Attestation
from sds.serve.registry import StreamRegistry
from sds.serve.resource import SECRET_TYPE_URL
from sds.serve.server import WorkloadServer
from tests.certificates import A_TEST, NOW
from tests.clock import FakeClock
from tests.unit.sds.authorizing import FixedPolicies
from tests.unit.sds.fake_tokens import FakeTokenSigner, token_keeper
from tests.unit.sds.holding import UID_1

DIGEST = Selector("unix", f"sha256:{'ab' * 32}")


class FakeAttestor:
    """Sees these selectors in every caller, the digest only when it is wanted."""

    def __init__(self) -> None:
        self.seen = {UID_1}
        self.asked: list[bool] = []
        self.error: CitadelError | None = None
        self.is_complete = True
        self.unseen: set[str] = set()
        self.is_in_pod = False

    async def attest(self, caller: Caller, *, want_sha256: bool) -> Attestation:
        del caller
        if self.error is not None:
            raise self.error
        self.asked.append(want_sha256)
        return Attestation(
            selectors=frozenset(self.seen | ({DIGEST} if want_sha256 else set())),
            executable="/bin/envoy",
            is_complete=self.is_complete,
            unseen=frozenset(self.unseen),
            is_in_pod=self.is_in_pod,
            place="pod shop/web-0" if self.is_in_pod else "",
        )


class Node:
    """The serving side of an agent on a real socket, its holdings filled by hand."""

    def __init__(self, path: Path, attestor: Any, *, tokens_per_second: float = 1000.0, **options: Any) -> None:
        self.address = f"unix:{path}"
        self.feed = HoldingsFeed()
        self.clock = FakeClock(NOW)
        self.registry = StreamRegistry(clock=self.clock)
        self.signer = FakeTokenSigner(self.clock)
        self.refusals: list[tuple[str, CitadelError]] = []
        self.refused: Actor | None = None  # whoever was refused last
        self.attestor = attestor
        self.policies = FixedPolicies(self.clock)
        self.decisions = Decisions(on_refusal=self._note)
        self.credentials = CredentialBook(feed=self.feed, clock=self.clock, on_refusal=self._note)
        self.server = WorkloadServer(
            socket=path,
            relay_dir=path.parent / "relay",
            trust_domain=A_TEST,
            feed=self.feed,
            attestor=attestor,
            registry=self.registry,
            tokens=token_keeper(self.feed, self.clock, signer=self.signer, per_second=tokens_per_second),
            clock=self.clock,
            policies=self.policies,
            decisions=self.decisions,
            on_refusal=self._note,
            credentials=self.credentials,
            **options,
        )

    def _note(self, what: str, error: CitadelError, *, by: Actor | None = None) -> None:
        self.refusals.append((what, error))
        self.refused = by

    def states(self) -> list[dict[str, int]]:
        return [{each.name: each.state for each in report.resources} for report in self.registry.live()]


class Proxy:
    """One stream of a proxy, which reads only when it is told to."""

    def __init__(self, channel: aio.Channel, *names: str) -> None:
        self.call = sds_pb2_grpc.SecretDiscoveryServiceStub(channel).StreamSecrets()
        self.names = names
        self.last = discovery_pb2.DiscoveryResponse()

    async def ask(self, **changes: Any) -> None:
        fields = {
            "type_url": SECRET_TYPE_URL,
            "resource_names": self.names,
            "version_info": self.last.version_info,
            "response_nonce": self.last.nonce,
        }
        await self.call.write(discovery_pb2.DiscoveryRequest(**(fields | changes)))

    async def receive(self) -> dict[str, Any]:
        self.last = await asyncio.wait_for(self.call.read(), 10)
        return {secret.name: secret for secret in map(unpacked, self.last.resources)}

    async def take(self) -> dict[str, Any]:
        secrets = await self.receive()
        await self.ask()
        return secrets

    async def hears_nothing(self) -> bool:
        await asyncio.sleep(0.1)
        reading = asyncio.ensure_future(self.call.read())
        done, _ = await asyncio.wait([reading], timeout=0.1)
        if not done:
            reading.cancel()  # ends the call: this is the last look
        return not done


def unpacked(resource: Any) -> Any:
    secret = secret_pb2.Secret()
    assert resource.Unpack(secret)
    return secret


def chain(secret: Any) -> bytes:
    return bytes(secret.tls_certificate.certificate_chain.inline_bytes)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


class DeltaProxy:
    """One incremental stream of a proxy, which reads only when it is told to."""

    def __init__(self, channel: aio.Channel) -> None:
        self.call = sds_pb2_grpc.SecretDiscoveryServiceStub(channel).DeltaSecrets()
        self.last = discovery_pb2.DeltaDiscoveryResponse()

    async def ask(self, *names: str, **fields: Any) -> None:
        request = discovery_pb2.DeltaDiscoveryRequest(resource_names_subscribe=names, **fields)
        await self.call.write(request)

    async def receive(self) -> dict[str, Any]:
        self.last = await asyncio.wait_for(self.call.read(), 10)
        return {each.name: unpacked(each.resource) for each in self.last.resources}

    async def take(self) -> dict[str, Any]:
        secrets = await self.receive()
        await self.ask(response_nonce=self.last.nonce)
        return secrets
