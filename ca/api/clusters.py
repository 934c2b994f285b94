"""`citadel.v1.Clusters`: what child servers ask over mutual TLS. Every method authenticates first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import structlog
from cryptography.hazmat.primitives.serialization import Encoding

from ca.api.gates import leaf_pem
from ca.clusters.callers import ChildCallers
from ca.clusters.in_force import InForce
from ca.clusters.keeping import Keeping
from ca.clusters.knowing import Everywhere, Knowing
from ca.clusters.push import FollowPush
from ca.clusters.sessions import ChildBook, ChildSession
from ca.clusters.signing import DownstreamSigner
from ca.rotation.ports import Beyond
from citadel._wire import clusters_pb2 as pb
from citadel._wire import clusters_pb2_grpc
from citadel.clock import Clock

_log = structlog.get_logger(__name__)


class ClustersService(clusters_pb2_grpc.ClustersServicer):
    """Signs for children, and tells them what is to be trusted."""

    def __init__(
        self,
        *,
        callers: ChildCallers,
        signer: DownstreamSigner,
        book: ChildBook,
        keeping: Keeping,
        in_force: InForce,
        knowing: Knowing,
        above: Sequence[Beyond] = (),
        clock: Clock,
    ) -> None:
        """`above` are the clusters beside this one, where there are any: what is not known there is known nowhere."""
        self._callers = callers
        self._signer = signer
        self._book = book
        self._keeping = keeping
        self._in_force = in_force
        self._knowing = knowing
        self._everywhere = Everywhere(knowing=knowing, above=above)
        self._clock = clock

    async def SignIssuer(self, request: pb.SignIssuerRequest, context: Any) -> pb.SignIssuerResponse:
        child = await self._callers.authenticate(leaf_pem(context))
        signed = await self._signer.sign(child, request)
        return pb.SignIssuerResponse(
            chain=[each.public_bytes(Encoding.DER) for each in signed.chain],
            root=signed.root.public_bytes(Encoding.DER),
        )

    async def Follow(
        self, request_iterator: AsyncIterator[pb.ClusterReport], context: Any
    ) -> AsyncIterator[pb.ClusterUpdate]:
        child = await self._callers.authenticate(leaf_pem(context))
        session = ChildSession(child=child, connected_at=self._clock.now())
        reader = asyncio.create_task(self._read(request_iterator, session))
        push = FollowPush(
            session=session,
            reader=reader,
            callers=self._callers,
            in_force=self._in_force,
            everywhere=self._everywhere,
            clock=self._clock,
        )
        self._book.open(session)
        _log.info("child cluster connected", child=str(child.spiffe_id))
        try:
            with self._knowing.asked(), self._callers.waking(session.wake, child):
                await push.run(context.write)
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            self._book.close(session, at=self._clock.now())
            _log.info("child cluster disconnected", child=str(child.spiffe_id))
        # All was said by `push`: a `yield` could not be given up while the child does not read.
        none: tuple[pb.ClusterUpdate, ...] = ()
        for update in none:
            yield update

    async def _read(self, reports: AsyncIterator[pb.ClusterReport], session: ChildSession) -> None:
        try:
            async for report in reports:
                await self._keeping.take(session, report)
        finally:
            session.wake.set()  # the stream ended: let the writing side see it
