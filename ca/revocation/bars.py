"""What gets no new certificate because it was revoked. In memory, asked for everything that is signed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ca.issuance.ledger import LedgerRow
from ca.revocation.model import Revocation, RevocationKind
from citadel._wire import types_pb2
from citadel.errors import PermissionDenied, Reason
from citadel.spiffe import SpiffeId

_NAMES_IN_ONE: Final = 500  # each has 2048 bytes at the most


class Bars:
    """Fulfils `ca.issuance.issuer.Bars`. An agent is barred by its ban, see `ca.agents.roster`.

    `messages`, of bounded size, together name the identities that were revoked as a whole, as they are pushed to
    agents. What was issued through a revoked agent is not among them: of that, certificates are in the lists, and
    others may hold the same identities.
    """

    def __init__(self) -> None:
        self._identities: dict[SpiffeId, str] = {}
        self._entries: dict[tuple[str, SpiffeId], str] = {}
        self._watchers: list[Callable[[], None]] = []
        self.messages = _messages(())  # another object whenever it is another set

    def watch(self, callback: Callable[[], None]) -> None:
        """Call `callback` at every change of `messages` from now on."""
        self._watchers.append(callback)

    def replace(self, revocations: Iterable[Revocation]) -> None:
        """Bar what these say, and nothing else."""
        barring = [each for each in revocations if each.bars_anything]
        self._identities = {
            SpiffeId.parse(each.target): each.id for each in barring if each.kind is RevocationKind.IDENTITY
        }
        self._entries = {
            (each.entry_id, SpiffeId.parse(each.agent)): each.id
            for each in barring
            if each.kind is RevocationKind.CERTIFICATE
        }
        messages = _messages(sorted(map(str, self._identities)))
        if messages != self.messages:
            self.messages = messages
            for callback in self._watchers:
                callback()

    def refuse(self, spiffe_id: SpiffeId, *, entry_id: str, requested_by: SpiffeId) -> None:
        """Raises `PermissionDenied` (`identity_revoked`) where nothing may be signed for this."""
        revocation = self._of(spiffe_id, entry_id, requested_by)
        if revocation is not None:
            raise PermissionDenied(
                Reason.IDENTITY_REVOKED,
                f"{spiffe_id} was revoked (revocation {revocation})",
                fix="if it is good again, `citadel-cli revocation lift`",
            )

    def hold(self, row: LedgerRow) -> bool:
        """Whether this certificate was signed before its identity was revoked, and must not become real any more."""
        return self._of(row.spiffe_id, row.entry_id, row.requested_by) is not None

    def _of(self, spiffe_id: SpiffeId, entry_id: str, requested_by: SpiffeId) -> str | None:
        if not self._identities and not self._entries:
            return None
        return self._identities.get(spiffe_id) or self._entries.get((entry_id, requested_by))


def _messages(names: Sequence[str]) -> tuple[types_pb2.RevokedIdentities, ...]:
    """All names, at least one message."""
    starts = range(0, max(1, len(names)), _NAMES_IN_ONE)
    return tuple(types_pb2.RevokedIdentities(spiffe_ids=names[start : start + _NAMES_IN_ONE]) for start in starts)
