"""The keys of issuers."""

from __future__ import annotations

from collections.abc import Sequence

from citadel.jwt.jwks import IssuerKey, KeySet


class InlineKeys:
    """Keys that stand in the policy itself. Fulfils `citadel.jwt.validator.IssuerKeys`."""

    def __init__(self, keys: KeySet) -> None:
        self._keys = keys

    async def under(self, key_id: str) -> Sequence[IssuerKey]:
        return self._keys.under(key_id)
