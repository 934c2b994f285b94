"""Whether what the work in a cluster rests on can be followed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Protocol

from citadel.clock import Clock
from citadel.errors import CitadelError, Reason, Unavailable
from citadel.kubernetes.observed import Trouble

_FIRST_LIST: Final = timedelta(minutes=1)  # after which one that is not there is trouble


class Followed(Protocol):
    """What informers know, and whether they do."""

    @property
    def has_synced(self) -> bool:
        """Whether all of it was read once."""
        ...

    @property
    def trouble(self) -> CitadelError | None:
        """Why it cannot be followed just now."""
        ...


@dataclass(slots=True, kw_only=True)
class Following:
    """Watches over what is `followed` since some time.

    Calls that are answered do not show that it goes well: an answer can be one that nothing can be made of, and one
    list can hang while other calls do not.
    """

    what: str
    followed: Followed
    since: datetime
    clock: Clock
    _noticed: datetime | None = field(default=None, init=False)

    @property
    def trouble(self) -> Trouble | None:
        """What is wrong with it, since it was first looked for in vain."""
        if (error := self.followed.trouble) is not None:
            self._noticed = self._noticed or self.clock.now()
            told = Unavailable(error.reason, f"{self.what} cannot be followed: {error.message}")
            return Trouble(told, self._noticed)
        self._noticed = None
        if self.followed.has_synced or self.clock.now() - self.since <= _FIRST_LIST:
            return None
        told = Unavailable(Reason.KUBERNETES_UNAVAILABLE, f"{self.what} could not be read yet")
        return Trouble(told, self.since)
