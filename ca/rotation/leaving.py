"""What a rotation leaves behind: the authorities that go, and what must be renewed because of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from ca.authority.manager import AuthorityManager
from ca.authority.model import Authority, AuthorityState
from ca.rotation.model import Rotation, RotationKind
from ca.rotation.orders import RenewalTerms
from citadel.spiffe import SpiffeId

_JUMPS: Final = timedelta(days=1)


def earliest_signing(issuers: Iterable[Authority]) -> datetime:
    """Nothing that is valid was signed before this: the oldest of those who sign, and time for clocks that jump."""
    return min(each.not_before for each in issuers) - _JUMPS


class Leaving:
    """Looks at the authorities as they are now: one that has ended is forgotten, also in the middle of a rotation."""

    def __init__(self, *, authorities: AuthorityManager, longest_leaf: timedelta) -> None:
        self._authorities = authorities
        self._longest_leaf = longest_leaf

    def issuers(self, rotation: Rotation) -> Sequence[Authority]:
        """The issuing authorities that go, with those under a root that goes.

        Not one whose key stays with another certificate: what it signed is as good under that, and says no difference.
        """
        issuers, gone = self._authorities.issuers(), rotation.old_ids
        stay = {each.subject_key_id for each in issuers if not (each.id in gone or each.parent_id in gone)}
        return [
            each for each in issuers if (each.id in gone or each.parent_id in gone) and each.subject_key_id not in stay
        ]

    def key_ids(self, rotation: Rotation) -> frozenset[bytes]:
        """What certificates call them by."""
        return frozenset(issuer.subject_key_id for issuer in self.issuers(rotation))

    def has_something_to_renew(self, rotation: Rotation) -> bool:
        """Not once the authorities that go have ended: nothing that they signed is valid any more."""
        return rotation.kind is RotationKind.SVID or bool(self.issuers(rotation))

    def latest_end(self, rotation: Rotation, recorded: datetime | None) -> datetime:
        """When whatever was signed by what goes has ended: `recorded` is what the ledger knows of it.

        What was signed in the last moment may not stand there yet, and lives as long as lifetimes are set now.
        """
        ends = [each.not_after for each in self.issuers(rotation)]
        longest = max(filter(None, (rotation.phase_since + self._longest_leaf, recorded)))
        return min(longest, max(ends)) if ends else longest

    def order(self, rotation: Rotation, *, agent: SpiffeId | None) -> RenewalTerms | None:
        """What agents are to renew, or this agent alone; None where that is nothing."""
        if not self.has_something_to_renew(rotation):
            return None  # an order that names no authority would be about all of them, for ever
        is_by_time = rotation.kind is RotationKind.SVID
        return RenewalTerms(
            id=rotation.id,
            issuer_key_ids=self.key_ids(rotation),
            # Certificates begin a little before they are signed, and count whole seconds.
            not_before_until=self._authorities.backdated(rotation.started_at) if is_by_time else None,
            spiffe_id=rotation.scope.spiffe_id,
            agent=str(agent) if agent is not None else "",
            window=rotation.window,
            ends_at=rotation.started_at if rotation.is_emergency else rotation.phase_since + rotation.window,
        )

    def earliest(self) -> datetime:
        """As `earliest_signing`."""
        return earliest_signing(self._authorities.issuers())

    def is_pressing(self, margin: timedelta, now: datetime) -> bool:
        """A rotation that is waited for until what signs now has ended would end in an outage for everybody."""
        active = (each for each in self._authorities.authorities() if each.state is AuthorityState.ACTIVE)
        return any(self._is_near_its_end(each, margin, now) for each in active)

    def stale(self, rotation: Rotation, now: datetime) -> Sequence[str]:
        """The issuing authority that this rotation has prepared, where that is too near its end."""
        return [
            each.id
            for each in self._authorities.issuers()
            if rotation.new_id in (each.id, each.parent_id)
            and each.state is AuthorityState.PREPARED
            and self._is_near_its_end(each, rotation.margin, now)
        ]

    def _is_near_its_end(self, authority: Authority, margin: timedelta, now: datetime) -> bool:
        return authority.not_after - self.reserve(authority, margin) <= now

    def reserve(self, authority: Authority, margin: timedelta) -> timedelta:
        """How much of its life must be left for its successor to be waited for: that of the longest leaf, and a margin.

        Where leaves live as long as authorities do, a quarter of its life.
        """
        return min(self._longest_leaf + margin, (authority.not_after - authority.not_before) / 4)
