"""Federations and foreign bundles as wire messages."""

from __future__ import annotations

from collections.abc import Mapping

from ca.api.answers import bundle_message
from ca.federation.known import KnownBundle
from ca.federation.standing import Standing
from citadel._wire import admin_pb2, federation_pb2, types_pb2
from citadel.bundle import TrustBundle
from citadel.entry import Entry
from citadel.wire import to_duration, to_timestamp


def known_bundle_message(
    known: KnownBundle, entries: Mapping[str, Entry], *, with_json: bool
) -> federation_pb2.KnownBundle:
    """A foreign bundle in force; `entries` are those among which it is counted who federates with it."""
    bundle = known.bundle
    return federation_pb2.KnownBundle(
        bundle=bundle_message(bundle) if with_json else _name_of(bundle),
        updated_at=to_timestamp(known.updated_at),
        source=known.source.value,
        sequence=min(bundle.sequence or 0, 2**64 - 1),
        x509_authorities=len(bundle.x509_authorities),
        jwt_authorities=len(bundle.jwt_authorities),
        refresh_hint=to_duration(bundle.refresh_hint) if bundle.refresh_hint is not None else None,
        entries=sum(bundle.trust_domain in entry.federates_with for entry in entries.values()),
    )


def federation_message(
    standing: Standing, known: KnownBundle | None, entries: Mapping[str, Entry]
) -> federation_pb2.Federation:
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
        bundle=known_bundle_message(known, entries, with_json=False) if known is not None else None,
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


def _name_of(bundle: TrustBundle) -> types_pb2.Bundle:
    return types_pb2.Bundle(trust_domain=bundle.trust_domain.name)
