"""Federations and foreign bundles as wire messages."""

from __future__ import annotations

from ca.api.answers import bundle_message
from ca.federation.known import KnownBundle
from ca.federation.standing import Standing
from citadel._wire import admin_pb2, federation_pb2, types_pb2
from citadel.bundle import TrustBundle
from citadel.wire import sequence_on_wire, to_duration, to_timestamp


def bundle_in_short(
    bundle: TrustBundle, *, source: str, entries: int = 0, with_json: bool = True
) -> federation_pb2.KnownBundle:
    """A bundle and what can be said of it in numbers."""
    name = types_pb2.Bundle(trust_domain=bundle.trust_domain.name)
    return federation_pb2.KnownBundle(
        bundle=bundle_message(bundle) if with_json else name,
        source=source,
        sequence=sequence_on_wire(bundle),
        x509_authorities=len(bundle.x509_authorities),
        jwt_authorities=len(bundle.jwt_authorities),
        refresh_hint=to_duration(bundle.refresh_hint) if bundle.refresh_hint is not None else None,
        entries=entries,
    )


def known_bundle_message(known: KnownBundle, *, entries: int, with_json: bool) -> federation_pb2.KnownBundle:
    """A foreign bundle in force, with which so many entries federate."""
    message = bundle_in_short(known.bundle, source=known.source.value, entries=entries, with_json=with_json)
    message.updated_at.CopyFrom(to_timestamp(known.updated_at))
    return message


def federation_message(standing: Standing, known: KnownBundle | None, *, entries: int) -> federation_pb2.Federation:
    """A federation with its bundle, without the document."""
    federation, error = standing.federation, standing.error
    refreshed_at, next_at = standing.refreshed_at, standing.next_refresh_at
    return federation_pb2.Federation(
        trust_domain=federation.trust_domain.name,
        endpoint_url=federation.endpoint_url,
        profile=federation.profile.value,
        endpoint_spiffe_id=str(federation.endpoint_id or ""),
        created_at=to_timestamp(federation.created_at),
        refreshed_at=to_timestamp(refreshed_at) if refreshed_at is not None else None,
        next_refresh_at=to_timestamp(next_at) if next_at is not None else None,
        failures=standing.failures,
        last_error=error.message if error is not None else "",
        last_reason=error.reason.value if error is not None else "",
        last_fix=error.fix if error is not None else "",
        bundle=known_bundle_message(known, entries=entries, with_json=False) if known is not None else None,
    )


def federation_status(standing: Standing) -> admin_pb2.FederationStatus:
    """The same in short."""
    error, refreshed_at = standing.error, standing.refreshed_at
    return admin_pb2.FederationStatus(
        trust_domain=standing.trust_domain.name,
        good=error is None,
        reason=error.reason.value if error is not None else "",
        message=error.message if error is not None else "",
        refreshed_at=to_timestamp(refreshed_at) if refreshed_at is not None else None,
    )
