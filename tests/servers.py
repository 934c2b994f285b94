"""A Citadel server in this process, and clients that speak to it as agents and administrators do."""

from __future__ import annotations

import asyncio
import base64
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from ca.settings import ServerSettings
from citadel._wire import (
    admin_pb2,
    admin_pb2_grpc,
    agent_api_pb2,
    agent_api_pb2_grpc,
    bootstrap_pb2,
    federation_pb2_grpc,
    revocation_pb2_grpc,
    rotation_pb2_grpc,
    types_pb2,
)
from citadel._wire import bootstrap_pb2_grpc as bootstrap_grpc
from citadel.bundle import TrustBundle
from citadel.config.files import write_private
from citadel.config.types import HostPort
from citadel.join_string import JoinString
from citadel.reserved import SERVER_DNS_NAME
from cli.server_process import run_server
from tests.csrs import csr, new_key
from tests.ports import free_port
from tests.postgres import query

_PATIENCE: Final = 20.0


def server_settings(folder: Path, **sections: Any) -> ServerSettings:
    """Settings of a server of `a.test` that keeps everything in `folder`; `sections` replace or add sections."""
    kek = folder / "kek"
    if not kek.exists():
        write_private(kek, base64.b64encode(os.urandom(32)))
    defaults: dict[str, Any] = {
        "trust_domain": "a.test",
        "data_dir": folder / "data",
        "keys": {"kek_file": kek},
        "listen": {
            "bootstrap": f"127.0.0.1:{free_port()}",
            "agents": f"127.0.0.1:{free_port()}",
            "probes": f"127.0.0.1:{free_port()}",
            "admin_socket": folder / "admin.sock",
        },
        "limits": {"joins_per_second": 10_000},
    }
    return ServerSettings.model_validate(defaults | sections)


@dataclass(frozen=True)
class Member:
    """An identity as its holder has it: a key and a chain in DER, leaf first."""

    key: ec.EllipticCurvePrivateKey
    chain: tuple[bytes, ...]
    spiffe_id: str = ""

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def chain_pem(self) -> bytes:
        return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in self.chain)


@dataclass(frozen=True)
class Ledger:
    """The ledger as it lies on the disk, or in PostgreSQL where there is a URL."""

    path: Path
    url: str | None = None

    def serials(self) -> list[str]:
        if self.url is not None:
            return query(self.url, "SELECT serial FROM ledger ORDER BY number")
        with closing(sqlite3.connect(self.path)) as database:
            return [str(serial) for (serial,) in database.execute("SELECT serial FROM ledger ORDER BY number")]

    def is_intact(self) -> bool:
        with closing(sqlite3.connect(self.path)) as database:
            return list(database.execute("PRAGMA integrity_check")) == [("ok",)]


@dataclass
class Server:
    """A server that runs with `settings`, seen from outside."""

    settings: ServerSettings
    bundle: TrustBundle
    published: bytes = b""  # the bundle, byte for byte as the server says it
    _channels: list[aio.Channel] = field(default_factory=list)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.settings.data_dir / "citadel.db", self.settings.store_url)

    def admin(self) -> admin_pb2_grpc.AdminAsyncStub:
        return admin_pb2_grpc.AdminStub(self._open(aio.insecure_channel(f"unix:{self.settings.listen.admin_socket}")))

    def revocations(self) -> revocation_pb2_grpc.RevocationsAsyncStub:
        channel = self._open(aio.insecure_channel(f"unix:{self.settings.listen.admin_socket}"))
        return revocation_pb2_grpc.RevocationsStub(channel)

    def bundles(self) -> federation_pb2_grpc.BundlesAsyncStub:
        channel = self._open(aio.insecure_channel(f"unix:{self.settings.listen.admin_socket}"))
        return federation_pb2_grpc.BundlesStub(channel)

    def federations(self) -> federation_pb2_grpc.FederationsAsyncStub:
        channel = self._open(aio.insecure_channel(f"unix:{self.settings.listen.admin_socket}"))
        return federation_pb2_grpc.FederationsStub(channel)

    def rotations(self) -> rotation_pb2_grpc.RotationsAsyncStub:
        channel = self._open(aio.insecure_channel(f"unix:{self.settings.listen.admin_socket}"))
        return rotation_pb2_grpc.RotationsStub(channel)

    def bootstrap(self, *, bundle: TrustBundle | None = None) -> bootstrap_grpc.BootstrapAsyncStub:
        return bootstrap_grpc.BootstrapStub(self.tls(self.settings.listen.bootstrap, None, bundle))

    def agents(
        self, member: Member | None, *, bundle: TrustBundle | None = None
    ) -> agent_api_pb2_grpc.AgentApiAsyncStub:
        return agent_api_pb2_grpc.AgentApiStub(self.tls(self.settings.listen.agents, member, bundle))

    async def token(self, name: str, *facts: str, seconds: float | None = None) -> str:
        """The secret of a new join token for the agent `name`."""
        request = admin_pb2.CreateTokenRequest(agent_name=name, node_selectors=facts)
        if seconds is not None:
            request.ttl.FromMilliseconds(int(seconds * 1000))
        made = await self.admin().CreateToken(request)
        return JoinString.parse(made.join_string).token

    async def join(self, name: str, *facts: str) -> Member:
        """A new agent."""
        key = new_key()
        request = bootstrap_pb2.JoinRequest(token=await self.token(name, *facts), csr=csr(key))
        answer = await self.bootstrap().Join(request)
        return Member(key, tuple(answer.chain), answer.spiffe_id)

    async def entry(self, path: str, agent: Member | str, *selectors: str, **fields: Any) -> types_pb2.Entry:
        """A new entry under `agent`."""
        parent = agent if isinstance(agent, str) else agent.spiffe_id
        entry = types_pb2.Entry(
            spiffe_id=f"spiffe://a.test{path}", parent_id=parent, selectors=selectors or ("unix:uid:1000",), **fields
        )
        return await self.admin().CreateEntry(admin_pb2.CreateEntryRequest(entry=entry))

    async def status(self) -> admin_pb2.Status:
        return await self.admin().GetStatus(admin_pb2.GetStatusRequest())

    async def status_of(self, agent: Member) -> admin_pb2.AgentStatus:
        return next(found for found in (await self.status()).agents if found.spiffe_id == agent.spiffe_id)

    def tls(self, address: HostPort, member: Member | None = None, bundle: TrustBundle | None = None) -> aio.Channel:
        """A new channel to one of the TLS doors."""
        credentials = grpc.ssl_channel_credentials(
            (bundle or self.bundle).to_pem(),
            private_key=member.key_pem if member else None,
            certificate_chain=member.chain_pem if member else None,
        )
        options = [("grpc.ssl_target_name_override", SERVER_DNS_NAME), ("grpc.use_local_subchannel_pool", 1)]
        return self._open(aio.secure_channel(str(address), credentials, options=options))

    def _open(self, channel: aio.Channel) -> aio.Channel:
        self._channels.append(channel)
        return channel

    async def close(self) -> None:
        await asyncio.gather(*(channel.close(None) for channel in self._channels))


