"""One open SDS stream: its machine, with the caller, the log and the reports around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol

import structlog
from envoy.service.discovery.v3 import discovery_pb2

from citadel._wire import types_pb2
from citadel.peer import Caller
from citadel.wire import to_timestamp
from sds.serve.available import Available
from sds.serve.callers import Attestation
from sds.serve.registry import StreamRegistry, resource_reports
from sds.serve.standing import Heard, Standing, State

_log = structlog.get_logger(__name__)


class StreamMachine(Protocol):
    """The rules of one kind of stream: `SecretStream`, `DeltaSecretStream`."""

    node_id: str
    is_owed: bool

    @property
    def protocol(self) -> str:
        """What the kind is called in reports."""
        ...

    @property
    def names(self) -> Iterable[str]:
        """What is asked for by name."""
        ...

    @property
    def ignored_names(self) -> int:
        """How many names were beyond the limits."""
        ...

    def on_request(self, request: Any, /) -> Heard:
        """Take in a request."""
        ...

    def offer(self, available: Available, /) -> Any | None:
        """The next response; None when there is nothing new."""
        ...

    def standings(self) -> list[Standing]:
        """Every name that was asked for, and how far it has come."""
        ...


class LiveStream:
    """Feeds the machine with requests and keeps the registry and the log up to date."""

    __slots__ = (
        "_caller",
        "_connected_at",
        "_has_said_ignored",
        "_has_said_wrong_type",
        "_offered",
        "_refused",
        "_registry",
        "attestation",
        "awaiting",
        "id",
        "machine",
        "wake",
    )

    def __init__(self, machine: StreamMachine, caller: Caller, registry: StreamRegistry, *, now: datetime) -> None:
        self.id = registry.begin(caller)
        self.machine = machine
        self.wake = asyncio.Event()
        self.attestation = Attestation(selectors=frozenset())
        self.awaiting: Mapping[str, str] = {}  # why names are not there, or not newer, where that is known
        self._caller = caller
        self._registry = registry
        self._connected_at = to_timestamp(now)  # once: it is slow, and a report is made for every push
        self._offered: Available | None = None
        self._refused: Mapping[str, Standing] = {}
        self._has_said_wrong_type = False
        self._has_said_ignored = False

    async def read(self, requests: AsyncIterator[Any]) -> None:
        """Feed requests to the machine until the proxy has no more."""
        async for request in requests:
            heard = self.machine.on_request(request)
            self._log_what_was_heard(heard, request)
            if heard is not Heard.WRONG_TYPE:
                self.tell()
            # What needs no new answer wakes nobody: a flood of it costs its sender more than us.
            if self.machine.is_owed:
                self.wake.set()
            del request  # an Envoy's first one describes it in 61 KB, and the next may come in hours

    def next_response(self, available: Available) -> Any | None:
        """What to send next now that the caller may have `available`; None when it has been told all of it."""
        if available is self._offered and not self.machine.is_owed:
            return None
        self._offered = available
        response = self.machine.offer(available)
        self.tell()
        return response

    def take_all(self, request: discovery_pb2.DiscoveryRequest, available: Available) -> None:
        """A single request: nobody answers what is sent for it, which counts as taken."""
        asked = discovery_pb2.DiscoveryRequest(node=request.node, resource_names=request.resource_names)
        self.machine.on_request(asked)
        if (sent := self.next_response(available)) is not None:
            asked.version_info, asked.response_nonce = sent.version_info, sent.nonce
            self.machine.on_request(asked)

    def tell(self) -> None:
        """Let the registry know that the stream stands otherwise than before."""
        self._registry.change(self.id, self.report)

    def report(self) -> types_pb2.StreamReport:
        """How the stream stands now."""
        credentials = self._caller.credentials
        return types_pb2.StreamReport(
            stream_id=self.id,
            protocol=self.machine.protocol,
            pid=credentials.pid,
            uid=credentials.uid,
            gid=credentials.gid,
            executable=self.attestation.executable,
            node_id=self.machine.node_id,
            resources=resource_reports(self.machine.standings(), self.awaiting),
            connected_at=self._connected_at,
        )

    def _log_what_was_heard(self, heard: Heard, request: Any) -> None:
        if heard is Heard.REFUSED:
            refused = {each.name: each for each in self.machine.standings() if each.state is State.REFUSED}
            for name, standing in refused.items():
                if standing != self._refused.get(name):  # said once, however often the proxy says so
                    self._warn("proxy refused a secret", name=name, refusal=standing.refusal)
            self._refused = refused
        elif heard is Heard.WRONG_TYPE and not self._has_said_wrong_type:
            self._has_said_wrong_type = True
            self._warn("request for another type ignored", type_url=request.type_url[:200])
        if self.machine.ignored_names and not self._has_said_ignored:
            self._has_said_ignored = True
            self._warn("names ignored: too many or too long", ignored=self.machine.ignored_names)

    def _warn(self, event: str, **values: object) -> None:
        credentials = self._caller.credentials
        _log.warning(event, stream=self.id, pid=credentials.pid, uid=credentials.uid, **values)
