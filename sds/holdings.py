"""What the agent holds at one moment: entries, the SVIDs made for them, and bundles; and a feed of its changes.

The keeper and the link to the server write it, the serving side reads it. A reader always sees one consistent snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from citadel.bundle import TrustBundle
from citadel.entry import Entry
from citadel.spiffe import TrustDomain
from citadel.svid import X509Svid


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSvid:
    """An X509-SVID with its private key (unencrypted PKCS#8 DER), which never leaves this node (invariant 1)."""

    entry_id: str
    svid: X509Svid
    private_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """An immutable snapshot. `svids` is keyed by entry id and holds at most the newest SVID of each entry."""

    entries: Mapping[str, Entry] = field(default_factory=lambda: MappingProxyType({}))
    svids: Mapping[str, HeldSvid] = field(default_factory=lambda: MappingProxyType({}))
    bundles: Mapping[TrustDomain, TrustBundle] = field(default_factory=lambda: MappingProxyType({}))


class HoldingsFeed:
    """The current holdings, and a wake-up for everybody who watches them. Lives on one event loop."""

    def __init__(self) -> None:
        self.current = Holdings()
        self._watchers: set[asyncio.Event] = set()

    def publish(self, holdings: Holdings) -> None:
        """Make `holdings` current and wake every watcher; a slow watcher sees only the newest."""
        self.current = holdings
        for event in self._watchers:
            event.set()

    def watch(self, event: asyncio.Event) -> None:
        """Set `event` at every change from now on. The watcher clears it before it reads `current`."""
        self._watchers.add(event)

    def unwatch(self, event: asyncio.Event) -> None:
        """Stop setting `event`."""
        self._watchers.discard(event)
