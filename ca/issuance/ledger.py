"""The ledger's rows and the port through which they become durable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from citadel.errors import CitadelError
from citadel.spiffe import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """One certificate that was signed. Citadel's own identities ask for themselves, with an empty `entry_id`."""

    serial: str
    spiffe_id: SpiffeId
    entry_id: str
    requested_by: SpiffeId
    issuer_id: str
    public_key: str
    not_before: datetime
    not_after: datetime
    issued_at: datetime
    limited_by: str


class Ledger(Protocol):
    """Where every certificate is recorded before it leaves the server (invariant 2)."""

    async def append(self, rows: Sequence[LedgerRow]) -> None:
        """Return once all rows are durable.

        Raises `PermissionDenied` (`agent_banned`) if the agent that asked was banned meanwhile, or `Unavailable`:
        `identity_revoked` if one of these was revoked meanwhile, and asking again says which, `store_unavailable` if
        nothing could be written. Then no certificate of these rows may be handed out.
        """
        ...

    async def append_each(self, rows: Sequence[LedgerRow]) -> Sequence[CitadelError | None]:
        """The same for rows of strangers, of which none answers for another.

        None for each that is durable, and what `append` would raise for it alone where it is not.
        """
        ...


class CommitsUnderWay(Protocol):
    """What whoever takes something back needs of the ledger's writer."""

    async def settled(self) -> None:
        """Wait until the commit under way has ended: it asked who is banned, and what is revoked, before."""
        ...
