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
from grpc import aio

from citadel._wire import admin_pb2, admin_pb2_grpc, types_pb2
from citadel.errors import AlreadyExists, CitadelError, InvalidArgument, NotFound, Reason
from citadel.rpc import ErrorBorder
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
        bundle = certificates.bundle(self.root, sequence=7, refresh_hint=timedelta(minutes=5))
        return types_pb2.Bundle(trust_domain="a.test", json=bundle.to_json())

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
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(grace=None)
