"""An agent as the server sees it, and no more: its stream, its certificates, its reports, over a connection of its own.

It does what a real one does on the wire: acknowledges, changes to a new connection when the roots or its own identity
have changed, renews itself first, then its SVIDs at a random moment of the window, with fresh keys, and reports them as
acknowledged by its sidecars. What a real one does for its own node alone is left out: the path of an answered
certificate to a root costs half a millisecond of that node's processor, and a thousand nodes share one process here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from typing import Any, Final

from cryptography import x509
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from citadel._wire import agent_api_pb2 as pb
from citadel._wire import agent_api_pb2_grpc, types_pb2
from citadel.bundle import TrustBundle
from citadel.revocation import RevocationList, RevocationSet
from citadel.serial import serial_hex
from citadel.spiffe import TrustDomain
from citadel.svid import X509Svid
from sds.keep.keys import new_key, request_for
from sds.keep.orders import RenewOrder
from sds.link.channel import agent_channel
from sds.link.identity import AgentIdentity
from sds.settings import ReconnectSettings

_ACKNOWLEDGED: Final = types_pb2.ResourceReport.ACKNOWLEDGED
_OWN_SHARE: Final = 0.25  # of an order's window, as `sds.link.renewal` has it
_TIMEOUT: Final = 60.0
_PAUSE: Final = 1.0
_GRACE: Final = 15.0


@dataclass(frozen=True, slots=True)
class _Held:
    spiffe_id: str
    serial: str
    issuer: bytes
    not_after: Timestamp


class _Line:
    """One connection and its stream."""

    def __init__(self, channel: aio.Channel) -> None:
        self.channel = channel
        self.api = agent_api_pb2_grpc.AgentApiStub(channel)
        self.call: Any = None
        self.is_given_up = False
        self.synced = asyncio.Event()
        self._turn = asyncio.Lock()

    async def say(self, **kind: Any) -> None:
        async with self._turn:
            await self.call.write(pb.AgentMessage(**kind))


class SimulatedAgent:
    """Runs until it is cancelled."""

    def __init__(self, identity: AgentIdentity, *, sidecars: int, random: Random) -> None:
        self._identity = identity
        self._sidecars = sidecars
        self._random = random
        self._entries: dict[str, str] = {}  # SPIFFE IDs by entry
        self._lists = ""
        self._orders: dict[str, tuple[RenewOrder, int]] = {}  # with how many SVIDs they covered
        self._renewing: bytes = b""  # the own certificate that is being replaced
        self._move, self._news = asyncio.Event(), asyncio.Event()
        self._line: _Line | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self.held: dict[str, _Held] = {}

    async def run(self) -> None:
        """Keep going until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            while True:
                fresh, old = _Line(agent_channel_of(self._identity)), self._line
                self._tasks.create_task(self._listen(fresh))
                await fresh.synced.wait()
                self._line = fresh
                if old is not None:
                    old.is_given_up = True
                    old.call.cancel()
                    self._tasks.create_task(old.channel.close(_GRACE))
                await self._move.wait()
                self._move.clear()

    async def has(self, svids: int) -> None:
        """Wait until it holds so many."""
        while len(self.held) < svids:
            self._news.clear()
            await self._news.wait()

    async def _listen(self, line: _Line) -> None:
        """Until the line is given up; a stream that breaks, or does not come about, is opened again."""
        while not line.is_given_up:
            try:
                await self._stream(line)
            except aio.AioRpcError:
                pass
            except asyncio.CancelledError:
                if not line.is_given_up:  # otherwise its call was cancelled, and this task was not
                    raise
            await asyncio.sleep(_PAUSE * self._random.random())

    async def _stream(self, line: _Line) -> None:
        line.call = line.api.Sync()
        await line.say(hello=pb.Hello(agent_version="simulated"))
        parts: list[pb.Update] = []
        is_first = True
        while isinstance(part := await line.call.read(), pb.Update):
            parts.append(part)
            if not part.more:
                await self._take(line, parts, is_first=is_first)
                parts, is_first = [], False

    async def _take(self, line: _Line, parts: Sequence[pb.Update], *, is_first: bool) -> None:
        if any(part.snapshot for part in parts):
            self._entries.clear()
        for part in parts:
            self._entries.update((entry.id, entry.spiffe_id) for entry in part.entries)
            if part.HasField("revocations"):
                self._lists = _version_of(part.revocations.SerializeToString(deterministic=True))
        before = self._identity.bundle
        for bundle in (bundle for part in parts for bundle in part.bundles):
            self._identity = replace(self._identity, bundle=_bundle_of(bundle.trust_domain, bundle.json))
        bundle = self._identity.bundle
        taken = pb.Acknowledge(
            revision=parts[-1].revision, bundle_sequence=bundle.sequence or 0, revocation_version=self._lists
        )
        await line.say(acknowledge=taken)
        line.synced.set()
        if is_first or bundle != before:
            await line.say(streams=pb.Streams(snapshot=is_first, reports=self._reports()))
        if bundle.x509_authorities != before.x509_authorities:
            self._move.set()  # a channel keeps the roots that it was made with
        if missing := self._entries.keys() - self.held.keys():
            self._start(self._sign(list(missing)))
        for part in parts:
            if part.HasField("renew"):
                self._start(self._obey(line, RenewOrder.from_wire(part.renew)))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        async def unless_it_broke() -> None:
            # The next stream is told the same orders again, and tells how far they are.
            with suppress(aio.AioRpcError, asyncio.InvalidStateError):
                await work

        assert self._tasks is not None
        self._tasks.create_task(unless_it_broke())

    async def _obey(self, line: _Line, order: RenewOrder) -> None:
        window = order.window.total_seconds()
        if order.own:
            await self._renew_itself(window * _OWN_SHARE * self._random.random())
            return
        if order.id in self._orders:  # told again over a new connection
            await line.say(progress=self._progress())
            return
        covered = self._covered(order)
        self._orders[order.id] = (order, len(covered))
        await line.say(progress=self._progress())
        await asyncio.sleep(window * self._random.random())
        while covered := self._covered(order):
            await self._sign(covered)
        assert self._line is not None
        await self._line.say(streams=pb.Streams(reports=self._reports()))
        await self._line.say(progress=self._progress())

    def _covered(self, order: RenewOrder) -> list[str]:
        return [entry_id for entry_id, held in self.held.items() if held.issuer in order.issuer_key_ids]

    def _progress(self) -> pb.RenewProgress:
        told = []
        for order, covered in self._orders.values():
            left = self._covered(order)
            progress = pb.OrderProgress(order_id=order.id, covered=covered, left=len(left))
            if left:
                progress.left_until.CopyFrom(self.held[left[0]].not_after)
            told.append(progress)
        return pb.RenewProgress(orders=told)

    async def _renew_itself(self, delay: float) -> None:
        now_held = self._identity.svid.chain_der[0]
        if self._renewing == now_held or self._line is None:
            return
        self._renewing = now_held
        await asyncio.sleep(delay)
        key = new_key("ec-p256")
        try:
            answer = await self._line.api.RenewAgent(pb.RenewAgentRequest(csr=request_for(key)), timeout=_TIMEOUT)
        except aio.AioRpcError:
            self._renewing = b""
            await self._renew_itself(_PAUSE)
            return
        self._identity = replace(self._identity, svid=X509Svid.from_der(answer.chain), key=key)
        self._move.set()

    async def _sign(self, entry_ids: Sequence[str]) -> None:
        keys = [new_key("ec-p256") for _ in entry_ids]
        requests = [
            pb.X509SvidRequest(entry_id=entry_id, csr=request_for(key))
            for entry_id, key in zip(entry_ids, keys, strict=True)
        ]
        await asyncio.sleep(0)  # others have their turn before it is sent
        while self._line is None:
            await asyncio.sleep(0)
        try:
            answer = await self._line.api.SignX509Svids(pb.SignX509SvidsRequest(requests=requests), timeout=_TIMEOUT)
        except aio.AioRpcError:
            await asyncio.sleep(_PAUSE * self._random.random())
            await self._sign(entry_ids)
            return
        for entry_id, key, result in zip(entry_ids, keys, answer.results, strict=True):
            leaf = x509.load_der_x509_certificate(result.svid.chain[0])
            assert leaf.public_key() == key.public_key(), result.svid.spiffe_id
            self.held[entry_id] = _Held(
                spiffe_id=result.svid.spiffe_id,
                serial=serial_hex(leaf.serial_number),
                issuer=_key_id_of(result.svid.chain[1]),
                not_after=result.svid.not_after,
            )
        self._news.set()

    def _reports(self) -> Iterable[types_pb2.StreamReport]:
        bundle = self._identity.bundle
        known = list(self.held.items())[: self._sidecars]
        return [_report(entry_id, held, bundle, self._lists) for entry_id, held in known]


