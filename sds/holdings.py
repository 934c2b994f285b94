"""What the agent holds at one moment: entries, the SVIDs made for them, and bundles; and a feed of its changes.

The keeper and the link to the server write it, the serving side reads it. A reader always sees one consistent snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from citadel.bundle import TrustBundle
from citadel.entry import Entry
from citadel.revocation import NO_REVOCATIONS, RevocationSet
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.svid import X509Svid
from sds.waking import Waking


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSvid:
    """An X509-SVID with its private key (unencrypted PKCS#8 DER), which never leaves this node (invariant 1)."""

    entry_id: str
    svid: X509Svid
    private_key: bytes = field(repr=False)
    issuer_key_id: bytes = field(init=False, repr=False)  # read once: reports name it again and again

    def __post_init__(self) -> None:
        object.__setattr__(self, "issuer_key_id", self.svid.issuer_key_id)


_NOT_TOLD: Final[Mapping[str, Entry]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """An immutable snapshot.

    `svids` is keyed by entry id and holds at most the newest SVID of each entry, and none that `revocations`, the lists
    of the own trust domain, revoke. Those were judged before they came here. `revoked_identities` are refused as a
    whole, whatever somebody shows for them: also tokens, which are in no list. With `recalls_revocations` both were
    there before the server was heard, from what was kept of an earlier start.
    """

    entries: Mapping[str, Entry] = field(default_factory=lambda: _NOT_TOLD)
    svids: Mapping[str, HeldSvid] = field(default_factory=lambda: MappingProxyType({}))
    bundles: Mapping[TrustDomain, TrustBundle] = field(default_factory=lambda: MappingProxyType({}))
    revocations: RevocationSet = NO_REVOCATIONS
    revoked_identities: frozenset[SpiffeId] = frozenset()
    recalls_revocations: bool = False

    @property
    def is_told(self) -> bool:
        """Whether the server has told its entries since the start; before, none means nothing."""
        return self.entries is not _NOT_TOLD

    @property
    def knows_revocations(self) -> bool:
        """Whether somebody not being in `revocations` and `revoked_identities` means anything."""
        return self.is_told or self.recalls_revocations


class HoldingsFeed:
    """The current holdings, and a wake-up for everybody who watches them. Lives on one event loop."""

    def __init__(self) -> None:
        self.current = Holdings()
        self._watchers: dict[asyncio.Event, None] = {}
        self._waking = Waking()

    def publish(self, holdings: Holdings) -> None:
        """Make `holdings` current and wake every watcher; a slow watcher sees only the newest."""
        self.current = holdings
        # Also who was woken a moment ago: it may have looked already.
        self._waking.wake(self._watchers)

    def watch(self, event: asyncio.Event) -> None:
        """Set `event` soon after every change from now on. The watcher clears it before it reads `current`."""
        self._watchers[event] = None

    def unwatch(self, event: asyncio.Event) -> None:
        """Stop setting `event`."""
        self._watchers.pop(event, None)
