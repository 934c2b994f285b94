"""What a root says of its heirs before it goes, so that agents that were away come back without a person."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from ca.authority.model import Authority
from ca.authority.ports import KeyManager
from ca.keys.sealing import KeyPurpose
from ca.keys.signing import sign_with
from citadel.clock import Clock
from citadel.errors import FailedPrecondition
from citadel.spiffe import TrustDomain
from citadel.succession import Succession

_log = structlog.get_logger(__name__)


class SuccessionStore(Protocol):
    """Where successions are durable."""

    async def load(self) -> Sequence[Succession]:
        """All of them."""
        ...

    async def keep(self, succession: Succession) -> None:
        """Record it in the place of an earlier one of the same root."""
        ...

    async def forget(self, signers: Sequence[bytes]) -> None:
        """Forget those of these roots."""
        ...


class Vouching:
    """Signs and keeps successions, each for as long as `lasts`. `start` before use."""

    def __init__(
        self, *, trust_domain: TrustDomain, keys: KeyManager, store: SuccessionStore, clock: Clock, lasts: timedelta
    ) -> None:
        self._trust_domain = trust_domain
        self._keys = keys
        self._store = store
        self._clock = clock
        self._lasts = lasts
        self._kept: dict[bytes, Succession] = {}

    async def start(self) -> None:
        """Take up what is kept, and forget what has ended."""
        self._kept = {each.signer: each for each in await self._store.load()}
        now = self._clock.now()
        await self._forget([each for each in self._kept.values() if each.until <= now])

    def current(self) -> list[Succession]:
        """Those that still hold, for whoever asks."""
        now = self._clock.now()
        return [each for each in self._kept.values() if each.until > now]

    async def leave(self, root: Authority, heirs: Sequence[x509.Certificate]) -> None:
        """Have `root`, which is about to go with its key, vouch for `heirs`. Done again, it says the same anew."""
        try:
            key = await self._keys.signer(root.key_id, KeyPurpose.ROOT)
        except FailedPrecondition as error:
            _log.warning("a root goes without a word for its heirs: its key is gone", root=root.id, error=str(error))
            return
        until = self._clock.now() + self._lasts
        said = await sign_with(
            key,
            lambda own: Succession.signed(
                trust_domain=self._trust_domain, root=root.certificate, key=own, heirs=heirs, until=until
            ),
        )
        await self._store.keep(said)
        self._kept[said.signer] = said

    async def taint(self, root: x509.Certificate) -> None:
        """Forget every word of this root, and every word for it: whoever has its key is not to be led to."""
        signer = root.fingerprint(hashes.SHA256())
        await self._forget([each for each in self._kept.values() if each.signer == signer or root in each.heirs])

    async def _forget(self, successions: Sequence[Succession]) -> None:
        if successions:
            await self._store.forget([each.signer for each in successions])
            for each in successions:
                del self._kept[each.signer]
