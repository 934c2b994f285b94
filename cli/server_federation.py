"""Federation, wired onto the server's parts."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from ca.api.federation_answers import federation_status
from ca.api.federations import FederationService
from ca.api.listeners import ActorOf
from ca.api.server_identity import ServerIdentity
from ca.entries.directory import EntryDirectory
from ca.federation.endpoint import bundle_app
from ca.federation.exchanged import ExchangedRoots
from ca.federation.federations import Federations
from ca.federation.fetching import BundleFetcher
from ca.federation.known import ForeignBundles
from ca.federation.metrics import FederationCollector
from ca.federation.proving import WebTrust
from ca.federation.refreshing import Refreshing
from ca.federation.settings import FederationSettings, Profile
from ca.federation.standing import federation_check
from ca.https.files import FileCertificate
from ca.https.serving import Certificate, TlsHttp
from ca.https.svid import SvidCertificate
from ca.settings import ServerSettings
from ca.store.database import Database
from ca.store.exchanged import SqlExchangedRoots
from ca.store.federation import SqlFederations, SqlForeignBundles
from citadel._wire import admin_pb2
from citadel.bundle import TrustBundle
from citadel.clock import Clock
from citadel.probes import Check
from citadel.spiffe import TrustDomain
from citadel.tally import Tally


@dataclass(frozen=True, kw_only=True)
class FederationAffairs:
    """The foreign bundles in force, and what fetches them."""

    bundles: ForeignBundles
    federations: Federations

    def check(self) -> Check:
        """For `/ready`."""
        return federation_check(self.federations.all())

    def status(self) -> list[admin_pb2.FederationStatus]:
        """For `citadel-cli status`."""
        return [federation_status(each) for each in self.federations.all()]


async def federation_affairs(
    settings: ServerSettings,
    *,
    database: Database,
    own_bundle: Callable[[], TrustBundle],
    on_change: Callable[[TrustDomain], None],
    tally: Tally,
    metrics: CollectorRegistry,
    clock: Clock,
) -> FederationAffairs:
    """The parts, knowing what the store knows. `on_change` is told whose bundle is another one."""
    bundles = ForeignBundles(trust_domain=settings.trust_domain, store=SqlForeignBundles(database=database))
    bundles.watch(on_change)
    web = WebTrust(ca_file=settings.federation.ca_file, clock=clock)
    refreshing = Refreshing(
        bundles=bundles, own_bundle=own_bundle, fetch=BundleFetcher(web=web, clock=clock), tally=tally, clock=clock
    )
    federations = Federations(
        store=SqlFederations(database=database),
        bundles=bundles,
        own=settings.trust_domain,
        refreshing=refreshing,
        clock=clock,
        draw=random.random,
    )
    metrics.register(
        FederationCollector(federations=federations, bundles=bundles, failures=refreshing.failures, clock=clock)
    )
    await bundles.start()
    await federations.start()
    return FederationAffairs(bundles=bundles, federations=federations)


async def exchanged_roots(*, database: Database, clock: Clock) -> ExchangedRoots:
    """The roots of other clusters of the own trust domain, as the store knows them."""
    roots = ExchangedRoots(store=SqlExchangedRoots(database=database, clock=clock))
    await roots.start()
    return roots


def federation_service(
    affairs: FederationAffairs, *, directory: EntryDirectory, clock: Clock, actor_of: ActorOf
) -> FederationService:
    """`citadel.v1.Federations`."""
    return FederationService(
        federations=affairs.federations, bundles=affairs.bundles, directory=directory, clock=clock, actor_of=actor_of
    )


def bundle_endpoint(
    settings: FederationSettings,
    *,
    own_bundle: Callable[[], TrustBundle],
    identity: ServerIdentity,
    metrics: CollectorRegistry,
    clock: Clock,
) -> TlsHttp | None:
    """Where the own bundle is served, not yet started; `None` where the settings ask for none."""
    if settings.listen is None:
        return None
    name = "bundle endpoint"
    certificate: Certificate = SvidCertificate(name, pair=identity.pair)
    if settings.profile is Profile.HTTPS_WEB and settings.certificate_file and settings.key_file:
        certificate = FileCertificate(
            name, certificate_file=settings.certificate_file, key_file=settings.key_file, clock=clock
        )
    return TlsHttp(bundle_app(bundle=own_bundle, registry=metrics), settings.listen, certificate=certificate)
