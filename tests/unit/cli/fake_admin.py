"""A server's admin service in memory: the wire, the errors and the paging of the real one, and no rules of its own."""

# ruff: noqa: N802, ARG002 - names and parameters are those of the generated servicer

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import hashes
from grpc import aio

from citadel._wire import admin_pb2, admin_pb2_grpc, federation_pb2, federation_pb2_grpc, types_pb2
from citadel.bundle import TrustBundle
from citadel.errors import AlreadyExists, CitadelError, InvalidArgument, NotFound, Reason
from citadel.rpc import ErrorBorder
from citadel.spiffe import TrustDomain
from citadel.wire import to_timestamp
from cli.citadel_cli import citadel_cli
from tests import certificates
from tests.clock import FakeClock

PAGE_LIMIT = 2


class FakeAdmin(admin_pb2_grpc.AdminServicer):
    def __init__(self, clock: FakeClock) -> None:
        self.entries: dict[str, types_pb2.Entry] = {}
        self.tokens: list[admin_pb2.CreateTokenRequest] = []
        self.status = admin_pb2.Status(trust_domain="a.test", started_at=to_timestamp(clock.now()))
        self.joined: set[str] = set()
        self.root = certificates.root()
        self.bundles = FakeBundles()
        self.exchanged: list[certificates.Signed] = []
        self.refusal: CitadelError | Exception | None = None
        self._clock = clock
        self._ids = count(1)

    async def CreateToken(self, request: Any, context: Any) -> admin_pb2.CreateTokenResponse:
        self._refuse()
        self.tokens.append(request)
        ttl = request.ttl.ToTimedelta() if request.HasField("ttl") else timedelta(minutes=10)
        return admin_pb2.CreateTokenResponse(
            join_string="citadel://127.0.0.1:8443/a.test?bundle-sha256=00&token=t0ken",
            agent_id=f"spiffe://a.test/citadel/agent/{request.agent_name or 'chosen'}",
            expires_at=to_timestamp(self._clock.now() + ttl),
            agent_exists=request.agent_name in self.joined,
        )

    async def CreateEntry(self, request: Any, context: Any) -> types_pb2.Entry:
        self._refuse()
        wanted = request.entry
        if not wanted.selectors:
            raise InvalidArgument(Reason.ENTRY_NO_SELECTORS, "the entry has no selectors", fix="give at least one")
        for entry in self.entries.values():
            same = (entry.spiffe_id, entry.parent_id, entry.selectors)
            if same == (wanted.spiffe_id, wanted.parent_id, wanted.selectors):
                raise AlreadyExists(Reason.ENTRY_DUPLICATE, f"entry {entry.id} is the same")
        made = types_pb2.Entry()
        made.CopyFrom(wanted)
        made.id = f"e{next(self._ids)}"
        made.revision = len(self.entries) + 1
        made.created_at.CopyFrom(to_timestamp(self._clock.now()))
        self.entries[made.id] = made
        return made

    async def GetEntry(self, request: Any, context: Any) -> types_pb2.Entry:
        self._refuse()
        return self._entry(request.id)

    async def ListEntries(self, request: Any, context: Any) -> admin_pb2.ListEntriesResponse:
        self._refuse()
        fitting = [
            entry
            for entry in self.entries.values()
            if request.spiffe_id in ("", entry.spiffe_id) and request.parent_id in ("", entry.parent_id)
        ]
        start = int(request.page_token or 0)
        end = start + min(request.page_size, PAGE_LIMIT)
        return admin_pb2.ListEntriesResponse(
            entries=fitting[start:end], next_page_token=str(end) if end < len(fitting) else ""
        )

    async def DeleteEntry(self, request: Any, context: Any) -> types_pb2.Entry:
        self._refuse()
        entry = self._entry(request.id)
        del self.entries[entry.id]
        return entry

    async def GetOwnBundle(self, request: Any, context: Any) -> types_pb2.Bundle:
        self._refuse()
        bundle = certificates.bundle(self.root, *self.exchanged, sequence=7, refresh_hint=timedelta(minutes=5))
        alone = [each.certificate.fingerprint(hashes.SHA256()) for each in self.exchanged]
        return types_pb2.Bundle(trust_domain="a.test", json=bundle.to_json(), for_workloads_alone=alone)

    async def GetStatus(self, request: Any, context: Any) -> admin_pb2.Status:
        self._refuse()
        return self.status

    def _entry(self, entry_id: str) -> types_pb2.Entry:
        if entry_id not in self.entries:
            raise NotFound(Reason.ENTRY_NOT_FOUND, f"there is no entry {entry_id!r}")
        return self.entries[entry_id]

    def _refuse(self) -> None:
        if self.refusal is not None:
            raise self.refusal


class FakeBundles(federation_pb2_grpc.BundlesServicer):
    """The bundles of foreign trust domains in memory, by name; what was asked stands in `asked`."""

    def __init__(self) -> None:
        self.known: dict[str, federation_pb2.KnownBundle] = {}
        self.asked: list[Any] = []
        self.refusal: CitadelError | None = None

    async def ListBundles(self, request: Any, context: Any) -> federation_pb2.ListBundlesResponse:
        own = federation_pb2.KnownBundle(bundle=types_pb2.Bundle(trust_domain="a.test"), source="own", sequence=7)
        own.x509_authorities = own.jwt_authorities = 1
        return federation_pb2.ListBundlesResponse(bundles=[own, *self.known.values()])

    async def GetBundle(self, request: Any, context: Any) -> federation_pb2.KnownBundle:
        if request.trust_domain not in self.known:
            raise NotFound(Reason.BUNDLE_NOT_FOUND, f"no bundle of {request.trust_domain} is known")
        return self.known[request.trust_domain]

    async def SetBundle(self, request: Any, context: Any) -> federation_pb2.KnownBundle:
        self._note(request)
        bundle = TrustBundle.from_json(TrustDomain(request.bundle.trust_domain), request.bundle.json)
        source = "exchanged" if request.own_domain else "set"
        known = federation_pb2.KnownBundle(bundle=request.bundle, source=source)
        known.x509_authorities, known.jwt_authorities = len(bundle.x509_authorities), len(bundle.jwt_authorities)
        if not request.own_domain:
            self.known[bundle.trust_domain.name] = known
        return known

    async def DeleteBundle(self, request: Any, context: Any) -> federation_pb2.KnownBundle:
        self._note(request)
        if request.own_domain:
            return federation_pb2.KnownBundle(
                bundle=types_pb2.Bundle(trust_domain="a.test"), source="exchanged", x509_authorities=1
            )
        return self.known.pop(request.trust_domain)

    def _note(self, request: Any) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.asked.append(request)


class Program:
    """`citadel-cli` run against one socket, with a clock that stands still."""

    def __init__(self, socket: Path, clock: FakeClock) -> None:
        self.socket = socket
        self._clock = clock

    async def __call__(self, *arguments: str, env: Mapping[str, str] | None = None, stdin: bytes = b"") -> Result:
        command = ["--socket", str(self.socket), *arguments] if env is None else list(arguments)
        # The program owns its event loop, so it runs in a thread beside the server's.
        return await asyncio.to_thread(
            CliRunner().invoke, citadel_cli, command, obj=self._clock, env=env, input=stdin, prog_name="citadel-cli"
        )


@asynccontextmanager
async def serving(admin: FakeAdmin, socket: Path) -> AsyncIterator[None]:
    server = aio.server(interceptors=[ErrorBorder()])
    admin_pb2_grpc.add_AdminServicer_to_server(admin, server)
    federation_pb2_grpc.add_BundlesServicer_to_server(admin.bundles, server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(grace=None)
