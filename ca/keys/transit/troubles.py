"""What is wrong with single keys in Vault, and since when."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import structlog

from ca.keys.sealing import KeyPurpose
from citadel.clock import Clock
from citadel.errors import CitadelError, Reason
from citadel.repeated import Repeated

_log = structlog.get_logger(__name__)

# Seconds for which a call that failed counts after it was the last one: whoever needs the key asks again sooner.
_STANDS: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTrouble:
    """Why a key does not sign. `at` is when it was last seen, by the clock that never jumps."""

    purpose: KeyPurpose
    error: CitadelError
    since: datetime
    at: float

    @property
    def is_lost(self) -> bool:
        """Whether it will not by itself: Vault has it no more, or as another one."""
        return self.error.reason is Reason.VAULT_KEY_LOST


class KeyTroubles:
    """Troubles by the name of the key in Vault: how calls ended, and what was seen of keys nobody asked to sign."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, KeyTrouble] = {}
        self._slow: set[str] = set()
        self._told: set[str] = set()  # in the log
        self._repeated: dict[str, Repeated] = {}

    def failed(self, name: str, purpose: KeyPurpose, error: CitadelError) -> None:
        """A call for it ended like this. One slow answer is no outage: the second in a row is."""
        known = self._known.get(name)
        if error.reason is Reason.VAULT_UNAVAILABLE and known is None and name not in self._slow:
            self._slow.add(name)
            return
        found = KeyTrouble(purpose=purpose, error=error, since=self._clock.now(), at=self._clock.monotonic())
        self._known[name] = found if known is None else replace(found, since=known.since)
        if self._repeated.setdefault(name, Repeated(clock=self._clock)).is_news(error.reason):
            say = _log.warning if error.reason is Reason.VAULT_UNAVAILABLE else _log.error
            self._told.add(name)
            say("a key in Vault signs nothing", key=name, reason=error.reason, error=str(error))

    def worked(self, name: str) -> None:
        """It has signed."""
        self._slow.discard(name)
        self._known.pop(name, None)
        self._tell_good(name)

    def seen(self, name: str) -> None:
        """It is there, as it must be: whether it signs is not known."""
        if self.is_lost(name):
            del self._known[name]
            self._tell_good(name)

    def forget(self, name: str) -> None:
        """It is needed no more."""
        self._slow.discard(name)
        self._known.pop(name, None)
        self._repeated.pop(name, None)
        self._told.discard(name)

    def is_lost(self, name: str) -> bool:
        """Whether it was lost when it was last seen."""
        return name in self._known and self._known[name].is_lost

    def all(self) -> dict[str, KeyTrouble]:
        """What is wrong now, by name."""
        oldest = self._clock.monotonic() - _STANDS
        return {name: each for name, each in self._known.items() if each.is_lost or each.at >= oldest}

    def _tell_good(self, name: str) -> None:
        if name in self._told:
            self._told.remove(name)
            _log.info("a key in Vault can be used again", key=name)
