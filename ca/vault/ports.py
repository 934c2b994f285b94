"""What the rooms that use Vault need of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from citadel.errors import CitadelError


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What Vault said: `data` as its API documents it for the path, and what it warned of."""

    data: Mapping[str, Any] = field(default_factory=dict, repr=False)  # can hold secrets
    warnings: tuple[str, ...] = ()


class Vault(Protocol):
    """Calls to Vault by path, without `/v1/`, off the loop. `ca.vault.session` is the one that logs in.

    Each raises `Unavailable`, with a reason that says who can mend it: `vault_unavailable` (sealed, not reached, too
    slow, overloaded: waiting mends it), `vault_untrusted` (TLS), `vault_login_refused`, `vault_denied` (the policy; the
    message names path and capability), `vault_not_found` (nothing is mounted there, or nothing has that name) and
    `vault_refused` (it understood, and says no).
    """

    async def read(self, path: str) -> Answer:
        """What is at `path`."""
        ...

    async def list(self, path: str) -> Answer:
        """What is below `path`: `keys`, and `key_info` where Vault has it."""
        ...

    async def write(self, path: str, data: Mapping[str, Any]) -> Answer:
        """Create, update or do what `path` stands for."""
        ...

    async def delete(self, path: str) -> None:
        """Delete what is at `path`; what is not there is no error."""
        ...

    def trouble(self) -> CitadelError | None:
        """Why it would not answer now, as far as is known."""
        ...
