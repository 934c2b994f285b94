"""How many calls the users of a node may have open at the agent: memory is the node's, and each call costs some."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

from citadel.errors import Reason, ResourceExhausted
from sds.serve.callers import CallerSource


class UserGate:
    """Fulfils `citadel.gate.Gate`: counts the open calls and streams of each user, whatever they ask for.

    Root is not counted, who has other ways to stop this process.
    """

    def __init__(self, *, source: CallerSource, most_per_uid: int, most: float = inf) -> None:
        self.open: Counter[int] = Counter()
        self._source = source
        self._most_per_uid = most_per_uid
        self._most = most

    @contextmanager
    def admit(self, method: str, context: Any) -> Iterator[None]:  # noqa: ARG002 - the port's form
        """One more call of its user for the length of the block.

        Raises:
            ResourceExhausted: `too_many_requests` when this user has all that it may, or all users together have.
            PermissionDenied: `caller_unknown`.
        """
        uid = self._source.caller_of(context.peer()).credentials.uid
        if uid == 0:
            yield
            return
        self._check_room_for(uid)
        self.open[uid] += 1
        try:
            yield
        finally:
            self.open[uid] -= 1
            if not self.open[uid]:
                del self.open[uid]

    def _check_room_for(self, uid: int) -> None:
        if self.open[uid] >= self._most_per_uid:
            raise _refused(f"uid {uid} has {self._most_per_uid} calls and streams open", "max_streams_per_uid")
        if self.open.total() >= self._most:
            raise _refused(f"all users together have {self._most} calls and streams open", "max_streams")


def _refused(why: str, setting: str) -> ResourceExhausted:
    return ResourceExhausted(Reason.TOO_MANY_REQUESTS, why, fix=f"close some, or raise limits.{setting} of the agent")
