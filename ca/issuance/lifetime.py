"""How long a leaf lives: the smallest of asked, allowed and possible wins, and the answer says which (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from citadel.errors import FailedPrecondition, Reason, Unavailable


class LimitedBy(StrEnum):
    """What set the end of a leaf. SPIRE's users were surprised by silent caps (#1266, #2049, #5530)."""

    DEFAULT = "default"
    ENTRY = "entry"
    CAP = "cap"
    ISSUER = "issuer"
    ENTRY_EXPIRY = "entry-expiry"


@dataclass(frozen=True, slots=True, kw_only=True)
class LifetimePolicy:
    """The server's settings for leaves; `own` is the default for Citadel's own identities."""

    default: timedelta
    own: timedelta
    cap: timedelta
    backdate: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """A settled lifetime, in whole seconds because X.509 knows no fractions."""

    not_before: datetime
    not_after: datetime
    limited_by: LimitedBy


def settle(
    *,
    now: datetime,
    policy: LifetimePolicy,
    asked: timedelta | None,
    entry_expires_at: datetime | None,
    issuer_not_before: datetime,
    issuer_not_after: datetime,
) -> Validity:
    """Settle the validity of a leaf signed at `now`. Ties go to the limit that is named first.

    Raises `FailedPrecondition` (`entry_expired`) or `Unavailable` (`issuer_unavailable`) where no life is left.
    """
    wanted = (asked, LimitedBy.ENTRY) if asked else (policy.default, LimitedBy.DEFAULT)
    # Spans are compared before they are added: an entry may ask for more time than a date can hold.
    span, allowed_by = min(wanted, (policy.cap, LimitedBy.CAP), key=lambda limit: limit[0])
    limits = [(now + span, allowed_by), (issuer_not_after, LimitedBy.ISSUER)]
    if entry_expires_at is not None:
        limits.append((entry_expires_at, LimitedBy.ENTRY_EXPIRY))
    end, limited_by = min(limits, key=lambda limit: limit[0])
    not_after = end.replace(microsecond=0)
    if not_after <= now:
        if limited_by is LimitedBy.ENTRY_EXPIRY:
            raise FailedPrecondition(Reason.ENTRY_EXPIRED, f"the entry expired at {entry_expires_at}")
        raise Unavailable(Reason.ISSUER_UNAVAILABLE, "the issuing authority has no life left")
    not_before = max(now - policy.backdate, issuer_not_before).replace(microsecond=0)
    return Validity(not_before=not_before, not_after=not_after, limited_by=limited_by)
