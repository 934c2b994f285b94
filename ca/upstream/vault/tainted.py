"""Ending roots in Vault that were tainted in an emergency, which does not wait for Vault."""

from __future__ import annotations

from contextlib import suppress

from ca.authority.model import AuthorityState
from ca.upstream.roots import ListedRoots
from ca.upstream.vault.rooting import VaultRooting
from ca.upstream.vault.view import EngineView
from citadel.errors import CitadelError


class TaintedRoots:
    """What is known of them is on record and in the last look: whenever Vault is back, it is done then."""

    def __init__(self, *, view: EngineView, rooting: VaultRooting, roots: ListedRoots) -> None:
        self._view = view
        self._rooting = rooting
        self._roots = roots

    def are_there(self) -> bool:
        """Whether there are any that may be ended now: what was refused is not tried again at once."""
        if self._view.found.offer is None or not self._roots.tainted_and_listed():
            return False
        return self._rooting.making.are_over and self._rooting.ending.are_over

    async def end(self) -> None:
        """Have them sign nothing more, nor be the default. What is refused is in `rooting`.

        Within `AuthorityManager.changing_upstream`.
        """
        tainted, active = set(self._roots.tainted_and_listed()), self._roots.of(AuthorityState.ACTIVE)
        with suppress(CitadelError):
            if self._view.offered().line.root in tainted and active:
                self._view.line_to(active[0])
                await self._rooting.activate(active[0].certificate)
                self._view.note_lead(active[0].certificate)
            await self._rooting.retire(tainted, (), stay={self._view.offered().line.root})
            self._view.note_retired()
