"""What was signed for children in a time that this server's records do not know, since they were restored (pure).

A child proves what it was given then: our own root signed it, and a revocation list shows that its key is at hand.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509

from ca.clusters.reports import read_list
from citadel._wire import clusters_pb2 as pb
from citadel.certification_path import UNREADABLE, extension_of
from citadel.errors import InvalidArgument
from citadel.revocation_reading import is_vouched_for
from citadel.spiffe import TrustDomain

_BACKDATED: Final = timedelta(minutes=10)  # authorities begin a little before they are signed


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A time of which nothing is on record."""

    begin: datetime
    end: datetime


class Gaps:
    """All of them. No authority lives longer than `longest`."""

    def __init__(self, gaps: Sequence[Gap] = (), *, longest: timedelta) -> None:
        self._gaps = gaps
        self._longest = longest

    def until(self, now: datetime) -> datetime | None:
        """When whatever was signed in them has ended; None where it has."""
        until = max((gap.end + self._longest for gap in self._gaps), default=now)
        return until if until > now else None

    def is_news(self, said_at: datetime) -> bool:
        """Whether what was said then tells of all of them."""
        return all(said_at >= gap.end for gap in self._gaps)

    def covers(self, authority: x509.Certificate) -> bool:
        """Whether it began in one of them."""
        begin = authority.not_valid_before_utc
        return any(gap.begin - _BACKDATED <= begin <= gap.end for gap in self._gaps)


def proven(
    reported: pb.IssuerReport, *, trust_domain: TrustDomain, roots: Collection[x509.Certificate]
) -> tuple[x509.Certificate, x509.Certificate] | None:
    """An authority of a cluster that one of our roots signed, and that root; None where that is not shown."""
    try:
        read_list(reported)  # verifies that the key of the authority signed it
        authority = x509.load_der_x509_certificate(reported.certificate)
        names = extension_of(authority, x509.SubjectAlternativeName)
        constraints = extension_of(authority, x509.BasicConstraints)
        if constraints is None or not constraints.ca or constraints.path_length != 0 or names is None:
            return None
        if names.get_values_for_type(x509.UniformResourceIdentifier) != [str(trust_domain.id)]:
            return None
        root = next((each for each in roots if is_vouched_for(authority, [each])), None)
    except (*UNREADABLE, InvalidArgument):
        return None
    return (authority, root) if root is not None else None
