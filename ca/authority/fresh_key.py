"""A key for an authority that is about to be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from ca.authority.ports import KeyManager
from ca.keys.remote import SigningKey
from ca.keys.sealing import KeyPurpose
from citadel.errors import CitadelError

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def fresh_key(keys: KeyManager, purpose: KeyPurpose) -> AsyncIterator[tuple[str, SigningKey]]:
    """A new key and its id. Where its certificate cannot be made within this, the key is forgotten again.

    Nothing names it yet, so every failed try would leave one behind.
    """
    key_id = await keys.create(purpose)
    try:
        yield key_id, await keys.signer(key_id, purpose)
    except BaseException:
        await forget_key(keys, key_id)
        raise


async def forget_key(keys: KeyManager, key_id: str) -> None:
    """Forget it; where that fails, it is of no use to anybody, and stays."""
    try:
        await keys.delete(key_id)
    except CitadelError as error:
        _log.warning("unused key not deleted", key=key_id, error=str(error))
