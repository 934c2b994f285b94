"""How many calls the users of a node may have open at the agent: memory is the node's, and each call costs some."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from citadel.in_flight import InFlight
from citadel.peer import ROOT
from sds.serve.callers import CallerSource

_UNBOUNDED: Final = nullcontext()


class UserGate:
    """Fulfils `citadel.gate.Gate`: counts the open calls and streams of each user, whatever they ask for.

    Where callers are known by their pods, those of each pod are counted instead of its users'. Root is not counted, who
    has other ways to stop this process; root of a pod is that pod.
    """

    def __init__(self, *, source: CallerSource, most_per_uid: int, most: int) -> None:
        self._source = source
        self._calls = InFlight(
            most_of_one=most_per_uid,
            most=most,
            what="calls and streams",
            fix="close some, or raise limits.max_streams_per_uid or limits.max_streams of the agent",
        )

    @property
    def open(self) -> Counter[Hashable]:
        """The open calls by uid, and those of pods by theirs."""
        return self._calls.open

    def admit(self, method: str, context: Any) -> AbstractContextManager[None]:  # noqa: ARG002 - the port's form
        party = self._source.caller_of(context.peer()).party
        return _UNBOUNDED if party == ROOT else self._calls.one(party)