def agent_channel_of(identity: AgentIdentity) -> aio.Channel:
    """A channel as the agent that `identity` is."""
    anchors = identity.bundle.x509_authorities
    return agent_channel(identity.agent_api, identity=identity, anchors=anchors, reconnect=ReconnectSettings())


# What the server tells all agents alike is read once.
@lru_cache(maxsize=16)
def _bundle_of(trust_domain: str, json: bytes) -> TrustBundle:
    return TrustBundle.from_json(TrustDomain.parse(trust_domain), json)


@lru_cache(maxsize=16)
def _version_of(message: bytes) -> str:
    lists = types_pb2.RevocationSet.FromString(message).lists
    return RevocationSet(tuple(RevocationList.from_der(each.issuer, each.crl) for each in lists)).version


@lru_cache(maxsize=16)
def _key_id_of(issuer: bytes) -> bytes:
    found = x509.load_der_x509_certificate(issuer).extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return found.value.digest


def _report(entry_id: str, held: _Held, bundle: TrustBundle, lists: str) -> types_pb2.StreamReport:
    sequence = bundle.sequence or 0
    return types_pb2.StreamReport(
        stream_id=entry_id,
        protocol="sds",
        pid=1,
        resources=[
            types_pb2.ResourceReport(
                name="default",
                state=_ACKNOWLEDGED,
                version=held.serial,
                spiffe_id=held.spiffe_id,
                serial=held.serial,
                not_after=held.not_after,
                issuer_key_id=held.issuer,
                held_version=held.serial,
                held_serial=held.serial,
                held_not_after=held.not_after,
                held_issuer_key_id=held.issuer,
            ),
            types_pb2.ResourceReport(
                name="ROOTCA",
                state=_ACKNOWLEDGED,
                version=str(sequence),
                trust_domain=bundle.trust_domain.name,
                bundle_sequence=sequence,
                held_version=str(sequence),
                held_bundle_sequence=sequence,
                revocation_version=lists,
                held_revocation_version=lists,
            ),
        ],
    )
