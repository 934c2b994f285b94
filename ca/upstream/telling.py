"""Telling people what was seen of an upstream: in the log, and in the audit log."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from cryptography.hazmat.primitives import hashes

from ca.audit.model import Act, Actor, ActorKind
from ca.audit.trail import Acts
from ca.upstream.roots import RootChange
from citadel.clock import Clock
from citadel.errors import CitadelError, Reason

_log = structlog.get_logger(__name__)


def is_same_trouble(one: CitadelError | None, other: CitadelError | None) -> bool:
    """Whether there is nothing new to say; who is away is away, whichever way that shows."""
    if one is None or other is None or one.reason is not other.reason:
        return one is other
    return one.reason is Reason.VAULT_UNAVAILABLE or str(one) == str(other)


class Telling:
    """Says what is new: roots that came or went, trouble that began or ended, of `what`, which is `where`."""

    def __init__(self, *, what: str, where: str, acts: Acts, clock: Clock) -> None:
        self._what = what
        self._where = where
        self._acts = acts
        self._clock = clock

    async def tell(
        self, before: CitadelError | None, trouble: CitadelError | None, changes: Sequence[RootChange]
    ) -> None:
        """`before` is the trouble that there was."""
        server = Actor(ActorKind.SERVER)
        acts = [
            Act(
                actor=server,
                what="upstream.root.add" if each.is_added else "upstream.root.drop",
                target=each.certificate.fingerprint(hashes.SHA256()).hex(),
                detail=f"{self._where} lists it" if each.is_added else f"{self._where} lists it no more",
            )
            for each in changes
        ]
        if trouble is not None and not is_same_trouble(before, trouble):
            _log.error(f"{self._what} is not good", reason=trouble.reason.value, error=str(trouble))
            message, reason = trouble.message, trouble.reason
            acts.append(Act(actor=server, what="upstream.read", target=self._where, detail=message, reason=reason))
        elif before is not None and trouble is None:
            _log.info(f"{self._what} is good again", where=self._where)
        if acts:
            await self._acts.record_all(acts, at=self._clock.now())
