"""Between wire messages and values: the border where strings become types."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from citadel._wire import types_pb2 as pb
from citadel.bundle import TrustBundle
from citadel.entry import Entry
from citadel.errors import InvalidArgument, Reason
from citadel.selector import Selector
from citadel.spiffe import SpiffeId, TrustDomain

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)
_MOST_SEQUENCE: Final = 2**64 - 1  # a document of another trust domain may say more


def entry_from_wire(message: pb.Entry) -> Entry:
    """Parse an entry. Raises `InvalidArgument` with the reason of the field that is malformed."""
    return Entry(
        id=message.id,
        spiffe_id=SpiffeId.parse(message.spiffe_id),
        parent_id=SpiffeId.parse(message.parent_id),
        selectors=frozenset(Selector.parse(text) for text in message.selectors),
        x509_svid_ttl=from_duration(message.x509_svid_ttl) if message.HasField("x509_svid_ttl") else None,
        jwt_svid_ttl=from_duration(message.jwt_svid_ttl) if message.HasField("jwt_svid_ttl") else None,
        dns_names=tuple(message.dns_names),
        federates_with=frozenset(TrustDomain.parse(name) for name in message.federates_with),
        hint=message.hint,
        expires_at=from_timestamp(message.expires_at) if message.HasField("expires_at") else None,
        admin=message.admin,
        downstream=message.downstream,
        revision=message.revision,
        created_at=from_timestamp(message.created_at) if message.HasField("created_at") else None,
        origin=message.origin,
    )


def entry_to_wire(entry: Entry) -> pb.Entry:
    """The message of an entry; repeated fields that are sets are sorted."""
    return pb.Entry(
        id=entry.id,
        spiffe_id=str(entry.spiffe_id),
        parent_id=str(entry.parent_id),
        selectors=sorted(str(selector) for selector in entry.selectors),
        x509_svid_ttl=_duration(entry.x509_svid_ttl),
        jwt_svid_ttl=_duration(entry.jwt_svid_ttl),
        dns_names=entry.dns_names,
        federates_with=sorted(domain.name for domain in entry.federates_with),
        hint=entry.hint,
        expires_at=to_timestamp(entry.expires_at) if entry.expires_at else None,
        admin=entry.admin,
        downstream=entry.downstream,
        revision=entry.revision,
        created_at=to_timestamp(entry.created_at) if entry.created_at else None,
        origin=entry.origin,
    )


def to_timestamp(moment: datetime) -> Timestamp:
    """An aware datetime as a protobuf timestamp."""
    seconds, rest = divmod(moment - _EPOCH, _SECOND)
    return Timestamp(seconds=seconds, nanos=rest.microseconds * 1000)


def from_timestamp(message: Timestamp) -> datetime:
    """A protobuf timestamp as an aware datetime in UTC. Raises `InvalidArgument` (`request_malformed`)."""
    try:
        return message.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(Reason.REQUEST_MALFORMED, f"a time is out of range: {error}") from error


def from_duration(message: Duration) -> timedelta:
    """A protobuf duration. Raises `InvalidArgument` (`request_malformed`)."""
    try:
        return message.ToTimedelta()
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(Reason.REQUEST_MALFORMED, f"a duration is out of range: {error}") from error


def to_duration(value: timedelta) -> Duration:
    """A duration as a protobuf duration."""
    message = Duration()
    message.FromTimedelta(value)
    return message


def sequence_on_wire(bundle: TrustBundle) -> int:
    """The sequence of a bundle as reports have it: 0 where it has none, and as much as fits of one that is longer."""
    return min(bundle.sequence or 0, _MOST_SEQUENCE)


def _duration(value: timedelta | None) -> Duration | None:
    return None if value is None else to_duration(value)
