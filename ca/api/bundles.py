"""`citadel.v1.Bundles`: the bundles in force, and those that a person gives and takes. On the local socket only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cryptography import x509

from ca.api.federation_answers import bundle_in_short, known_bundle_message
from ca.api.given_bundles import given_bundle
from ca.api.listeners import ActorOf
from ca.authority.manager import AuthorityManager
from ca.entries.directory import EntryDirectory
from ca.federation.by_hand import BundlesByHand, DeleteMode
from ca.federation.exchange import Exchange
from ca.federation.known import ForeignBundles, KnownBundle
from citadel._wire import federation_pb2 as pb
from citadel._wire import federation_pb2_grpc
from citadel.bundle import TrustBundle
from citadel.errors import InvalidArgument, Reason
from citadel.spiffe import TrustDomain

_OWN, _EXCHANGED = "own", "exchanged"


class BundleService(federation_pb2_grpc.BundlesServicer):
    """Parses, asks those who know, answers."""

    def __init__(
        self,
        *,
        authorities: AuthorityManager,
        foreign: ForeignBundles,
        by_hand: BundlesByHand,
        exchange: Exchange,
        directory: EntryDirectory,
        actor_of: ActorOf,
    ) -> None:
        self._authorities = authorities
        self._foreign = foreign
        self._by_hand = by_hand
        self._exchange = exchange
        self._directory = directory
        self._actor_of = actor_of

    async def ListBundles(self, request: pb.ListBundlesRequest, context: Any) -> pb.ListBundlesResponse:
        found = sorted(self._foreign.all().values(), key=lambda known: known.bundle.trust_domain)
        own = self._own(self._authorities.bundle(), is_whole=False)
        return pb.ListBundlesResponse(bundles=[own, *(self._known(each, is_whole=False) for each in found)])

    async def GetBundle(self, request: pb.GetForeignBundleRequest, context: Any) -> pb.KnownBundle:
        own = self._authorities.bundle()
        wanted = TrustDomain.parse(request.trust_domain or own.trust_domain.name)
        return self._own(own) if wanted == own.trust_domain else self._known(self._by_hand.get(wanted))

    async def SetBundle(self, request: pb.SetBundleRequest, context: Any) -> pb.KnownBundle:
        by, own = self._actor_of(context), self._authorities.bundle().trust_domain
        domain = own if request.own_domain else TrustDomain.parse(request.bundle.trust_domain)
        bundle = await given_bundle(request.bundle, domain)
        if request.own_domain:
            return self._exchanged(await self._exchange.take(bundle, why=request.why, by=by))
        return self._known(await self._by_hand.set(bundle, why=request.why, by=by))

    async def DeleteBundle(self, request: pb.DeleteBundleRequest, context: Any) -> pb.KnownBundle:
        by = self._actor_of(context)
        if request.own_domain:
            return self._exchanged(await self._exchange.give_up(why=request.why, by=by))
        wanted, mode = TrustDomain.parse(request.trust_domain), _mode(request.mode)
        known, using = self._by_hand.get(wanted), len(self._directory.federating(wanted))
        await self._by_hand.delete(wanted, mode, why=request.why, by=by)
        return known_bundle_message(known, entries=using, with_json=True)

    def _own(self, bundle: TrustBundle, *, is_whole: bool = True) -> pb.KnownBundle:
        message = bundle_in_short(bundle, source=_OWN, with_json=is_whole)
        exchanged = self._authorities.for_workloads_alone()
        message.exchanged_authorities = len(exchanged)
        message.bundle.for_workloads_alone.extend(exchanged)
        return message

    def _known(self, known: KnownBundle, *, is_whole: bool = True) -> pb.KnownBundle:
        using = len(self._directory.federating(known.bundle.trust_domain))
        return known_bundle_message(known, entries=using, with_json=is_whole)

    def _exchanged(self, roots: Sequence[x509.Certificate]) -> pb.KnownBundle:
        own = self._authorities.bundle()
        bundle = replace(own, x509_authorities=tuple(roots), jwt_authorities={}, sequence=None, refresh_hint=None)
        return bundle_in_short(bundle, source=_EXCHANGED)


def _mode(text: str) -> DeleteMode:
    try:
        return DeleteMode(text or DeleteMode.RESTRICT.value)
    except ValueError:
        good = ", ".join(DeleteMode)
        raise InvalidArgument(Reason.REQUEST_MALFORMED, f"{text[:100]!r} is no mode, use one of {good}") from None
