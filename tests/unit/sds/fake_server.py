"""A Citadel server in this process: the real wire over real TLS, with faults on request."""

# ruff: noqa: N802, ARG002 - names and parameters are those of the generated servicer

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from grpc import aio

from citadel._wire import agent_api_pb2, agent_api_pb2_grpc, bootstrap_pb2, bootstrap_pb2_grpc, types_pb2
from citadel.bundle import TrustBundle
from citadel.config.types import HostPort
from citadel.entry import Entry
from citadel.errors import CitadelError, Reason, Unauthenticated
from citadel.rpc import ErrorBorder
from citadel.spiffe import SpiffeId
from citadel.succession import Succession
from citadel.succession_wire import succession_to_wire
from citadel.svid import X509Svid
from sds.keep.keys import PrivateKey, new_key
from sds.link.channel import agent_channel
from sds.link.identity import AgentIdentity, IdentityFile, OwnIdentity
from sds.settings import ReconnectSettings
from tests.unit.sds.fake_authority import A_TEST, FakeAuthority

AGENT = A_TEST.member("citadel", "agent", "n1")
QUICK = ReconnectSettings(initial=timedelta(milliseconds=10), maximum=timedelta(milliseconds=100))
HOUR = timedelta(hours=1)


def now() -> datetime:
    return datetime.now(UTC)


def bundle_message(bundle: TrustBundle) -> types_pb2.Bundle:
    return types_pb2.Bundle(trust_domain=bundle.trust_domain.name, json=bundle.to_json())


