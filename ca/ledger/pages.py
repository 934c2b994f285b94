"""What can be asked of the logs, a page at a time, newest first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ca.audit.model import Act
from ca.issuance.ledger import LedgerRow
from citadel.spiffe import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerQuery:
    """Which certificates; what is not set asks for all. `until` is exclusive."""

    spiffe_id: SpiffeId | None = None
    serial: str = ""
    requested_by: SpiffeId | None = None
    entry_id: str = ""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuery:
    """Which acts; what is not set asks for all. `what` also finds all that begins with it and a dot."""

    actor: str = ""
    what: str = ""
    target: str = ""
    refused_only: bool = False
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last row of a page; the next page comes after it. Rows that come or go meanwhile shift nothing."""

    at: datetime
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCertificate:
    """A row of the ledger. `writer` is empty for rows from before there was a chain."""

    number: int
    row: LedgerRow
    writer: str
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedAct:
    """A row of the audit log."""

    number: int
    at: datetime
    act: Act
    writer: str
    position: int
