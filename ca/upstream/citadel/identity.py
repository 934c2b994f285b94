"""Who this server is at its parent: an X509-SVID from the Workload API of an agent of the parent, kept fresh."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import grpc
import structlog
from cryptography import x509
from grpc import aio
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from citadel._wire import workload_pb2 as pb
from citadel._wire.workload_pb2_grpc import SpiffeWorkloadAPIStub
from citadel.bundle import TrustBundle
from citadel.certification_path import NoPathError, find_path
from citadel.clock import Clock
from citadel.errors import CitadelError, FailedPrecondition, Reason, Unavailable
from citadel.line import Pace
from citadel.rpc import from_rpc_error
from citadel.spiffe import TrustDomain
from citadel.svid import X509Svid
from citadel.x509_context import X509Context, parse_x509_context

_HEADER: Final = (("workload.spiffe.io", "true"),)  # WEP-05
_MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
# Another try is another connection, without the pauses that gRPC makes for the old one; and no proxy in between.
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentIdentity:
    """What this server shows to its parent, the root above that, and the bundle that workloads of the parent trust."""

    svid: X509Svid
    key_pem: bytes = field(repr=False)
    bundle: TrustBundle
    root: x509.Certificate

    def believed(self, roots: Collection[x509.Certificate]) -> tuple[x509.Certificate, ...]:
        """By what the parent is known, beside `roots` that it has told of itself: never by the whole bundle.

        That can hold roots which were exchanged for workloads alone: whoever has one of these is no parent. The one who
        signed our own SVID is.
        """
        told = (each for each in self.bundle.x509_authorities if each in roots and each != self.root)
        return (self.root, *told)


class ParentIdentities:
    """Follows the Workload API for as long as `run` runs.

    `current` is the newest identity; one that was taken away stays, since nothing else is in hand, and it is the
    parent's to refuse. `trouble` is why there is no news, where there can be none.
    """

    def __init__(self, *, trust_domain: TrustDomain, workload_api: Path, pace: Pace, clock: Clock) -> None:
        self._trust_domain = trust_domain
        self._socket = workload_api
        self._clock = clock
        self._wait = wait_random_exponential(multiplier=pace.initial.total_seconds(), max=pace.maximum.total_seconds())
        self._watchers: list[Callable[[], None]] = []
        self.current: ParentIdentity | None = None
        self.trouble: CitadelError | None = None
        self.news = asyncio.Event()  # set at the first answer, whatever it is worth

    def watch(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever `current` is another one."""
        self._watchers.append(callback)

    async def run(self) -> None:
        """Follow for ever; where the agent is away, try again, ever more slowly."""
        while True:
            attempts = AsyncRetrying(
                retry=retry_if_exception_type(CitadelError), wait=self._wait, sleep=self._clock.sleep, reraise=True
            )
            async for attempt in attempts:
                with attempt:
                    await self._one_stream()

    async def _one_stream(self) -> None:
        """Until it ends. Raises why where it brought nothing that can be used."""
        brought_something = False
        try:
            async with aclosing(self._messages()) as messages:
                async for message in messages:
                    self._take(parse_x509_context(message))
                    brought_something = True
            raise Unavailable(Reason.SERVER_UNREACHABLE, f"the agent at {self._socket} has ended the stream")
        except CitadelError as error:
            self._note(error)
            if not brought_something:
                raise

    async def _messages(self) -> AsyncGenerator[pb.X509SVIDResponse, None]:
        async with aio.insecure_channel(f"unix:{self._socket}", options=_OPTIONS) as channel:
            try:
                async for message in SpiffeWorkloadAPIStub(channel).FetchX509SVID(
                    pb.X509SVIDRequest(), metadata=_HEADER
                ):
                    yield message
            except grpc.RpcError as error:
                raise self._refusal(from_rpc_error(error)) from error

    def _refusal(self, error: CitadelError) -> CitadelError:
        where = f"the agent of the parent at {self._socket}"
        if error.reason is Reason.SERVER_UNREACHABLE:
            fix = "start it, or set upstream.citadel.workload_api to its socket"
            return Unavailable(Reason.UPSTREAM_UNAVAILABLE, f"{where} does not answer: {error.message}", fix=fix)
        fix = "create an entry for this server at the parent, with --downstream"
        return Unavailable(Reason.UPSTREAM_UNAVAILABLE, f"{where} gives this server no SVID: {error.message}", fix=fix)

    def _take(self, context: X509Context) -> None:
        found = next((each for each in context.svids if each.svid.spiffe_id.trust_domain == self._trust_domain), None)
        if found is None:
            raise FailedPrecondition(
                Reason.UPSTREAM_INVALID,
                f"by the agent at {self._socket} this server is {context.svids[0].svid.spiffe_id}, and its trust_domain"
                f" is {self._trust_domain}",
                fix="name an agent of a parent of the same trust domain, or set trust_domain to the parent's",
            )
        bundle = context.bundles[self._trust_domain]
        fresh = ParentIdentity(
            svid=found.svid,
            key_pem=found.private_key_pem,
            bundle=bundle,
            root=_root_above(found.svid, bundle, self._clock.now()),
        )
        self.trouble = None
        self.news.set()
        if fresh != self.current:
            self.current = fresh
            _log.info("identity at the parent", spiffe_id=str(fresh.svid.spiffe_id), serial=fresh.svid.serial)
            for callback in self._watchers:
                callback()

    def _note(self, error: CitadelError) -> None:
        """Told once for each kind of trouble, not for each try."""
        if self.trouble is None or self.trouble.message != error.message:
            _log.warning("no news of this server's identity at the parent", reason=error.reason, error=str(error))
        self.trouble = error
        self.news.set()


def _root_above(svid: X509Svid, bundle: TrustBundle, now: datetime) -> x509.Certificate:
    """As it was while the SVID was valid: one that has ended is the parent's to refuse."""
    leaf, *between = svid.chain
    moment = max(svid.not_before, min(now, svid.not_after))
    try:
        return find_path(leaf, between, bundle.x509_authorities, now=moment)[-1]
    except NoPathError as error:
        raise Unavailable(
            Reason.UPSTREAM_UNAVAILABLE, f"the SVID {svid.spiffe_id} of this server leads to no root: {error.why}"
        ) from error
