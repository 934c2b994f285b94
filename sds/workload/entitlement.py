"""What a caller may have now; asked anew before everything that is handed out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from citadel.clock import Clock
from citadel.errors import CitadelError, PermissionDenied, Reason, Unavailable
from citadel.peer import Caller
from citadel.selector import Selector
from citadel.spiffe import SpiffeId
from sds.holdings import HoldingsFeed
from sds.serve.callers import Attestation, Callers
from sds.workload.snapshot import Snapshot, SnapshotShelf


class Entitlement:
    """Attests callers, and looks up what they may have. `docs/decisions/0014` says which refusal is right when.

    `has_heard` says whether the server has told its entries since this agent began.
    """

    def __init__(
        self,
        *,
        callers: Callers,
        feed: HoldingsFeed,
        shelf: SnapshotShelf,
        has_heard: Callable[[], bool],
        clock: Clock,
    ) -> None:
        self._callers = callers
        self._feed = feed
        self._shelf = shelf
        self._has_heard = has_heard
        self._clock = clock

    def caller_of(self, context_peer: str) -> Caller:
        """The process behind a handler's `context.peer()`. Raises `PermissionDenied` (`caller_unknown`)."""
        return self._callers.caller_of(context_peer)

    async def look(self, caller: Caller) -> tuple[Attestation, Snapshot]:
        """Who the caller is now and what it may have. Raises where that is nothing."""
        attestation = await self._callers.attest(caller, wants_sha256=self._wants_sha256)
        snapshot = self._shelf.snapshot(self._feed.current, attestation.for_entries, self._clock.now())
        if snapshot.is_entitled:
            return attestation, snapshot
        if not self._has_heard():  # it may well have an entry: "no identity" would be a guess (WEP-17)
            raise Unavailable(
                Reason.NOT_READY, "this agent has not heard from its server yet", fix="try again in a moment"
            )
        if attestation.trouble:
            raise _unseen(attestation)
        raise _no_identity(caller, attestation)

    def wake_at_change(self, event: asyncio.Event, seen: Attestation | None) -> None:
        """Set `event` whenever `look` may find another caller than `seen`; None takes an earlier wish back."""
        self._callers.wake_at_change(event, seen)

    def is_revoked(self, spiffe_id: SpiffeId) -> bool:
        """Whether nothing is to be believed of this identity of the own trust domain, by what the server said last."""
        return spiffe_id in self._feed.current.revoked_identities

    def _wants_sha256(self, selectors: frozenset[Selector]) -> bool:
        return self._shelf.wants_sha256(self._feed.current, selectors)


def _no_identity(caller: Caller, seen: Attestation) -> CitadelError:
    credentials = caller.credentials
    where, fix = "", "compare these, and the path of its program, with the selectors of its entry"
    if seen.is_in_pod:
        where, fix = f", in {seen.place}", f"{fix}, which needs one of pods too (k8s:...)"
    return PermissionDenied(  # WEP-19, WAPI-26, WAPI-30
        Reason.NO_IDENTITY,
        f"no entry of this agent matches process {credentials.pid} of uid {credentials.uid}, "
        f"gid {credentials.gid}{where}",
        fix=fix,
    )


def _unseen(attestation: Attestation) -> CitadelError:
    """No entry matches what was seen; one may match what was not, and only what may still come is worth another try."""
    kind = PermissionDenied if attestation.is_complete else Unavailable
    return kind(Reason.POD_UNSEEN, attestation.trouble, fix="see pod_unseen in docs/reasons.md")
