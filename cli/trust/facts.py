"""What is known of a cluster when its trust is judged. Values only, all of them public."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography import x509

from citadel._wire import trust_pb2 as pb
from citadel.bundle import TrustBundle
from citadel.certification_path import UNREADABLE
from citadel.errors import InvalidArgument, Reason
from citadel.spiffe import TrustDomain
from citadel.wire import from_duration, from_timestamp


class Source(StrEnum):
    """Where the facts are from."""

    SERVER = "server"
    FILE = "file"  # a server said them some time ago
    FOLDER = "folder"  # what it will run on, with no word of what it knows of others


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignFacts:
    """What a cluster knows of another trust domain: its bundle, if any, and how it comes by it."""

    bundle: TrustBundle | None
    is_set: bool = False
    entries: int = 0
    endpoint_url: str = ""
    endpoint_profile: str = ""
    failures: int = 0
    last_reason: str = ""
    last_error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """One cluster. `issuing` is the authority that signs now, then those above it, without the root.

    `trust_domain` is None where a folder does not say it. `ahead` is by how much its clock is at least before the one
    here, and None where that cannot be told; it is all of it only from a server that answers now.
    """

    source: Source
    trust_domain: TrustDomain | None
    roots: tuple[x509.Certificate, ...]
    issuing: tuple[x509.Certificate, ...]
    issuing_trouble: str = ""
    upstream: str = ""  # where it has that authority from
    sequence: int | None = None
    ahead: timedelta | None = None
    age: timedelta = timedelta()
    backdate: timedelta = timedelta(seconds=10)
    leaf_lifetime: timedelta = timedelta(hours=1)
    endpoint_profile: str = ""
    foreign: Mapping[TrustDomain, ForeignFacts] = field(default_factory=dict)


def facts_of(message: pb.ClusterFacts, *, source: Source, now: datetime) -> ClusterFacts:
    """Parse what a server says; `now` is the clock here. Raises `InvalidArgument` for what is malformed."""
    trust_domain = TrustDomain.parse(message.trust_domain)
    bundle = TrustBundle.from_json(trust_domain, message.bundle.json)
    try:
        issuing = tuple(x509.load_der_x509_certificate(der) for der in message.issuing)
    except UNREADABLE as error:
        raise InvalidArgument(Reason.REQUEST_MALFORMED, f"an issuing authority cannot be read: {error}") from error
    ahead = from_timestamp(message.now) - now
    is_live = source is Source.SERVER
    return ClusterFacts(
        source=source,
        trust_domain=trust_domain,
        roots=bundle.x509_authorities,
        issuing=issuing,
        issuing_trouble=message.issuing_trouble,
        upstream=message.upstream,
        sequence=bundle.sequence,
        # A file gets old: only one from the future tells something of a clock.
        ahead=ahead if is_live or ahead > timedelta() else None,
        age=timedelta() if is_live else max(timedelta(), -ahead),
        backdate=from_duration(message.backdate),
        leaf_lifetime=from_duration(message.leaf_lifetime),
        endpoint_profile=message.endpoint_profile,
        foreign={TrustDomain.parse(each.trust_domain): _foreign(each) for each in message.foreign},
    )


def _foreign(message: pb.ForeignFacts) -> ForeignFacts:
    trust_domain = TrustDomain.parse(message.trust_domain)
    return ForeignFacts(
        bundle=TrustBundle.from_json(trust_domain, message.bundle.json) if message.HasField("bundle") else None,
        is_set=message.is_set,
        entries=message.entries,
        endpoint_url=message.endpoint_url,
        endpoint_profile=message.endpoint_profile,
        failures=message.failures,
        last_reason=message.last_reason,
        last_error=message.last_error,
    )
