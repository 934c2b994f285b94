"""What is told of this cluster's trust, wired onto the server's core."""

from __future__ import annotations

from collections.abc import Sequence

from ca.api.trust_facts import Foreigner, Terms, TrustFactsService
from ca.federation.known import KnownBundle, Source
from ca.federation.standing import Standing
from ca.settings import ServerSettings
from citadel.spiffe import TrustDomain
from cli.server_core import ServerCore
from cli.server_federation import FederationAffairs


def trust_facts_service(settings: ServerSettings, core: ServerCore) -> TrustFactsService:
    """The service of `citadel-cli trust`."""
    federation = settings.federation
    return TrustFactsService(
        authorities=core.authorities,
        directory=core.directory,
        lists=core.revocation.lists,
        foreigners=lambda: _foreigners(core.federation),
        terms=Terms(
            upstream=settings.upstream.kind,
            backdate=settings.svids.backdate,
            leaf_lifetime=settings.svids.default_lifetime,
            endpoint_profile=federation.profile.value if federation.listen is not None else "",
        ),
        clock=core.clock,
    )


def _foreigners(affairs: FederationAffairs) -> Sequence[Foreigner]:
    """Each trust domain with a bundle in force, or with an endpoint to fetch it from."""
    standings = {each.trust_domain: each for each in affairs.federations.all()}
    bundles = affairs.bundles.all()
    return [_foreigner(each, bundles.get(each), standings.get(each)) for each in {*standings, *bundles}]


def _foreigner(trust_domain: TrustDomain, known: KnownBundle | None, standing: Standing | None) -> Foreigner:
    error = standing.error if standing is not None else None
    return Foreigner(
        trust_domain=trust_domain,
        bundle=known.bundle if known is not None else None,
        is_set=known is not None and known.source is Source.SET,
        endpoint_url=standing.federation.place if standing is not None else "",
        endpoint_profile=standing.federation.profile.value if standing is not None else "",
        failures=standing.failures if standing is not None else 0,
        last_reason=error.reason.value if error is not None else "",
        last_error=error.message if error is not None else "",
    )
