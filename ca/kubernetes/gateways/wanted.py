"""Whether the secrets that gateways want can be followed: each is followed by itself, and told of as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from ca.kubernetes.gateways.secret import WatchedSecret
from citadel.clock import Clock
from citadel.errors import CitadelError, Reason, Unavailable

_FIRST_LIST: Final = 60.0  # seconds, as for what is followed as a whole
_MOST_NAMED: Final = 3


class WantedSecrets:
    """Fulfils `ca.kubernetes.following.Followed`."""

    has_synced: Final = True  # there is always one that somebody wants since a moment ago

    def __init__(self, secrets: Callable[[], Iterable[WatchedSecret]], *, clock: Clock) -> None:
        self._secrets = secrets
        self._clock = clock

    @property
    def trouble(self) -> CitadelError | None:
        """What is wrong with the first, and which others there are."""
        found = [(each, error) for each in self._secrets() if (error := self._trouble_of(each)) is not None]
        if not found:
            return None
        names = ", ".join(str(secret.name) for secret, _ in found[:_MOST_NAMED])
        more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
        error = found[0][1]
        return Unavailable(error.reason, f"{error.message}; so it is with {names}{more}")

    def _trouble_of(self, secret: WatchedSecret) -> CitadelError | None:
        if secret.trouble is not None or secret.exists is not None:
            return secret.trouble
        if self._clock.monotonic() - secret.begun <= _FIRST_LIST:
            return None
        return Unavailable(Reason.KUBERNETES_UNAVAILABLE, "it could not be read yet")
