"""What rotations need of the store."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from ca.audit.model import Act
from ca.rotation.model import Holder, Rotation
from citadel._wire.rotation_pb2 import ClusterView
from citadel.revocation import RevocationSet
from citadel.spiffe import SpiffeId


class RotationStore(Protocol):
    """Where rotations are durable."""

    async def unfinished(self) -> Rotation | None:
        """The rotation that has not ended; there is at most one."""
        ...

    async def save(self, rotation: Rotation, act: Act, *, at: datetime) -> None:
        """Record the rotation as it is now, and note the act with it."""
        ...

    async def newest(self, limit: int) -> Sequence[Rotation]:
        """The rotations that began last, the newest first."""
        ...


class Beyond(Protocol):
    """Other clusters of the same trust domain and root, for which a rotation waits as it does for agents."""

    def without(self, *, is_jwt: bool) -> Sequence[Holder]:
        """Who of them has not acknowledged this half of the bundle, with the lists, as it is in force now."""
        ...

    def depending(self, old_ids: Collection[str], now: datetime) -> Sequence[Holder]:
        """Who of them has, or may have, an issuing authority under these roots."""
        ...

    def clusters(self) -> Sequence[ClusterView]:
        """Those below this one, for people to look at."""
        ...


class Asking(Protocol):
    """Clients to which nothing is pushed; `ca.rotation.asking` knows of them."""

    def left(self, now: datetime) -> Sequence[Holder]:
        """As somebody who is waited for, for as long as they may not know a root of the bundle."""
        ...

    async def would_be_left(self, now: datetime) -> Sequence[Holder]:
        """The same, of a root that would be published now."""
        ...


class Lists(Protocol):
    """What proxies check against."""

    @property
    def current(self) -> RevocationSet:
        """The revocation lists as they are pushed."""
        ...


class IssuedEnds(Protocol):
    """What the ledger knows of certificates that have not ended. What is revoked does not count.

    With `issuer_ids`, only certificates that these authorities signed count.
    """

    async def last_ends(
        self,
        *,
        now: datetime,
        issued_after: datetime,
        without: Collection[str],
        issuer_ids: Collection[str] | None = None,
    ) -> Mapping[str, datetime]:
        """For everybody else who asked for a certificate that is valid after `now`: when the last of them ends.

        The keys, and `without`, are SPIFFE IDs. What was issued before `issued_after` is not looked at.
        """
        ...

    async def last_end(self, *, issued_after: datetime, issuer_ids: Collection[str]) -> datetime | None:
        """When the last certificate ends that these authorities signed; asks for all, so ask seldom."""
        ...

    async def last_end_of_workloads(
        self, agent: SpiffeId, *, issued_before: datetime, now: datetime, issuer_ids: Collection[str] | None = None
    ) -> datetime | None:
        """When the last certificate ends that the agent had for a workload then; None where all have ended."""
        ...
