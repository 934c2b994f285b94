"""`citadel.v1.Federations`: where foreign bundles are fetched, as administrators say it. On the local socket only."""

from __future__ import annotations

from typing import Any, Final

from ca.api.federation_answers import federation_message
from ca.api.given_bundles import given_bundle
from ca.api.listeners import ActorOf
from ca.entries.directory import EntryDirectory
from ca.federation.federations import Federations
from ca.federation.known import ForeignBundles
from ca.federation.model import Federation
from ca.federation.settings import Profile
from ca.federation.standing import Standing
from citadel._wire import federation_pb2 as pb
from citadel._wire import federation_pb2_grpc
from citadel.bundle import TrustBundle
from citadel.clock import Clock
from citadel.errors import InvalidArgument, Reason
from citadel.spiffe import SpiffeId, TrustDomain

_MOST_WHY: Final = 500  # characters


class FederationService(federation_pb2_grpc.FederationsServicer):
    """Parses, asks those who know, answers."""

    def __init__(
        self,
        *,
        federations: Federations,
        bundles: ForeignBundles,
        directory: EntryDirectory,
        clock: Clock,
        actor_of: ActorOf,
    ) -> None:
        self._federations = federations
        self._bundles = bundles
        self._directory = directory
        self._clock = clock
        self._actor_of = actor_of

    async def CreateFederation(self, request: pb.CreateFederationRequest, context: Any) -> pb.Federation:
        trust_domain = TrustDomain.parse(request.trust_domain)
        wanted = Federation(
            trust_domain=trust_domain,
            endpoint_url=request.endpoint_url,
            profile=_profile(request.profile),
            endpoint_id=SpiffeId.parse(request.endpoint_spiffe_id) if request.endpoint_spiffe_id else None,
            created_at=self._clock.now(),
        )
        bootstrap = await _bootstrap(request, trust_domain)
        made = await self._federations.create(wanted, bootstrap, why=_why(request.why), by=self._actor_of(context))
        return self._message(made)

    async def ListFederations(self, request: pb.ListFederationsRequest, context: Any) -> pb.ListFederationsResponse:
        return pb.ListFederationsResponse(federations=map(self._message, self._federations.all()))

    async def GetFederation(self, request: pb.GetFederationRequest, context: Any) -> pb.Federation:
        return self._message(self._federations.get(TrustDomain.parse(request.trust_domain)))

    async def RefreshFederation(self, request: pb.RefreshFederationRequest, context: Any) -> pb.Federation:
        why = _why(request.why)
        if request.force and not why:
            raise InvalidArgument(Reason.REQUEST_MALFORMED, "a refresh by force needs a reason")
        trust_domain, by = TrustDomain.parse(request.trust_domain), self._actor_of(context)
        return self._message(await self._federations.refresh(trust_domain, force=request.force, why=why, by=by))

    async def DeleteFederation(self, request: pb.DeleteFederationRequest, context: Any) -> pb.Federation:
        trust_domain, by = TrustDomain.parse(request.trust_domain), self._actor_of(context)
        return self._message(await self._federations.delete(trust_domain, why=_why(request.why), by=by))

    def _message(self, standing: Standing) -> pb.Federation:
        domain = standing.trust_domain
        entries = len(self._directory.federating(domain))
        return federation_message(standing, self._bundles.get(domain), entries=entries)


def _profile(name: str) -> Profile:
    try:
        return Profile(name)
    except ValueError as error:
        good = " or ".join(each.value for each in Profile)
        raise InvalidArgument(
            Reason.FEDERATION_MALFORMED, f"{name!r:.50} is no profile of an endpoint: it is {good}"
        ) from error


async def _bootstrap(request: pb.CreateFederationRequest, trust_domain: TrustDomain) -> TrustBundle | None:
    if not request.HasField("bootstrap"):
        return None
    if TrustDomain.parse(request.bootstrap.trust_domain) != trust_domain:
        raise InvalidArgument(
            Reason.FEDERATION_MALFORMED, f"the bundle is of {request.bootstrap.trust_domain!r:.300}, not {trust_domain}"
        )
    return await given_bundle(request.bootstrap, trust_domain)


def _why(text: str) -> str:
    why = text.strip()
    if len(why) > _MOST_WHY or not (why.isprintable() or not why):
        raise InvalidArgument(Reason.REQUEST_MALFORMED, f"a reason has at most {_MOST_WHY} printable characters")
    return why