class FakeBootstrap(bootstrap_pb2_grpc.BootstrapServicer):
    """Answers `bundle` to everybody and notes the tokens that it was shown."""

    def __init__(self, authority: FakeAuthority) -> None:
        self.authority = authority
        self.bundle = authority.bundle
        self.successions: list[Succession] = []
        self.issuers = [authority.issuer.der]
        self.answered_id: SpiffeId = AGENT
        self.answered_key: PrivateKey | None = None
        self.refusal: CitadelError | None = None
        self.agent_api = "127.0.0.1:8444"
        self.tokens: list[str] = []
        self.asked_keys: list[bytes] = []
        self.lose_answers = 0
        self.clusters: list[str] = []
        self.passing_refusals: list[CitadelError] = []  # of joins by Kubernetes, one each
        self.answers = asyncio.Event()  # joins by Kubernetes, while it is set
        self.answers.set()
        self.on_join: Callable[[], object] = lambda: None

    async def GetBundle(self, request: Any, context: Any) -> bootstrap_pb2.GetBundleResponse:
        return bootstrap_pb2.GetBundleResponse(
            bundle=bundle_message(self.bundle),
            successions=map(succession_to_wire, self.successions),
            issuers=self.issuers,
        )

    async def Join(self, request: bootstrap_pb2.JoinRequest, context: Any) -> bootstrap_pb2.JoinResponse:
        self.tokens.append(request.token)
        csr = x509.load_der_x509_csr(request.csr)
        self.asked_keys.append(csr.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        self.on_join()
        if len(self.tokens) <= self.lose_answers:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost")
        if self.refusal is not None:
            raise self.refusal
        key = self.answered_key or csr
        return bootstrap_pb2.JoinResponse(
            spiffe_id=str(self.answered_id),
            chain=self.authority.issue(self.answered_id, key, now(), HOUR),
            bundle=bundle_message(self.bundle),
            agent_api=self.agent_api,
        )

    async def JoinKubernetes(
        self, request: bootstrap_pb2.JoinKubernetesRequest, context: Any
    ) -> bootstrap_pb2.JoinResponse:
        self.clusters.append(request.cluster)
        await self.answers.wait()
        if self.passing_refusals:
            self.tokens.append(request.token)
            raise self.passing_refusals.pop(0)
        return await self.Join(bootstrap_pb2.JoinRequest(token=request.token, csr=request.csr), context)

    async def Prove(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[bootstrap_pb2.ProveResponse]:
        """Nobody comes back with a recorded key."""
        async for _ in requests:
            raise Unauthenticated(Reason.REJOIN_REFUSED, "it was evicted, or joined anew since")
        yield bootstrap_pb2.ProveResponse()


class FakeSync:
    """One Sync stream as the server sees it."""

    def __init__(self, serial: str) -> None:
        self.serial = serial
        self.updates: asyncio.Queue[agent_api_pb2.Update | None] = asyncio.Queue()
        self.messages: list[agent_api_pb2.AgentMessage] = []
        self.has_ended = False

    def acknowledged(self) -> list[int]:
        return [m.acknowledge.revision for m in self.messages if m.WhichOneof("kind") == "acknowledge"]

    def reported(self) -> list[agent_api_pb2.Streams]:
        return [m.streams for m in self.messages if m.WhichOneof("kind") == "streams"]


class FakeAgentApi(agent_api_pb2_grpc.AgentApiServicer):
    """Opens a `FakeSync` for each stream and sends `snapshot` on it first."""

    def __init__(self, authority: FakeAuthority) -> None:
        self.authority = authority
        self.syncs: list[FakeSync] = []
        self.snapshot: list[agent_api_pb2.Update] = [agent_api_pb2.Update(revision=1, snapshot=True)]
        self.refusal: CitadelError | None = None
        self.attempts = 0
        self.renewals: list[bytes] = []
        self.lose_renewals = 0
        self.agent_lifetime = HOUR
        self.entries: dict[str, Entry] = {}
        self.barred: set[str] = set()
        self.hang_signing = False

    async def Sync(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[agent_api_pb2.Update]:
        self.attempts += 1
        if self.refusal is not None:
            raise self.refusal
        certificate = x509.load_pem_x509_certificate(context.auth_context()["x509_pem_cert"][0])
        sync = FakeSync(f"{certificate.serial_number:x}")
        self.syncs.append(sync)
        for update in self.snapshot:
            sync.updates.put_nowait(update)

        async def read() -> None:
            async for message in requests:
                sync.messages.append(message)

        reader = asyncio.create_task(read())
        try:
            while (update := await sync.updates.get()) is not None:
                yield update
        finally:
            reader.cancel()
            sync.has_ended = True

    async def SignX509Svids(self, request: agent_api_pb2.SignX509SvidsRequest, context: Any) -> Any:
        if self.hang_signing:
            await asyncio.Event().wait()
        response = agent_api_pb2.SignX509SvidsResponse()
        for item in request.requests:
            asked = self.entries.get(item.entry_id)
            if item.entry_id in self.barred:
                refusal = agent_api_pb2.Refusal(code="PERMISSION_DENIED", reason="identity_revoked", message="barred")
                response.results.add(refusal=refusal)
            elif asked is None:
                refusal = agent_api_pb2.Refusal(code="NOT_FOUND", reason="entry_not_found", message="no such entry")
                response.results.add(refusal=refusal)
            else:
                chain = self.authority.issue(asked.spiffe_id, x509.load_der_x509_csr(item.csr), now(), HOUR)
                response.results.add(svid=agent_api_pb2.X509Svid(chain=chain, lifetime_limited_by="default"))
        return response

    async def SignJwtSvids(self, request: agent_api_pb2.SignJwtSvidsRequest, context: Any) -> Any:
        if self.hang_signing:
            await asyncio.Event().wait()
        response = agent_api_pb2.SignJwtSvidsResponse()
        for item in request.requests:
            if item.entry_id in self.barred:
                refusal = agent_api_pb2.Refusal(code="PERMISSION_DENIED", reason="identity_revoked", message="barred")
                response.results.add(refusal=refusal)
            elif item.entry_id in self.entries:
                response.results.add(svid=agent_api_pb2.JwtSvid(token=f"{item.entry_id} for {item.audience[0]}"))
        return response

    async def RenewAgent(self, request: agent_api_pb2.RenewAgentRequest, context: Any) -> Any:
        self.renewals.append(request.csr)
        if len(self.renewals) <= self.lose_renewals:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost")
        csr = x509.load_der_x509_csr(request.csr)
        return agent_api_pb2.RenewAgentResponse(chain=self.authority.issue(AGENT, csr, now(), self.agent_lifetime))


async def serve_bootstrap(service: FakeBootstrap, authority: FakeAuthority) -> tuple[aio.Server, HostPort]:
    """TLS without client certificates, under a certificate of `authority`."""
    server = aio.server(interceptors=[ErrorBorder()])
    bootstrap_pb2_grpc.add_BootstrapServicer_to_server(service, server)
    credentials = grpc.ssl_server_credentials([authority.server_pem(now())])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    return server, HostPort("127.0.0.1", port)


async def serve_agents(
    service: FakeAgentApi, authority: FakeAuthority, port: int = 0, roots: Sequence[FakeAuthority] = ()
) -> tuple[aio.Server, HostPort]:
    """Mutual TLS, under a certificate of `authority`; agents of `roots` (`authority` itself by default) are let in."""
    server = aio.server(interceptors=[ErrorBorder()], options=[("grpc.so_reuseport", 0)])
    agent_api_pb2_grpc.add_AgentApiServicer_to_server(service, server)
    trusted = b"".join(each.bundle.to_pem() for each in roots or (authority,))
    credentials = grpc.ssl_server_credentials([authority.server_pem(now())], trusted, require_client_auth=True)
    bound = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    await server.start()
    return server, HostPort("127.0.0.1", bound)


def make_identity(authority: FakeAuthority, agent_api: HostPort, lifetime: timedelta = HOUR) -> AgentIdentity:
    key = new_key("ec-p256")
    agent = authority.bundle.trust_domain.member("citadel", "agent", "n1")
    return AgentIdentity(
        svid=X509Svid.from_der(authority.issue(agent, key, now(), lifetime)),
        key=key,
        bundle=authority.bundle,
        agent_api=agent_api,
        bootstrap=HostPort("127.0.0.1", 1),
    )


def channel_to(address: HostPort, authority: FakeAuthority) -> aio.Channel:
    """As an agent of `authority`, which knows its server by the root of it."""
    identity = make_identity(authority, address)
    return agent_channel(address, identity=identity, anchors=identity.bundle.x509_authorities, reconnect=QUICK)


def own_identity(folder: Path, identity: AgentIdentity) -> OwnIdentity:
    folder.chmod(0o700)
    file = IdentityFile(folder)
    file.save(identity)
    return OwnIdentity(current=identity, file=file)


class FakeReports:
    """Fulfils `StreamReports`."""

    def __init__(self) -> None:
        self.live: dict[str, types_pb2.StreamReport] = {}
        self._changed: dict[str, types_pb2.StreamReport] = {}
        self._watchers: set[asyncio.Event] = set()

    def put(self, stream_id: str, *, pid: int = 1, closed: bool = False, **fields: Any) -> None:
        report = types_pb2.StreamReport(stream_id=stream_id, pid=pid, closed=closed, **fields)
        self._changed[stream_id] = report
        if closed:
            self.live.pop(stream_id, None)
        else:
            self.live[stream_id] = report
        for event in self._watchers:
            event.set()

    def snapshot(self) -> list[types_pb2.StreamReport]:
        return list(self.live.values())

    def take_changed(self) -> list[types_pb2.StreamReport]:
        changed, self._changed = self._changed, {}
        return list(changed.values())

    def watch(self, event: asyncio.Event) -> None:
        self._watchers.add(event)

    def unwatch(self, event: asyncio.Event) -> None:
        self._watchers.discard(event)
