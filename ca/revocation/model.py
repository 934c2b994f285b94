"""What a revocation is, in the store and in memory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cryptography.x509 import ReasonFlags

from citadel.spiffe import SpiffeId


class RevocationKind(StrEnum):
    """What was named: one certificate, all of an identity, or all of an agent and of what was issued through it."""

    CERTIFICATE = "certificate"
    IDENTITY = "identity"
    AGENT = "agent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """One act of revoking. `target` is a serial (lowercase hex) or a SPIFFE ID.

    What gets no new certificate because of it, until it is lifted: of an identity every entry of that identity; of a
    certificate the entry `entry_id` at `agent`, where it was the newest one of that entry there; of an agent all of
    it, by its ban. `completed_at` is not set while its certificates are not recorded as revoked yet.
    """

    id: str
    kind: RevocationKind
    target: str
    reason: str
    code: ReasonFlags
    revoked_at: datetime
    revoked_by: str
    entry_id: str = ""
    agent: str = ""
    certificates: int = 0
    completed_at: datetime | None = None
    lifted_at: datetime | None = None

    @property
    def bars_anything(self) -> bool:
        """Whether something gets no new certificate because of it now."""
        return self.lifted_at is None and (self.kind is not RevocationKind.CERTIFICATE or bool(self.entry_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """What the ledger knows of a certificate. `is_newest` of its entry at the agent that asked for it."""

    serial: str
    issuer_id: str
    spiffe_id: SpiffeId
    entry_id: str
    requested_by: SpiffeId
    not_after: datetime
    is_newest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedCertificate:
    """One line of a list."""

    serial: str
    issuer_id: str
    not_after: datetime
    revoked_at: datetime
    code: ReasonFlags
