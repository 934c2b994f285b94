"""An agent without a machine of its own: the product's link, keeper and own renewal, over its own channel.

What it lacks beside the real one: a disk, the attestation of callers, and proxies, whose reports it makes up: one
sidecar for each entry, which acknowledges at once whatever it is sent. Of an answered certificate the key and the
dates are looked at, and its path to a root is not walked: that costs each real node half a millisecond of its own
processor, and a thousand of them in one process would measure nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from citadel._wire import agent_api_pb2, types_pb2
from citadel.bundle import TrustBundle
from citadel.clock import Clock
from citadel.errors import Reason, Unauthenticated
from citadel.spiffe import SpiffeId
from citadel.svid import X509Svid
from citadel.wire import to_timestamp
from sds.holdings import HeldSvid, HoldingsFeed
from sds.keep.keeper import Keeper
from sds.keep.orders import RenewOrder
from sds.link.bootstrap import Bootstrap
from sds.link.identity import AgentIdentity, IdentityFile, OwnIdentity
from sds.link.link import Heeding, Link, Telling
from sds.link.renewal import OwnRenewal
from sds.link.returning import Returning
from sds.link.signing import RemoteSigner
from sds.settings import ReconnectSettings

_ACKNOWLEDGED: Final = types_pb2.ResourceReport.ACKNOWLEDGED
_Told = tuple[str, int]  # serial and bundle sequence


class SimulatedAgent:
    """Runs until it is cancelled."""

    def __init__(self, identity: AgentIdentity, *, sidecars: int, clock: Clock, random: Random) -> None:
        trust_domain, reconnect = identity.bundle.trust_domain, ReconnectSettings()
        self.feed = HoldingsFeed()
        self.feed.publish(replace(self.feed.current, bundles={trust_domain: identity.bundle}))
        self.identity = OwnIdentity(current=identity, file=_NoFile(Path()))
        self._keeper = Keeper(
            trust_domain=trust_domain,
            key_kind="ec-p256",
            feed=self.feed,
            signer=RemoteSigner(api=lambda: self._link.api),
            reconnect=reconnect,
            clock=clock,
            random=random,
            check=_as_asked_for,
        )
        self._link = Link(
            identity=self.identity,
            servers=(),
            hello=lambda: agent_api_pb2.Hello(agent_version="simulated"),
            feed=self.feed,
            telling=Telling(reports=_Sidecars(self.feed, most=sidecars), progress=self._keeper.progress()),
            heeding=Heeding(
                on_up=self._keeper.server_is_back,
                on_order=self._obey,
                on_roots=lambda: self._renewal.look_again(),  # noqa: PLW0108 - it is made after the link
            ),
            reconnect=reconnect,
            clock=clock,
        )
        self._renewal = OwnRenewal(
            identity=self.identity,
            link=self._link,
            returning=Returning(
                bootstrap=Bootstrap(trust_domain=trust_domain, reconnect=reconnect, clock=clock), servers=()
            ),
            reconnect=reconnect,
            clock=clock,
            random=random,
        )

    async def run(self) -> None:
        """Keep going until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for part in (self._link.run(), self._keeper.run(), self._renewal.run()):
                tasks.create_task(part)

    async def has(self, svids: int) -> None:
        """Wait until it holds so many."""
        news = asyncio.Event()
        self.feed.watch(news)
        while len(self.feed.current.svids) < svids:
            await news.wait()
            news.clear()
        self.feed.unwatch(news)

    def _obey(self, order: RenewOrder) -> None:
        self._renewal.obey(order)
        self._keeper.obey(order)


class _NoFile(IdentityFile):
    def save(self, identity: AgentIdentity) -> None:
        del identity


class _Sidecars:
    """Fulfils `sds.link.sync.StreamReports`: for each SVID a stream with it and the bundle, for the first `most`."""

    def __init__(self, feed: HoldingsFeed, *, most: int) -> None:
        self._feed = feed
        self._most = most
        self._told: dict[str, _Told] = {}
        self.watch, self.unwatch = feed.watch, feed.unwatch

    def snapshot(self) -> Sequence[types_pb2.StreamReport]:
        self._told = {}
        return self.take_changed()

    def take_changed(self) -> Sequence[types_pb2.StreamReport]:
        current = self._feed.current
        bundle = next(iter(current.bundles.values()))
        changed = []
        for held in list(current.svids.values())[: self._most]:
            told = (held.svid.serial, bundle.sequence or 0)
            if self._told.get(held.entry_id) != told:
                self._told[held.entry_id] = told
                changed.append(_report(held, bundle))
        return changed


def _report(held: HeldSvid, bundle: TrustBundle) -> types_pb2.StreamReport:
    ends, issuer, sequence = to_timestamp(held.svid.not_after), held.issuer_key_id, bundle.sequence or 0
    return types_pb2.StreamReport(
        stream_id=held.entry_id,
        protocol="sds",
        pid=1,
        resources=[
            types_pb2.ResourceReport(
                name="default",
                state=_ACKNOWLEDGED,
                version=held.svid.serial,
                spiffe_id=str(held.svid.spiffe_id),
                serial=held.svid.serial,
                not_after=ends,
                issuer_key_id=issuer,
                held_version=held.svid.serial,
                held_serial=held.svid.serial,
                held_not_after=ends,
                held_issuer_key_id=issuer,
            ),
            types_pb2.ResourceReport(
                name="ROOTCA",
                state=_ACKNOWLEDGED,
                version=str(sequence),
                trust_domain=bundle.trust_domain.name,
                bundle_sequence=sequence,
                held_version=str(sequence),
                held_bundle_sequence=sequence,
            ),
        ],
    )


def _as_asked_for(
    chain_der: Sequence[bytes],
    *,
    spiffe_id: SpiffeId,
    public_key: PublicKeyTypes,
    bundle: TrustBundle,
    now: datetime,
) -> X509Svid:
    """Fulfils `sds.keep.batch.Check`."""
    del bundle
    leaf = x509.load_der_x509_certificate(chain_der[0])
    svid = X509Svid(spiffe_id, (leaf,))
    is_valid = svid.not_before <= now < svid.not_after
    if not is_valid or leaf.public_key() != public_key:
        raise Unauthenticated(Reason.SVID_UNTRUSTED, f"not the certificate that was asked for: {svid.spiffe_id}")
    return svid
