"""What is told of this cluster's trust, wired onto the server's core."""

from __future__ import annotations

from collections.abc import Sequence

from ca.api.trust_facts import Foreigner, Terms, TrustFactsService
from ca.settings import ServerSettings
from cli.server_core import ServerCore


def trust_facts_service(settings: ServerSettings, core: ServerCore) -> TrustFactsService:
    """The service of `citadel-cli trust`."""
    upstream, federation = settings.upstream, settings.federation
    return TrustFactsService(
        authorities=core.authorities,
        directory=core.directory,
        lists=core.revocation.lists,
        foreigners=_no_foreigners,
        terms=Terms(
            upstream="files" if upstream.files else "citadel" if upstream.citadel else "self",
            backdate=settings.svids.backdate,
            leaf_lifetime=settings.svids.default_lifetime,
            endpoint_profile=federation.profile.value if federation.listen is not None else "",
        ),
        clock=core.clock,
    )


def _no_foreigners() -> Sequence[Foreigner]:
    return ()
