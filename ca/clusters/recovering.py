"""Taking up again what was signed for children while nobody kept it: after a restore of this server's records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.audit.model import Act
from ca.authority.certificates import subject_key_id
from ca.clusters.gaps import proven
from ca.clusters.model import ChildAuthority
from ca.clusters.records import ChildRecords
from citadel._wire import clusters_pb2 as pb
from citadel.actor import Actor
from citadel.clock import Clock
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.tasks import to_its_end

_log = structlog.get_logger(__name__)


class Recovering:
    """`roots` are those by which this server signs, or has signed."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        records: ChildRecords,
        roots: Callable[[], Collection[x509.Certificate]],
        clock: Clock,
    ) -> None:
        self._trust_domain = trust_domain
        self._records = records
        self._roots = roots
        self._clock = clock

    async def take_up(self, child: SpiffeId, report: pb.ClusterReport) -> None:
        """Have on record what this child proves that it was given in such a time."""
        now = self._clock.now()
        if self._records.gaps.until(now) is None:
            return
        known = {each.certificate.public_bytes(Encoding.DER) for each in self._records.signed(child)}
        for reported in report.issuers:
            if reported.certificate in known:
                continue
            found = await asyncio.to_thread(
                proven, reported, trust_domain=self._trust_domain, roots=tuple(self._roots())
            )
            if found is not None and self._records.gaps.covers(found[0]):
                await self._record(child, *found)

    async def _record(self, child: SpiffeId, certificate: x509.Certificate, root: x509.Certificate) -> None:
        authority = ChildAuthority(
            child=child,
            certificate=certificate,
            root_key_id=subject_key_id(root),
            signed_at=self._clock.now(),
        )
        if authority.not_after <= authority.signed_at or self._records.has_key(authority.key_id):
            return
        act = Act(actor=Actor.identity(child), what="downstream.recover", target=str(child), detail=authority.serial)
        await to_its_end(self._records.record(authority, act))
        _log.warning("authority of a child is known again", child=str(child), serial=authority.serial)
