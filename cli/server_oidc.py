"""OIDC discovery, wired onto the server's parts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from ca.authority.manager import AuthorityManager
from ca.https.files import FileCertificate
from ca.https.serving import TlsHttp
from ca.oidc.app import discovery_app
from ca.oidc.settings import OidcSettings
from citadel.clock import Clock


def oidc_listener(
    settings: OidcSettings, *, authorities: AuthorityManager, metrics: CollectorRegistry, clock: Clock
) -> TlsHttp | None:
    """The listener, not yet started; `None` where the settings ask for none."""
    if not (settings.listen and settings.issuer and settings.certificate_file and settings.key_file):
        return None
    app = discovery_app(
        issuer=settings.issuer,
        max_age=settings.max_age,
        keys=lambda: authorities.bundle().jwt_authorities,
        registry=metrics,
    )
    certificate = FileCertificate(
        "oidc", certificate_file=settings.certificate_file, key_file=settings.key_file, clock=clock
    )
    return TlsHttp(app, settings.listen, certificate=certificate)
