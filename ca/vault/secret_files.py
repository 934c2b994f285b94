"""What this server logs in with, in files, of which nothing gets into an error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from citadel.clock import Clock
from citadel.errors import InvalidArgument, Reason, Unavailable

_SENT_AT_ONCE: Final = 3
_PUT_IT_THERE: Final = "put it there; it is read again by itself"
_UNTIL_FORGOTTEN: Final = 1000.0  # seconds


@dataclass(frozen=True, slots=True)
class SecretFile:
    """`read` gives the content, and refuses a file that others could read or change."""

    path: Path
    read: Callable[[Path], bytes]

    def check(self) -> None:
        """Raises `InvalidArgument` (`file_unsafe`) for what would not be used."""
        self.read(self.path)

    async def content(self) -> bytes:
        """As it is now. Raises `Unavailable` (`vault_login_refused`)."""
        try:
            return await asyncio.to_thread(self.read, self.path)
        except InvalidArgument as error:
            fix = error.fix or _PUT_IT_THERE
            raise Unavailable(Reason.VAULT_LOGIN_REFUSED, error.message, fix=fix) from None

    async def word(self) -> str:
        """What stands in it, which is one word. Raises as above."""
        content = (await self.content()).decode("ascii", "replace").strip()
        if not content or not content.isascii() or not content.isprintable() or " " in content:
            problem = f"{self.path} does not hold a secret in one line"
            raise Unavailable(Reason.VAULT_LOGIN_REFUSED, problem, fix=_PUT_IT_THERE)
        return content


class RefusedSecret:
    """Keeps a secret that was refused from being sent until Vault locks its role.

    Vault does that after five within a quarter of an hour, and then takes no good one either for as long.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._secret = ""
        self._error: Unavailable | None = None
        self._times = 0
        self._last = 0.0

    def check(self, secret: str) -> None:
        """Raises what Vault said of it last time, where it should not be sent again yet."""
        if secret != self._secret:
            self._secret, self._error, self._times = secret, None, 0
        is_recent = self._clock.monotonic() - self._last < _UNTIL_FORGOTTEN
        if self._error is not None and self._times >= _SENT_AT_ONCE and is_recent:
            raise self._error.with_traceback(None)

    def note(self, error: Unavailable) -> None:
        """It was sent, and Vault says this of it."""
        self._error, self._times, self._last = error, self._times + 1, self._clock.monotonic()