@asynccontextmanager
async def running_server(settings: ServerSettings) -> AsyncIterator[Server]:
    """Run a server in this process until the block ends; what ends it otherwise is raised."""
    stop = asyncio.Event()
    process = asyncio.create_task(run_server(settings, stop=stop))
    try:
        server = await connected(settings, process)
        try:
            yield server
        finally:
            await server.close()
    finally:
        stop.set()
        await process


async def connected(settings: ServerSettings, process: asyncio.Task[Any] | None = None) -> Server:
    """The server of `settings`, as soon as its last door is open; `process` is what must not end before."""
    async with asyncio.timeout(_PATIENCE):
        # There are probes during the start too, and one that was killed leaves its socket.
        while not (await _listens(settings.listen.admin_socket) and await _answers(settings.listen.probes)):
            if process is not None and process.done():
                await process
                raise AssertionError("the server ended before it was ready")
            await asyncio.sleep(0.01)
    server = Server(settings, TrustBundle(trust_domain=settings.trust_domain))
    own = await server.admin().GetOwnBundle(admin_pb2.GetOwnBundleRequest())
    server.published = own.json
    server.bundle = TrustBundle.from_json(settings.trust_domain, own.json)
    return server


async def sign(
    agents: agent_api_pb2_grpc.AgentApiAsyncStub, *items: tuple[str, bytes]
) -> Sequence[agent_api_pb2.X509SvidResult]:
    """The answers to a batch of (entry id, CSR)."""
    requests = [agent_api_pb2.X509SvidRequest(entry_id=entry_id, csr=der) for entry_id, der in items]
    answer = await agents.SignX509Svids(agent_api_pb2.SignX509SvidsRequest(requests=requests))
    return list(answer.results)


def reason_of(error: aio.AioRpcError) -> str:
    """The reason code in the `google.rpc.ErrorInfo` of a refusal."""
    return next(_reasons(error), "")


def _reasons(error: aio.AioRpcError) -> Iterator[str]:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    yield info.reason


HELLO: Final = agent_api_pb2.AgentMessage(hello=agent_api_pb2.Hello(agent_version="1.2.3", host="node-1"))


async def refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """Status code and reason code of a call that must be refused."""
    with pytest.raises(aio.AioRpcError) as refused:
        await call
    return refused.value.code(), reason_of(refused.value)


@dataclass
class Stream:
    """One Sync stream, read as an agent reads it."""

    call: Any
    entries: dict[str, types_pb2.Entry] = field(default_factory=dict)
    _goes_on: bool = False

    async def next(self) -> agent_api_pb2.Update:
        update = await asyncio.wait_for(self.call.read(), 10)
        assert update is not aio.EOF
        if update.snapshot and not self._goes_on:
            self.entries.clear()
        self._goes_on = update.more
        self.entries |= {entry.id: entry for entry in update.entries}
        for entry_id in update.removed_entry_ids:
            del self.entries[entry_id]
        return update

    async def say(self, **kind: Any) -> None:
        await self.call.write(agent_api_pb2.AgentMessage(**kind))


@asynccontextmanager
async def synced(server: Server, member: Member) -> AsyncIterator[Stream]:
    stream = Stream(server.agents(member).Sync())
    await stream.call.write(HELLO)
    try:
        yield stream
    finally:
        stream.call.cancel()


async def http_status(address: HostPort, path: str) -> tuple[int, str]:
    """Status and body of a GET."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]


async def _listens(path: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.close()
    return True


async def _answers(address: HostPort) -> bool:
    try:
        _, writer = await asyncio.open_connection(address.host, address.port)
    except OSError:
        return False
    writer.close()
    return True
